"""Who answers prompts: a model through `generate`, or the training pictures themselves, looked up by caption."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from stablediff.errors import EvaluationError, RequestError
from stablediff.generate import generate
from stablediff.images import open_image
from stablediff.pipeline import Pipeline
from stablediff.request import Request
from stablediff.result import Result

_LOG = "seconds.jsonl"


@dataclass(frozen=True)
class Settings:
    """How a model draws; what is None is left to the model."""

    num_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None


@dataclass(frozen=True)
class Drawn:
    """A picture on this disk, and the seconds that it took (0 where nobody knows any more).

    `remedy` says what to do if it is damaged; what is ours is drawn anew.
    """

    path: Path
    seconds: float
    remedy: str = ""

    def open(self) -> Image.Image:
        """Raises EvaluationError if it is damaged."""
        try:
            return open_image(self.path)
        except RequestError as error:
            remedy = self.remedy or f"delete {self.path}, and run this again: it is drawn anew"
            raise EvaluationError(f"{error}; {remedy}") from error


class Artist(Protocol):
    """Draws one picture for each (prompt, seed), in their order."""

    name: str

    def draw(self, prompt: str, seeds: Sequence[int]) -> list[Drawn]: ...


class ModelArtist:
    """Draws with the one shared function, and keeps every picture in `folder`: the same wish is drawn once."""

    def __init__(self, pipeline: Pipeline, folder: Path, settings: Settings | None = None, name: str = "") -> None:
        self.pipeline, self.folder, self.settings = pipeline, folder, settings or Settings()
        self.name = name or pipeline.name
        compute = pipeline.compute  # seconds are of a device, and pictures differ a little between precisions
        self._mark = f"{pipeline.fingerprint()[:16]} {compute.device.type} {compute.name}"
        self._seconds = _read_log(folder / _LOG)

    def draw(self, prompt: str, seeds: Sequence[int]) -> list[Drawn]:
        paths = [self._path(prompt, seed) for seed in seeds]
        for first, count in _runs([s for s, path in zip(seeds, paths, strict=True) if not path.is_file()]):
            self._draw(prompt, first, count)
        return [Drawn(path, self._seconds.get(path.name, 0.0)) for path in paths]

    def _draw(self, prompt: str, first: int, count: int) -> None:
        """Pictures of `count` seeds from `first` on, written down one by one."""
        *_, result = generate(
            self.pipeline, Request(prompt=prompt, seed=first, num_images=count, **asdict(self.settings))
        )
        assert isinstance(result, Result)
        each = result.seconds["total"] / count
        try:
            for index, seed in enumerate(result.seeds):
                path = self._path(prompt, seed)
                result.save(path, index)
                self._seconds[path.name] = each
                with (self.folder / _LOG).open("a", encoding="utf-8") as log:
                    log.write(json.dumps({"file": path.name, "seconds": round(each, 4)}) + "\n")
        except OSError as error:
            raise EvaluationError(
                f"cannot keep pictures in {self.folder} ({error.strerror or error}): free some space and run this "
                "again; those drawn before are kept"
            ) from error

    def _path(self, prompt: str, seed: int) -> Path:
        wish = json.dumps([self._mark, asdict(self.settings), prompt, seed])
        slug = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40]
        return self.folder / f"{slug}-{seed}-{hashlib.sha256(wish.encode()).hexdigest()[:12]}.png"


def _runs(seeds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rising seeds -> (first, count) of stretches without a gap, which one request can draw."""
    start = 0
    for i in range(1, len(seeds) + 1):
        if i == len(seeds) or seeds[i] != seeds[i - 1] + 1:
            yield seeds[start], i - start
            start = i


def _read_log(path: Path) -> dict[str, float]:
    """What was broken off in the middle of a line loses that line."""
    seconds: dict[str, float] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return seconds
    for line in lines:
        try:
            entry = json.loads(line)
            seconds[str(entry["file"])] = float(entry["seconds"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return seconds
