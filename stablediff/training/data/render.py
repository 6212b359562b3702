"""SVG icons -> pixels."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stablediff.errors import DataError

SIZE = 512  # pixels, of the cached pictures


def check_renderer() -> None:
    """Raises DataError where resvg-py is not installed."""
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise DataError("resvg-py is needed to render icons: run make train") from error


def to_svg(icons: Mapping[str, Any], name: str) -> str:
    """One icon of a set (its icons.json), an alias or not, as a whole SVG with a square canvas."""
    turns = 0
    aliases = icons.get("aliases", {})
    flip_x = flip_y = False
    while name in aliases:
        alias = aliases[name]
        flip_x ^= alias.get("hFlip", False)
        flip_y ^= alias.get("vFlip", False)
        turns += alias.get("rotate", 0)
        name = alias["parent"]
    icon = icons["icons"][name]
    box = {key: icon.get(key, icons.get(key, default)) for key, default in _BOX.items()}
    middle_x, middle_y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2
    side = max(box["width"], box["height"])
    flips = f"scale({-1 if flip_x else 1} {-1 if flip_y else 1})"
    move = f"translate({middle_x} {middle_y}) rotate({90 * turns % 360}) {flips} translate({-middle_x} {-middle_y})"
    body = f'<g transform="{move}">{icon["body"]}</g>' if flip_x or flip_y or turns % 4 else icon["body"]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{middle_x - side / 2} {middle_y - side / 2} {side} {side}" width="{side}" height="{side}">'
        f"{body}</svg>"
    )


_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}  # the defaults of the format


def render(svg: str, size: int = SIZE) -> NDArray[np.uint8]:
    """-> (size, size, 4), RGB and straight alpha. Raises DataError for what is no SVG."""
    import resvg_py

    try:
        data = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    except ValueError as error:
        raise DataError(
            f"an icon cannot be rendered ({error}): delete the packages in the data folder and run this again"
        ) from error
    with Image.open(io.BytesIO(bytes(data))) as image:
        return np.asarray(image.convert("RGBA").resize((size, size)))
