"""The judge's network: a picture -> what has its centre in each cell of an 8x8 grid, and what the whole looks like.

Centres instead of boxes, as in CenterNet (Zhou et al. 2019, arXiv:1904.07850): things are counted and placed with it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablediff.models.layers import ResnetBlock
from stablediff.training.data.colours import COLOURS

SIDE, GRID = 128, 8  # pixels and cells along a side
_FOLD = 4  # pixels that are folded into channels at the start
_TINTS, _STROKES = 32, 48  # channels of `_Palette` and `_Texture`
_WINDOWS = (1, 3, 5)  # cells along a side: what a thing is painted in is told from as far as it reaches
GROUPS, _EPS = 8, 1e-5  # of the norms; they divide all widths


@dataclass(frozen=True)
class JudgeConfig:
    """What the judge tells apart, and its widths at 32x32, 16x16 and 8x8."""

    things: tuple[str, ...]
    styles: tuple[str, ...]
    widths: tuple[int, ...] = (48, 96, 192)


class Reading(NamedTuple):
    """Logits. Cells are (B,…,8,8)."""

    presence: Tensor  # (B,8,8): the centre of a thing is here
    things: Tensor  # (B,K,8,8)
    colours: Tensor  # (B,12,8,8), in the order of COLOURS
    style: Tensor  # (B,S)
    background: Tensor  # (B,13): COLOURS, and none
    features: Tensor  # (B,D): what distances between pictures are measured in


class Judge(nn.Module):
    """(B,4,128,128) in [-1, 1], RGB over white and alpha -> `Reading`."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        self.conv_in = nn.Conv2d(4 * _FOLD**2, fine, 3, padding=1)
        self.fine = _block(fine, fine)
        self.middle = _block(fine, middle)
        self.coarse = nn.ModuleList([_block(middle, coarse), _block(coarse, coarse)])
        self.norm = nn.GroupNorm(GROUPS, coarse, eps=_EPS)
        self.palette, self.texture = _Palette(), _Texture()
        self.presence = nn.Conv2d(coarse, 1, 1)
        self.things = nn.Conv2d(coarse, len(config.things), 1)
        tints = (len(_WINDOWS) + 1) * _TINTS
        self.colours = nn.Sequential(nn.Conv2d(coarse + tints, 128, 1), nn.SiLU(), nn.Conv2d(128, len(COLOURS), 1))
        self.where = nn.Conv2d(coarse, 1, 1)
        self.style = nn.Sequential(
            nn.Linear(2 * _STROKES + fine + middle + coarse, 96), nn.SiLU(), nn.Linear(96, len(config.styles))
        )
        self.background = nn.Sequential(nn.Linear(coarse + 4 * GRID**2, 64), nn.SiLU(), nn.Linear(64, len(COLOURS) + 1))

    def forward(self, pixels: Tensor, recognised: Tensor | None = None) -> Reading:
        """`recognised` (B,), 0 or 1: whether the style may be told from what the thing is as well (None: it may)."""
        fine = self.fine(self.conv_in(F.pixel_unshuffle(pixels, _FOLD)))
        middle = self.middle(F.avg_pool2d(fine, 2))
        x = F.avg_pool2d(middle, 2)
        for block in self.coarse:
            x = block(x)
        x = F.silu(self.norm(x))
        features = x.mean(dim=(2, 3))
        far = F.avg_pool2d(pixels, SIDE // GRID).flatten(1).to(x.dtype)
        return Reading(
            self.presence(x).squeeze(1),
            self.things(x),
            self.colours(torch.cat([x, *self.palette(pixels)], dim=1)),
            self.style(self._strokes(pixels, fine, middle, x, recognised)),
            self.background(torch.cat([features, far], dim=1)),
            features,
        )

    def _strokes(
        self, pixels: Tensor, fine: Tensor, middle: Tensor, coarse: Tensor, recognised: Tensor | None
    ) -> Tensor:
        """-> (B,D): how things are drawn, and which things they are."""
        weight = self.where(coarse).flatten(1).softmax(dim=1).view(-1, 1, GRID, GRID)  # most of a picture is ground
        parts = [F.adaptive_avg_pool2d(F.silu(part), GRID) for part in (fine, middle)]
        drawn, *known = [(part * weight).sum(dim=(2, 3)) for part in (self.texture(pixels), *parts, coarse)]
        if recognised is not None:
            known = [part * recognised[:, None].to(part.dtype) for part in known]
        return torch.cat([drawn, *known], dim=1)


class _Palette(nn.Module):
    """(B,4,128,128) -> how much of each tint is in windows around each cell, (B,32,8,8) each, and in all.

    Every pixel is looked at alone, and nothing is normalised: group norms forget means, and colours are means.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, _TINTS, 1), nn.SiLU(), nn.Conv2d(_TINTS, _TINTS, 1), nn.SiLU())

    def forward(self, pixels: Tensor) -> list[Tensor]:
        tints = F.adaptive_avg_pool2d(self.layers(F.avg_pool2d(pixels, 2)), GRID)
        near = [F.avg_pool2d(tints, side, 1, side // 2, count_include_pad=False) for side in _WINDOWS]
        return [*near, tints.mean(dim=(2, 3), keepdim=True).expand_as(tints)]


class _Texture(nn.Module):
    """(B,4,128,128) -> means and mean squares of what small filters find in each cell, (B,96,8,8).

    Outlines and shading are local; squares tell a few strong edges from many weak ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, _STROKES, 3, padding=1), nn.SiLU()
        )

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.layers(F.pixel_unshuffle(pixels, 2))
        return torch.cat([F.adaptive_avg_pool2d(part, GRID) for part in (found, found.square())], dim=1)


def _block(in_ch: int, out_ch: int) -> ResnetBlock:
    return ResnetBlock(in_ch, out_ch, None, norm_groups=GROUPS, norm_eps=_EPS)
