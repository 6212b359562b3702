"""Random crops of pictures, as an autoencoder sees them."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_HALVED = 0.3  # how often a crop shows twice as much, at half the size
_BACKGROUND = 0.1  # how often a picture stands on a colour
_PERMUTED = 0.1  # how often its colours are exchanged


class Crops:
    """`picture(i)` gives picture i of `count`: (H,W,3 or 4) uint8, straight alpha.

    `block(i)` is the side of the blocks that it is made of, in pixels. They are never cut: in a whole picture they lie
    on the grid of the latents' cells, and can be drawn sharply only by who may rely on that.
    """

    def __init__(
        self,
        picture: Callable[[int], NDArray[np.uint8]],
        count: int,
        channels: int,
        block: Callable[[int], int] = lambda _: 1,
    ) -> None:
        self.picture, self.count, self.channels, self.block = picture, count, channels, block

    def draw(self, stream: np.random.Generator, side: int) -> Tensor:
        """A crop of a random picture, perhaps mirrored: (C,side,side) in [-1, 1]."""
        index = int(stream.integers(self.count))
        picture, step = self.picture(index), self.block(index)
        height, width = picture.shape[:2]
        wide = 2 * side if stream.random() < _HALVED and min(height, width) >= 2 * side else side
        wide = min(wide, height, width)
        for _ in range(3):  # mostly not of the clear margin
            top, left = (step * int(stream.integers((length - wide) // step + 1)) for length in (height, width))
            crop = picture[top : top + wide, left : left + wide]
            if crop.shape[2] == 3 or crop[::8, ::8, 3].any():
                break
        if stream.random() < _PERMUTED:
            crop = crop[..., [*stream.permutation(3), *range(3, crop.shape[2])]]
        if stream.random() < _BACKGROUND and crop.shape[2] == 4:
            crop = _on_colour(crop, stream.integers(0, 256, 3))
        if stream.random() < 0.5:
            crop = crop[:, ::-1]
        pixels = to_model(crop, self.channels)
        if wide != side:
            pixels = F.interpolate(pixels[None], size=(side, side), mode="area")[0]
        return pixels


def to_model(picture: NDArray[np.uint8], channels: int) -> Tensor:
    """(H,W,3 or 4) uint8 -> (C,H,W) in [-1, 1]: RGB over white, and alpha if the autoencoder has four channels."""
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255
    if len(values) == 4:
        alpha = values[3:]
        values = torch.cat([values[:3] * alpha + (1 - alpha), alpha])
    elif channels == 4:
        values = torch.cat([values, torch.ones_like(values[:1])])
    return values[:channels] * 2 - 1


def _on_colour(crop: NDArray[np.uint8], colour: NDArray[np.int64]) -> NDArray[np.uint8]:
    alpha = crop[..., 3:].astype(np.float32) / 255
    mixed = crop[..., :3] * alpha + colour.astype(np.float32) * (1 - alpha)
    opaque = np.full_like(crop[..., 3:], 255)
    return np.concatenate([mixed.round().astype(np.uint8), opaque], axis=2)
