"""Contact sheets: many pictures in one, over a chequered ground where they are clear; and what a model draws on one."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from stablediff.errors import ConfigError, RequestError
from stablediff.pace.plan import make_plan
from stablediff.pace.resolve import resolve
from stablediff.pipeline import Pipeline
from stablediff.request import Request

_SQUARE = 8  # pixels of the chequered ground


def contact_sheet(pictures: Sequence[Image.Image], columns: int, side: int = 160) -> Image.Image:
    """Rows of `columns` pictures, each `side` pixels wide."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    draw = ImageDraw.Draw(sheet)
    for y in range(0, sheet.height, _SQUARE):
        for x in range(_SQUARE * (y // _SQUARE % 2), sheet.width, 2 * _SQUARE):
            draw.rectangle((x, y, x + _SQUARE - 1, y + _SQUARE - 1), fill=(224, 224, 224))
    for i, picture in enumerate(pictures):
        tile = picture.convert("RGBA").resize((side, side), Image.Resampling.BOX)
        sheet.paste(tile, (i % columns * side, i // columns * side), tile)
    return sheet


def sheet_requests(prompts: Sequence[str], size: int) -> list[Request]:
    """A picture for each prompt, always from the same seed. Raises ConfigError if there is none of that size."""
    try:
        return [Request(prompt, seed=seed, width=size, height=size) for seed, prompt in enumerate(prompts)]
    except RequestError as error:
        raise ConfigError(f"the sheet cannot draw its prompts at size {size}: {error}") from error


def check_drawable(pipeline: Pipeline, requests: Sequence[Request]) -> None:
    """Raises ConfigError for what the model would refuse only when it draws."""
    for request in requests:
        try:
            make_plan(resolve(request, pipeline, None)[0], pipeline)
        except RequestError as error:
            raise ConfigError(f"the model could not draw {request.prompt[:40]!r} with its defaults: {error}") from error
