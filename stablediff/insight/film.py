"""A recorded run as a moving picture: what the network saw at every step beside what it believed."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from stablediff.images import fit_image, over_white
from stablediff.insight.recorder import Moment

_FONT = Path(__file__).parent.parent / "assets" / "font" / "DejaVuSans.ttf"
_SECONDS = 8.0  # that the whole film takes, about
_LAST = 2.5  # seconds that the finished picture stands
_EDGE = 8  # pixels


def letters(size: int) -> ImageFont.FreeTypeFont:
    """Latin, Greek and Cyrillic, the same on every machine."""
    return ImageFont.truetype(_FONT, size)


def chosen(moments: Sequence[Moment], most: int) -> list[Moment]:
    """At most so many of them, evenly spread, with the first and the last."""
    if len(moments) <= most:
        return list(moments)
    return [moments[round(number * (len(moments) - 1) / (most - 1))] for number in range(most)]


def animate(moments: Sequence[Moment], picture: Image.Image, side: int = 320, most: int = 48) -> bytes:
    """A GIF, which every program for slides plays: x_t on the left, x_0 on the right, and at its end the picture."""
    shown = chosen(moments, most)
    frames = [_frame(moment.seen, moment.believed, _caption(moment, len(moments)), side) for moment in shown]
    frames.append(_frame(picture, picture, f"{len(moments)} / {len(moments)}", side))
    each = min(max(_SECONDS / len(shown), 0.1), 0.8)
    times = [round(100 * each) * 10] * len(shown) + [round(_LAST * 1000)]  # GIF counts hundredths of a second
    buffer = io.BytesIO()
    colours = [frame.quantize(128, dither=Image.Dither.NONE) for frame in frames]
    colours[0].save(buffer, "GIF", save_all=True, append_images=colours[1:], duration=times, loop=0, optimize=False)
    return buffer.getvalue()


def _caption(moment: Moment, steps: int) -> str:
    return f"{moment.index + 1} / {steps}    σ = {moment.sigma:.3g}"


def _frame(seen: Image.Image, believed: Image.Image, caption: str, side: int) -> Image.Image:
    width, height = _fit(seen, side)
    size = (2 * width + 3 * _EDGE, height + 44)
    frame = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(frame), letters(15)
    for left, name, picture in ((_EDGE, "x_t", seen), (width + 2 * _EDGE, "x_0", believed)):
        pen.text((left, 2), name, fill="black", font=font)
        frame.paste(_scale(picture, width, height), (left, 22))
    pen.text((_EDGE, height + 24), caption, fill="black", font=font)
    return frame


def _fit(picture: Image.Image, side: int) -> tuple[int, int]:
    scale = side / max(picture.size)
    return round(picture.width * scale), round(picture.height * scale)


def _scale(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Small pictures keep their cells; large ones are made smaller."""
    if picture.width > width:
        return fit_image(over_white(picture), width, height)
    return over_white(picture).resize((width, height), Image.Resampling.NEAREST)
