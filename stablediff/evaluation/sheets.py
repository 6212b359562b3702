"""Pictures of the report: rows of pictures with a line of text before each."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from stablediff.evaluation.setting import writing
from stablediff.training.sheets import contact_sheet

_LABEL, _SIZE = 190, 12  # pixels: the width of the text, the height of its letters


def labelled_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int = 112) -> Image.Image:
    """A row each: its text, and its pictures, `side` pixels wide."""
    columns = max((len(pictures) for _, pictures in rows), default=1)
    sheet = Image.new("RGB", (_LABEL + columns * side, max(len(rows), 1) * side), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SIZE)
    for i, (text, pictures) in enumerate(rows):
        sheet.paste(contact_sheet(pictures, columns, side), (_LABEL, i * side))
        draw.multiline_text((6, i * side + 8), _wrapped(text, draw, font), fill="black", font=font)
    return sheet


def _wrapped(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    lines = [""]
    for word in text.replace("\n", " \n ").split(" "):
        longer = f"{lines[-1]} {word}".strip(" ")
        if word == "\n":
            lines.append("")
        elif draw.textlength(longer, font=font) <= _LABEL - 12 or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def save_sheet(sheet: Image.Image, out: Path, name: str) -> str:
    """-> the line of Markdown that shows it."""
    with writing(out):
        sheet.save(out / f"{name}.png", optimize=True)
    return f"![{name.replace('-', ' ')}]({name}.png)"
