"""What the reports have in common: the model, the judge, what may be asked, and where everything is kept."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from stablediff.errors import EvaluationError, one_line
from stablediff.evaluation.artists import Artist, Drawn, ModelArtist
from stablediff.evaluation.bootstrap import Interval
from stablediff.evaluation.judge.network import Judge
from stablediff.evaluation.prompts import Prompt, World
from stablediff.files import why_unwritable, write_whole
from stablediff.lexicon import split as words_of
from stablediff.pipeline import Pipeline
from stablediff.training.data.icons import Icons
from stablediff.training.data.split import Split

T = TypeVar("T")
SECTIONS = ("prompts", "things", "distribution", "memorisation", "others", "cost", "text", "folder")
REPORT = "report.md"
_MOST_NAMED = 5


@dataclass
class Setting:
    """One evaluation of one model. `seeds` are drawn for each prompt."""

    pipeline: Pipeline
    judge: Judge
    world: World
    prompts: list[Prompt]
    seeds: range
    out: Path
    artist: ModelArtist = field(init=False)

    def __post_init__(self) -> None:
        self.artist = ModelArtist(self.pipeline, self.out / "pictures")


def known_world(
    pipeline: Pipeline, judge: Judge, icons: Icons, split: Split, things: Path | None, styles: Sequence[str]
) -> World:
    """What the judge can tell and the model has learnt: by `things`, else by the model's known.txt, else by its words.

    Raises EvaluationError.
    """
    if strange := sorted(set(styles) - set(judge.config.styles)):
        raise EvaluationError(
            f"the judge does not know the style {strange[0]!r}: choose among {', '.join(judge.config.styles)}"
        )
    listed = things or next((p for p in [pipeline.report.path / "known.txt"] if p.is_file()), None)
    words = pipeline.lexicon.words if pipeline.lexicon else None
    if listed is not None:
        try:
            lines = dict.fromkeys(line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines())
        except (OSError, ValueError) as error:
            raise EvaluationError(f"cannot read {listed} ({error}): give a text file with a thing a line") from error
        known = tuple(thing for thing in judge.config.things if thing in lines)
    else:
        lines = {}
        known = tuple(t for t in judge.config.things if words is None or set(words_of(t)) <= words)
    chosen = tuple(dict.fromkeys(styles)) or tuple(s for s in judge.config.styles if words is None or s in words)
    kept = tuple(thing for thing in known if thing in set(icons.things))
    if not kept or not chosen:
        raise EvaluationError(
            f"of what {pipeline.name} knows, the judge knows {len(kept)} things and {len(chosen)} styles: name some "
            "with --things FILE and --styles, or train a judge for them"
        )
    if things is not None:
        _name_strangers(things, [line for line in lines if line and line not in kept])
    return World(icons, split, kept, chosen)


def _name_strangers(things: Path, strangers: Sequence[str]) -> None:
    """A list may be of more than the icons that are there, but what is not asked for must not go unnoticed."""
    if strangers:
        some = ", ".join(repr(name[:60]) for name in strangers[:_MOST_NAMED])
        more = f" and {len(strangers) - _MOST_NAMED} more" if len(strangers) > _MOST_NAMED else ""
        print(
            one_line(f"of {things} these are left out, for the icons or the judge do not have them: {some}{more}"),
            file=sys.stderr,
        )


def draw_all(artist: Artist, texts: Sequence[str], seeds: Sequence[int], what: str = "") -> tuple[list[Drawn], float]:
    """All seeds of the first prompt, then of the next one. -> pictures, and the seconds that they took to draw."""
    drawn: list[Drawn] = []
    for text in progress(texts, what or f"{artist.name}: drawing", len(seeds)):
        drawn += artist.draw(text, seeds)
    return drawn, sum(one.seconds for one in drawn)


def draw_each(artist: Artist, texts: Sequence[str]) -> list[Drawn]:
    """One picture for each text, with a seed of its own: many pictures from one noise are less than a sample."""
    drawn: list[Drawn] = []
    for seed, text in enumerate(progress(texts, f"{artist.name}: drawing")):
        drawn += artist.draw(text, [seed])
    return drawn


def progress(items: Sequence[T], what: str, each: int = 1) -> Iterator[T]:
    """A bar that counts `each` pictures an item."""
    with tqdm(total=each * len(items), desc=what, unit="picture", disable=None, dynamic_ncols=True) as bar:
        for item in items:
            yield item
            bar.update(each)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raises EvaluationError where nothing can be written."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise EvaluationError(
            f"cannot write to {place} ({why_unwritable(error)}): free some space, or choose another --out"
        ) from error


def write_section(out: Path, name: str, title: str, lines: Iterable[str], figures: dict[str, Any]) -> Path:
    """Writes NAME.json, and puts the report together anew from all sections that are there. -> the report."""
    with writing(out):
        section = {"title": title, "figures": figures, "markdown": list(lines), "written": time.strftime("%Y-%m-%d")}
        write_whole(out / f"{name}.json", (json.dumps(section, ensure_ascii=False, indent=1) + "\n").encode())
        parts = []
        for other in SECTIONS:
            path = out / f"{other}.json"
            if path.is_file():
                try:
                    found = json.loads(path.read_text(encoding="utf-8"))
                    parts.append("\n".join([f"## {found['title']}", "", *found["markdown"]]))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise EvaluationError(f"{path} is no section of a report ({error}): delete it") from error
        write_whole(out / REPORT, ("\n\n".join(["# Evaluation", *parts]) + "\n").encode())
    return out / REPORT


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]


def percent(interval: Interval) -> str:
    return f"{100 * interval.value:.0f} % ({100 * interval.low:.0f} to {100 * interval.high:.0f})"


def as_figures(interval: Interval) -> dict[str, float]:
    return {name: round(value, 5) for name, value in vars(interval).items()}
