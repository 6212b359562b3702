"""Pictures that any other engine drew for the same prompts and seeds."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from stablediff.errors import EvaluationError
from stablediff.evaluation.artists import Drawn

WISHES, PICTURES = "wishes.jsonl", "pictures.jsonl"
_REMEDY = "get it again from the program that drew it, or leave this --drawn away"


class FolderArtist:
    """A folder with `pictures.jsonl`: lines {"prompt": …, "seed": …, "file": …, "seconds": …}, the last optional."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._found: dict[tuple[str, int], Drawn] = {}
        path, number = folder / PICTURES, 0
        try:
            # Not splitlines(): in JSON, U+2028 and its like may stand within a line.
            for line in path.read_text(encoding="utf-8-sig").split("\n"):
                number += 1
                if not line.strip():
                    continue
                entry = json.loads(line)
                drawn = Drawn(folder / entry["file"], float(entry.get("seconds", 0)), _REMEDY)
                if not 0 <= drawn.seconds < math.inf:
                    raise ValueError(f"seconds are {drawn.seconds}")
                self._found[str(entry["prompt"]), int(entry["seed"])] = drawn
        except FileNotFoundError as error:
            raise EvaluationError(
                f'there is no {path}: write a line {{"prompt": …, "seed": …, "file": …}} into it for each of {WISHES}'
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise EvaluationError(
                f"{path} cannot be read in line {number} ({error!r}): write it anew from {WISHES}"
            ) from error

    def check(self, prompts: Iterable[str], seeds: Sequence[int]) -> None:
        """Raises EvaluationError if a picture is missing, before anything is drawn."""
        wanted = [(prompt, seed) for prompt in prompts for seed in seeds]
        missing = [one for one in wanted if one not in self._found or not self._found[one].path.is_file()]
        if missing:
            prompt, seed = missing[0]
            raise EvaluationError(
                f"{self.name} lacks {len(missing)} of {len(wanted)} pictures, first {prompt!r} with seed {seed}: draw "
                f"those that {WISHES} lists"
            )

    def draw(self, prompt: str, seeds: Sequence[int]) -> list[Drawn]:
        self.check([prompt], seeds)
        return [self._found[prompt, seed] for seed in seeds]


def write_wishes(folder: Path, prompts: Iterable[str], seeds: Sequence[int]) -> Path:
    """Writes what another engine has to draw, a line {"prompt": …, "seed": …} each."""
    path = folder / WISHES
    lines = [json.dumps({"prompt": prompt, "seed": seed}, ensure_ascii=False) for prompt in prompts for seed in seeds]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
