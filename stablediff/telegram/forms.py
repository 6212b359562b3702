"""The forms in which Telegram gets a picture: photo, file, sticker. Making them takes time: not in the loop."""

import io
from pathlib import Path

from PIL import Image
from telegram import InputMediaDocument

from stablediff.errors import RequestError
from stablediff.images import over_white
from stablediff.sticker import SIDE, to_sticker, webp_bytes

MAX_PHOTO = 10 * 10**6  # bytes
MAX_SIDES, MAX_RATIO = 10_000, 20
_GLIMPSE_SIDE = 384


def is_photo(file: Path) -> bool:
    """Whether `as_photo` will make one of it, without doing so: over white it is hardly larger."""
    with Image.open(file, formats=("PNG",)) as image:
        return _has_photo_sides(image) and file.stat().st_size <= 0.8 * MAX_PHOTO


def as_photo(file: Path) -> bytes | None:
    """The picture over white as PNG, or None if Telegram would not take it as a photo."""
    with Image.open(file, formats=("PNG",)) as image:
        if not _has_photo_sides(image):
            return None
        buffer = io.BytesIO()
        over_white(image).save(buffer, "PNG")
    return buffer.getvalue() if buffer.tell() <= MAX_PHOTO else None


def _has_photo_sides(image: Image.Image) -> bool:
    return sum(image.size) <= MAX_SIDES and max(image.size) <= MAX_RATIO * min(image.size)


def as_document(file: Path, seed: int, caption: str) -> InputMediaDocument:
    """The file as it is, recipe included."""
    return InputMediaDocument(
        file.read_bytes(), filename=f"stablediff-{seed}.png", caption=caption, disable_content_type_detection=True
    )


def as_sticker(file: Path) -> bytes:
    """WebP."""
    with Image.open(file, formats=("PNG",)) as image:
        image.load()
    try:
        return webp_bytes(to_sticker(image))
    except RequestError:  # there is nothing in it to cut out: it comes as it is, rather than not at all
        return webp_bytes(image.convert("RGBA").resize((SIDE, SIDE)))


def as_glimpse(preview: Image.Image) -> bytes:
    """A small JPEG of what is being drawn."""
    scale = _GLIMPSE_SIDE / max(preview.size)
    size = (max(1, round(preview.width * scale)), max(1, round(preview.height * scale)))
    buffer = io.BytesIO()
    over_white(preview).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
