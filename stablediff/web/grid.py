"""A comparison: two parameters, some values for each, and one picture of all of them, drawn from the same noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw

from stablediff.diffusion.samplers import SAMPLERS
from stablediff.errors import RequestError
from stablediff.images import over_white
from stablediff.insight.film import letters
from stablediff.request import Request, parse_size

NOTHING = "nothing"
# What an axis can be: the request's field, and how its values are written.
AXES: dict[str, type] = {
    "prompt": str,
    "negative_prompt": str,
    "num_steps": int,
    "guidance_scale": float,
    "guidance_rescale": float,
    "sampler": str,
    "spacing": str,
    "seed": int,
    "size": str,
}
_EDGE = 8  # pixels
_MOST_LETTERS = 100_000  # of all values of an axis


@dataclass(frozen=True)
class Axis:
    """`values` as they were written, and what they mean to a request."""

    name: str
    values: tuple[str, ...]

    def apply(self, request: Request, value: str) -> Request:
        """Raises RequestError."""
        if self.name == NOTHING:
            return request
        if self.name == "size":
            width, height = parse_size(value)
            return replace(request, width=width, height=height)
        if self.name == "sampler":
            by_label = {entry.label.lower(): name for name, entry in SAMPLERS.items()}
            return replace(request, sampler=by_label.get(value.lower(), value))
        changed: Any = value
        if AXES[self.name] is not str:
            try:
                changed = AXES[self.name](value.replace(",", "."))
            except ValueError as error:
                raise RequestError(f"{self.name} is {value[:40]!r}: write numbers with commas between them") from error
        return replace(request, **{self.name: changed})


def read_axis(name: Any, words: Any) -> Axis:
    """Values with commas (or semicolons, where commas are in the numbers) between them; prompts, which have commas,
    with a line for each. Raises RequestError."""
    name, words = str(name), str(words or "")
    if name == NOTHING:
        return Axis(name, ("",))
    if name not in AXES:
        raise RequestError(f"axis {name[:40]!r} is not known: choose one of {', '.join(AXES)}")
    if len(words) > _MOST_LETTERS:
        raise RequestError(
            f"{name} has {len(words):,} characters: shorten it to at most {_MOST_LETTERS:,} (of all values)"
        )
    if name in ("prompt", "negative_prompt"):
        parts = words.splitlines()
    else:
        parts = words.replace("\n", ";").split(";") if ";" in words or "\n" in words.strip() else words.split(",")
    values = tuple(part.strip() for part in parts if part.strip())
    if not values:
        raise RequestError(f"{name} has no values to compare: write some")
    return Axis(name, values)


def cells(request: Request, across: Axis, down: Axis) -> list[Request]:
    """The requests of the grid, row by row, all of one picture and (unless it is an axis) of one seed."""
    if across.name == down.name and across.name != NOTHING:
        raise RequestError("both axes are the same: choose another one for the second")
    request = replace(request, num_images=1)
    return [across.apply(down.apply(request, row), column) for row in down.values for column in across.values]


def sheet(
    pictures: Sequence[Image.Image], across: Axis, down: Axis, say: Callable[[str], str] = lambda name: name
) -> Image.Image:
    """One picture with a line of words above each column and beside each row. `say` gives an axis' name in words."""
    columns = len(across.values)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    # A wide page is shown as small as a narrow one, and its words with it.
    height_of_words = max(12, width // 22, width * min(columns, 4) // 45)
    font = letters(height_of_words)
    left = _EDGE if down.name == NOTHING else min(8 * height_of_words, width // 2) + 2 * _EDGE
    top = _EDGE if across.name == NOTHING else height_of_words + 3 * _EDGE
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (left + columns * (width + _EDGE), top + rows * (height + _EDGE)), "white")
    pen = ImageDraw.Draw(page)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        page.paste(over_white(picture), (left + column * (width + _EDGE), top + row * (height + _EDGE)))
    if across.name != NOTHING:
        for column, value in enumerate(across.values):
            words = _fit(f"{say(across.name)}: {value}", width, font)
            pen.text((left + column * (width + _EDGE), _EDGE), words, fill="black", font=font)
    if down.name != NOTHING:
        for row, value in enumerate(down.values[:rows]):
            lines = [_fit(say(down.name), left - 2 * _EDGE, font), *_wrap(value, left - 2 * _EDGE, font)]
            middle = top + row * (height + _EDGE) + height // 2
            pen.text((_EDGE, middle), "\n".join(lines), fill="black", font=font, anchor="lm")
    return page


def _fit(words: str, width: int, font: Any) -> str:
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"


def _wrap(words: str, width: int, font: Any, most: int = 6) -> list[str]:
    """Lines that fit; what is beyond the last one is left out."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_fit(line, width, font) for line in lines]
