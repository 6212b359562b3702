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
_GROUPS, _EPS = 8, 1e-5


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
        self.norm = nn.GroupNorm(_GROUPS, coarse, eps=_EPS)
        # Group norms forget means, and colours are means: the heads see averaged pixels as well.
        pixels = 4 * _FOLD**2
        self.presence = nn.Conv2d(coarse, 1, 1)
        self.things = nn.Conv2d(coarse, len(config.things), 1)
        self.colours = nn.Sequential(nn.Conv2d(coarse + pixels, 64, 1), nn.SiLU(), nn.Conv2d(64, len(COLOURS), 1))
        self.style = nn.Linear(fine + middle + coarse, len(config.styles))  # outlines and shading are fine things
        self.background = nn.Sequential(nn.Linear(coarse + 4 * GRID**2, 64), nn.SiLU(), nn.Linear(64, len(COLOURS) + 1))

    def forward(self, pixels: Tensor) -> Reading:
        fine = self.fine(self.conv_in(F.pixel_unshuffle(pixels, _FOLD)))
        middle = self.middle(F.avg_pool2d(fine, 2))
        x = F.avg_pool2d(middle, 2)
        for block in self.coarse:
            x = block(x)
        x = F.silu(self.norm(x))
        features = x.mean(dim=(2, 3))
        presence = self.presence(x).squeeze(1)
        # Most of a picture is ground: the style is looked for where things are.
        weight = presence.detach().flatten(1).softmax(dim=1).view_as(presence)[:, None]
        parts = [F.adaptive_avg_pool2d(F.silu(part), GRID) for part in (fine, middle)]
        strokes = [(part * weight).sum(dim=(2, 3)) for part in (*parts, x)]
        near = F.pixel_unshuffle(F.avg_pool2d(pixels, SIDE // (GRID * _FOLD)), _FOLD).to(x.dtype)
        far = F.avg_pool2d(pixels, SIDE // GRID).flatten(1).to(x.dtype)
        return Reading(
            presence,
            self.things(x),
            self.colours(torch.cat([x, near], dim=1)),
            self.style(torch.cat(strokes, dim=1)),
            self.background(torch.cat([features, far], dim=1)),
            features,
        )


def _block(in_ch: int, out_ch: int) -> ResnetBlock:
    return ResnetBlock(in_ch, out_ch, None, norm_groups=_GROUPS, norm_eps=_EPS)
