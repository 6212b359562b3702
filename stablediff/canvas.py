"""The picture's size in pixels, and in the latent cells that cover it."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Canvas:
    """`cell` is the side of a latent cell in pixels. Sizes that are no multiple of it are drawn larger and cropped."""

    width: int
    height: int
    cell: int

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of latent cells."""
        return math.ceil(self.height / self.cell), math.ceil(self.width / self.cell)

    def pad(self, pixels: Tensor) -> Tensor:
        """(B,C,height,width) -> whole cells, by repeating the border."""
        rows, columns = self.cells
        bottom, right = rows * self.cell - self.height, columns * self.cell - self.width
        sides = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
        return F.pad(pixels, sides, mode="replicate")

    def crop(self, pixels: Tensor) -> Tensor:
        """Whole cells -> (B,C,height,width): undoes `pad`."""
        top, left = (pixels.shape[-2] - self.height) // 2, (pixels.shape[-1] - self.width) // 2
        return pixels[..., top : top + self.height, left : left + self.width]
