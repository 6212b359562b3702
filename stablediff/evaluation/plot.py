"""A scatter plot with a front, drawn with Pillow alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 560, 70, 30, 30, 60
_COLOURS = ("#1f6fb4", "#d1571f", "#2a8c4a", "#7a4fb0", "#a0522d", "#c2185b", "#00838f", "#616161", "#9e9d24")


@dataclass(frozen=True)
class Point:
    """A setting: what it costs, what it is worth (0 to 1), its group and its label."""

    cost: float
    worth: float
    group: str
    label: str


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those that nothing else beats: cheaper or as cheap, and better. By rising cost."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.worth)):
        if not front or point.worth > front[-1].worth:
            front.append(point)
    return front


def scatter(points: Sequence[Point], across: str, up: str) -> Image.Image:
    """Cost to the right, on a logarithmic axis; worth upwards in per cent; the front as a line with labels."""
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    low = math.log(min(point.cost for point in points) / 1.15)
    high = math.log(max(point.cost for point in points) * 1.25)
    top = min(1.0, max(point.worth for point in points) * 1.1 + 0.02)

    def place(cost: float, worth: float) -> tuple[float, float]:
        x = _LEFT + (math.log(cost) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - worth / top * (_HEIGHT - _TOP - _BOTTOM)

    for i in range(6):
        worth, cost = top * i / 5, math.exp(low + (high - low) * i / 5)
        (_, y), (x, _) = place(math.exp(low), worth), place(cost, 0)
        draw.line((_LEFT, y, _WIDTH - _RIGHT, y), fill="#e4e4e4")
        draw.text((_LEFT - 8, y), f"{100 * worth:.0f} %", fill="black", font=font, anchor="rm")
        draw.text((x, _HEIGHT - _BOTTOM + 8), f"{cost:.2g}", fill="black", font=font, anchor="mt")
    draw.text((_WIDTH / 2, _HEIGHT - 14), across, fill="black", font=font, anchor="mm")
    draw.text((_LEFT, 8), up, fill="black", font=font)
    front = pareto_front(points)
    draw.line([place(point.cost, point.worth) for point in front], fill="#888888", width=2)
    groups = list(dict.fromkeys(point.group for point in points))
    for point in points:
        x, y = place(point.cost, point.worth)
        colour = _COLOURS[groups.index(point.group) % len(_COLOURS)]
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
        if point in front:
            far = x > 0.7 * _WIDTH  # its label would leave the picture
            draw.text(
                (x - 8 if far else x + 8, y + 4), point.label, fill=colour, font=font, anchor="ra" if far else "la"
            )
    for i, group in enumerate(groups):  # above the plot, where no point can be
        x = _WIDTH - 110 * (len(groups) - i)
        draw.rectangle((x, 10, x + 10, 20), fill=_COLOURS[i % len(_COLOURS)])
        draw.text((x + 16, 15), group, fill="black", font=font, anchor="lm")
    return image
