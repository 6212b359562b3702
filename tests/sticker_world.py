"""A domain of seven shapes in two styles, laid out as `train data` lays out icons, and who knows it by heart."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage
from torch import Tensor

from stablediff.evaluation.artists import Drawn
from stablediff.evaluation.judge.network import Judge, JudgeConfig, Reading
from stablediff.evaluation.prompts import Prompt, World
from stablediff.evaluation.scoring import real_answers
from stablediff.training.data.colours import COLOURS
from stablediff.training.data.icons import PIXELS, RECORDS, Icon, Icons
from stablediff.training.data.scenes import paint
from stablediff.training.data.split import Split, read_split

STYLES = ("flat", "soft")
THINGS = ("disc", "ring", "box", "bar", "cross", "frame", "plate")
_OWN = {"disc": (220, 40, 40), "ring": (40, 90, 220), "box": (60, 170, 70), "bar": (245, 200, 60)}
_NAMES = {"disc": "red", "ring": "blue", "box": "green", "bar": "yellow"}


def _mask(thing: str, side: int = 64) -> NDArray[np.bool_]:
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    radius, square = np.hypot(x, y), np.maximum(abs(x), abs(y))
    return {
        "disc": radius < 0.45,
        "ring": abs(radius - 0.35) < 0.09,
        "box": square < 0.4,
        "bar": (abs(x) < 0.14) & (abs(y) < 0.45),
        "cross": (np.minimum(abs(x), abs(y)) < 0.12) & (square < 0.45),
        "frame": abs(square - 0.34) < 0.08,
        "plate": (abs(y) < 0.14) & (abs(x) < 0.45),
    }[thing]


def _picture(thing: str, style: str) -> NDArray[np.uint8]:
    """Flat is one colour, soft has stripes. (512,512,4)"""
    picture = np.zeros((64, 64, 4), np.uint8)
    light = np.where(np.arange(64) % 8 < 4, 1.0, 0.72 if style == "soft" else 1.0)[:, None, None]
    picture[..., :3] = np.array(_OWN.get(thing, (150, 80, 190))) * light
    picture[..., 3] = 255 * _mask(thing)
    return picture.repeat(8, axis=0).repeat(8, axis=1)


def make_data(folder: Path) -> Path:
    """Icons, records and a split that holds out some of everything."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(thing, style) for style in STYLES for thing in THINGS]
    np.save(folder / PIXELS, np.stack([_picture(*pair) for pair in pairs]))
    records = [
        Icon(i, f"toy/{thing}", style, thing, "objects", {"en": (thing,)}, (_NAMES.get(thing, "purple"),))
        for i, (thing, style) in enumerate(pairs)
    ]
    (folder / RECORDS).write_text("".join(record.to_json() + "\n" for record in records))
    held_out = Split(
        0,
        styles=frozenset({("cross", "soft"), ("bar", "flat")}),
        colours=frozenset({("disc", "green"), ("box", "orange"), ("ring", "pink")}),
        names=frozenset(),
        templates=frozenset(),
    )
    held_out.write(folder / "split.json")
    return folder


def world_of(folder: Path) -> World:
    return World(Icons(folder), read_split(folder / "split.json"), THINGS, STYLES)


class Draughtsman:
    """Draws what is asked for, from the scenes of the prompts; `spoil` breaks the pictures, `order` the prompts."""

    def __init__(
        self,
        world: World,
        prompts: Sequence[Prompt],
        folder: Path,
        spoil: Callable[[Image.Image], Image.Image] = lambda picture: picture,
        order: Callable[[int], int] = lambda i: i,
        name: str = "draughtsman",
    ) -> None:
        self.world, self.folder, self.spoil, self.order, self.name = world, folder, spoil, order, name
        self.prompts = list(prompts)
        self.numbers = {prompt.text: i for i, prompt in reversed(list(enumerate(self.prompts)))}

    def draw(self, prompt: str, seeds: Sequence[int]) -> list[Drawn]:
        number = self.order(self.numbers[prompt])
        drawn = []
        for seed in seeds:
            path = self.folder / f"{self.name}-{number}-{seed}.png"
            if not path.exists():
                path.parent.mkdir(exist_ok=True, parents=True)
                (picture,) = real_answers([self.prompts[number]], self.world.icons, 1, seed=100 + seed)
                self.spoil(picture).save(path)
            drawn.append(Drawn(path, 0.01))
        return drawn


class Oracle(Judge):
    """A judge that measures instead of having learnt: shapes by their proportions, colours by distance."""

    def __init__(self) -> None:
        super().__init__(JudgeConfig(THINGS, STYLES, (8, 8, 8)))
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Reading:
        batch = len(pixels)
        presence, things = torch.full((batch, 8, 8), -9.0), torch.zeros(batch, len(THINGS), 8, 8)
        colours, style = torch.zeros(batch, len(COLOURS), 8, 8), torch.zeros(batch, len(STYLES))
        background = torch.zeros(batch, len(COLOURS) + 1)
        palette = np.array([paint(name) for name in COLOURS], np.float64)
        for i, picture in enumerate(((pixels.permute(0, 2, 3, 1).numpy() + 1) * 127.5).astype(np.float64)):
            rgb, ground = picture[..., :3], picture[0, 0]
            clear = ground[3] < 128
            background[i, -1 if clear else np.linalg.norm(palette - ground[:3], axis=1).argmin()] = 9
            shown = picture[..., 3] > 128 if clear else np.abs(rgb - ground[:3]).sum(axis=2) > 60
            labels, _ = ndimage.label(shown)
            for number, box in enumerate(ndimage.find_objects(labels), start=1):
                part = labels[box] == number
                if part.sum() < 60:
                    continue
                lit = np.median(
                    rgb[box][part & (rgb[box].sum(axis=2) >= np.median(rgb[box][part].sum(axis=1)))], axis=0
                )
                row, column = ((edge.start + edge.stop) / 32 for edge in box)
                cell = min(int(row), 7), min(int(column), 7)
                presence[(i, *cell)] = 9
                things[(i, THINGS.index(_name(part)), *cell)] = 9
                colours[(i, int(np.linalg.norm(palette - lit, axis=1).argmin()), *cell)] = 9
                inside = ndimage.binary_erosion(part, iterations=2)
                style[i, int(inside.any() and rgb[box][inside].mean(axis=1).std() > 8)] += 1
        steep = F.pad(pixels[..., 1:] - pixels[..., :-1], (0, 1)).square()  # which blur lowers
        features = torch.cat([F.avg_pool2d(pixels, 16).flatten(1), 30 * F.avg_pool2d(steep, 16).flatten(1)], dim=1)
        return Reading(presence, things, colours, style, background, features)


def _name(part: NDArray[np.bool_]) -> str:
    """The shape that fills its box so."""
    height, width = part.shape
    if height > 1.7 * width or width > 1.7 * height:
        return "bar" if height > width else "plate"
    corner = part[: max(height // 10, 1), : max(width // 10, 1)].mean() > 0.5
    if not part[height // 2, width // 2]:
        return "frame" if corner else "ring"
    if corner:
        return "box"
    return "disc" if part.mean() > 0.65 else "cross"


def blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(picture.width / 20))
