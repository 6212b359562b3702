"""Contact sheets: many pictures in one, over a chequered ground where they are clear."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

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
