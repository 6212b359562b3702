"""A picture -> a sticker as messengers take it: transparent, outlined in white, 512 pixels, WebP."""

import io

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from stablediff.errors import RequestError

SIDE = 512
MAX_BYTES = 512 * 1024
_OUTLINE = 10  # pixels
_CLOSE = 24  # how far a colour may be from the corner's, to be background


def to_sticker(image: Image.Image) -> Image.Image:
    """RGBA, 512x512. What is not transparent yet is cut out along the border's colour. Raises RequestError."""
    figure = image.convert("RGBA")
    if figure.getchannel("A").getextrema()[0] == 255:
        figure.putalpha(_cut_out(figure.convert("RGB")))
    alpha = figure.getchannel("A")
    box = alpha.point(lambda value: 255 * (value > 24)).getbbox()
    if box is None:
        raise RequestError("the picture is empty or of one colour: there is nothing to make a sticker of")
    figure = figure.crop(box)
    scale = (SIDE - 2 * _OUTLINE - 4) / max(figure.size)
    size = (max(round(figure.width * scale), 1), max(round(figure.height * scale), 1))
    figure = figure.resize(size, Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (SIDE, SIDE))
    page.paste(figure, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    edge = _grow(page.getchannel("A").point(lambda value: 255 * (value > 96)))
    white = Image.new("RGBA", page.size, "white")
    white.putalpha(edge)
    return Image.alpha_composite(white, page)


def _cut_out(image: Image.Image) -> Image.Image:
    """Alpha: what can be reached from the border through its own colour is background."""
    ringed = Image.new("RGB", (image.width + 2, image.height + 2), image.getpixel((0, 0)))
    ringed.paste(image, (1, 1))
    marked = ringed.copy()
    mark = next(c for c in ((255, 0, 254), (1, 255, 2)) if c != image.getpixel((0, 0)))
    ImageDraw.floodfill(marked, (0, 0), mark, thresh=_CLOSE)
    different = ImageChops.difference(marked, Image.new("RGB", marked.size, mark)).convert("L")
    alpha = different.point(lambda value: 255 * (value > 0)).crop((1, 1, image.width + 1, image.height + 1))
    return alpha.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(0.7))  # without the mixed edge


def _grow(mask: Image.Image) -> Image.Image:
    """The mask and a rim about it, with a soft edge."""
    for _ in range(_OUTLINE // 2):
        mask = mask.filter(ImageFilter.MaxFilter(3))
    return mask.filter(ImageFilter.GaussianBlur(_OUTLINE / 2)).point(lambda value: min(255, value * 5))


def webp_bytes(sticker: Image.Image) -> bytes:
    """At most 512 KB: lossless if that fits, else as good as fits."""
    for quality in (None, 95, 85, 70, 50):
        buffer = io.BytesIO()
        sticker.save(buffer, format="WEBP", method=4, lossless=quality is None, quality=quality or 80)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()
