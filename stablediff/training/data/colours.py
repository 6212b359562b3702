"""Colours by name: which a picture has, and how to give it another."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float32]

# name -> hue in degrees, saturation, value, as an icon painted in this colour has them in its middle tones.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (356, 0.80, 0.86),
    "orange": (27, 0.90, 0.96),
    "yellow": (47, 0.75, 1.00),
    "green": (118, 0.62, 0.66),
    "teal": (177, 0.75, 0.66),
    "blue": (213, 0.75, 0.92),
    "purple": (272, 0.55, 0.74),
    "pink": (332, 0.48, 0.98),
    "brown": (20, 0.58, 0.48),
    "black": (220, 0.12, 0.17),
    "white": (210, 0.03, 0.95),
    "grey": (210, 0.06, 0.62),
}
_NEUTRAL = ("black", "white", "grey")
_WHEEL = ((17, "red"), (37, "orange"), (69, "yellow"), (160, "green"), (193, "teal"), (253, "blue"), (297, "purple"))
_LEAST_SHARE = 0.12  # of the opaque area, to count as one of a picture's colours
_SEEN = 96  # a colour is told from about this many pixels squared
_CUBE = 25  # points along each axis of the table that recolours


def colours_of(picture: NDArray[np.uint8], most: int = 3) -> tuple[str, ...]:
    """(H,W,4) -> the names of its colours, most area first; none for an empty picture."""
    rgb, names = _classify(picture)
    counts = np.bincount(names, minlength=len(COLOURS))[: len(COLOURS)]
    shares = {name: int(count) / max(len(rgb), 1) for name, count in zip(COLOURS, counts, strict=True)}
    return tuple([n for n in sorted(COLOURS, key=lambda n: -shares[n]) if shares[n] >= _LEAST_SHARE][:most])


def recolour(picture: NDArray[np.uint8], colour: str) -> NDArray[np.uint8]:
    """(H,W,4) -> the same with its dominant colour changed into `colour`; other colours and the shading stay."""
    rgb, names = _classify(picture)
    if not len(rgb):
        return picture
    dominant = np.bincount(names).argmax()
    table = _table(_middle(rgb[names == dominant]), COLOURS[colour])
    image = Image.fromarray(picture[..., :3]).filter(table)
    return np.dstack([np.asarray(image), picture[..., 3]])


def painting_of(colour: str) -> str:
    """Changes when what `recolour` makes of pictures does, so that nothing made of former ones is taken for new."""
    value, hue = np.meshgrid(*[np.arange(0, 256, 4, dtype=np.uint8)] * 2)
    sample = np.dstack([value, hue // 2, 255 - value, np.full_like(value, 255)])
    return hashlib.blake2b(recolour(sample, colour).tobytes(), digest_size=4).hexdigest()


def _classify(picture: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.int64]]:
    """-> a sample of the opaque pixels (N,3) in [0, 1], and for each its place in COLOURS (one more: no name)."""
    step = max(min(picture.shape[:2]) // _SEEN, 1)
    sample = picture[step // 2 :: step, step // 2 :: step].reshape(-1, 4)
    rgb = (sample[sample[:, 3] > 127, :3] / 255).astype(np.float32)
    hue, saturation, value = to_hsv(rgb)
    names = np.full(len(rgb), len(COLOURS), dtype=np.int64)
    order = list(COLOURS)
    low = -15.0
    turned = np.where(hue > 345, hue - 360, hue)
    for high, name in (*_WHEEL, (345, "pink")):
        names[(turned >= low) & (turned < high)] = order.index(name)
        low = high
    dull = (value < 0.8) & (value * saturation < 0.6) | (saturation < 0.62) & (value < 0.93)
    names[(turned >= 4) & (turned < 45) & dull] = order.index("brown")
    names[(turned < 12) & (saturation < 0.6) & (value > 0.8)] = order.index("pink")
    names[(turned >= 12) & (turned < 45) & (saturation < 0.5) & (value >= 0.93)] = len(COLOURS)  # skin
    pale = (saturation < 0.13) | (saturation < 0.24) & (turned > 150) & (turned < 270) | (value * saturation < 0.07)
    names[pale] = order.index("grey")
    names[pale & (value > 0.8)] = order.index("white")
    names[(value < 0.2) | pale & (value < 0.32) | (value < 0.32) & (saturation < 0.35)] = order.index("black")
    return rgb, names


def to_hsv(rgb: Floats) -> tuple[Floats, Floats, Floats]:
    """(...,3) in [0, 1] -> hue in [0, 360), saturation and value in [0, 1]."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    safe = np.maximum(chroma, 1e-6)
    sector = np.where(
        value == red,
        ((green - blue) / safe) % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    saturation = chroma / np.maximum(value, 1e-6)
    return (60 * sector).astype(np.float32), saturation.astype(np.float32), value.astype(np.float32)


def to_rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """The way back: (...) three times -> (...,3)."""
    shift = np.array([5, 3, 1], dtype=np.float32)
    place = (shift + hue[..., None] / 60) % 6
    ramp = np.clip(np.minimum(place, 4 - place), 0, 1)
    return (value[..., None] * (1 - saturation[..., None] * ramp)).astype(np.float32)


def _middle(rgb: Floats) -> tuple[float, float, float]:
    hue, saturation, value = to_hsv(rgb)
    angle = np.deg2rad(hue)
    mean = np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360
    return float(mean), float(np.median(saturation)), float(np.median(value))


def _table(old: tuple[float, float, float], new: tuple[float, float, float]) -> ImageFilter.Color3DLUT:
    """Where every colour goes when `old` goes to `new` (hue, saturation, value) and what is unlike `old` stays."""
    axis = np.linspace(0, 1, _CUBE, dtype=np.float32)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")  # red changes fastest
    rgb = np.stack([red, green, blue], -1)
    hue, saturation, value = to_hsv(rgb)
    turn = (hue - old[0] + 180) % 360 - 180
    chroma = saturation * value
    if old[1] < 0.15:  # grey: there is no hue to go by, but how bright it is
        likeness = _fade(chroma, 0.15, 0.3) * _fade(np.abs(value - old[2]), 0.35, 0.6)
        new_hue = np.full_like(hue, new[0])
        new_saturation = np.full_like(saturation, new[1])
    else:
        likeness = (1 - _fade(chroma, 0.04, 0.15)) * _fade(np.abs(turn), 38, 62)
        new_hue = (new[0] + 0.4 * turn) % 360
        new_saturation = _through(saturation, old[1], new[1])
    slope = np.clip(new[2] / max(old[2], 1e-3), 0.35, 1.3)
    new_value = np.clip(new[2] + (value - old[2]) * slope, 0, 1)
    changed = to_rgb(new_hue, np.clip(new_saturation, 0, 1), new_value)
    mixed = rgb + (changed - rgb) * likeness[..., None]
    return ImageFilter.Color3DLUT(_CUBE, mixed.reshape(-1))


def _through(x: Floats, old: float, new: float) -> Floats:
    """Two straight lines from 0 over (old, new), the second with the slope that ends at 1 but never a steep one."""
    upper = min((1 - new) / max(1 - old, 0.05), 1.0)
    return np.where(x < old, x * (new / old), new + (x - old) * upper).astype(np.float32)


def _fade(x: Floats, start: float, end: float) -> Floats:
    """1 up to `start`, 0 from `end`, smooth in between."""
    part = np.clip((x - start) / (end - start), 0, 1)
    return (1 - part * part * (3 - 2 * part)).astype(np.float32)
