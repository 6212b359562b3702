"""Self-attention over fewer tokens: cells that look alike are asked as one (Bolya and Hoffman 2023, arXiv:2303.17604).

In the finest level that has attention, where there are most tokens: its work there grows with their square.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablediff.models.unet import UNet

_SIDE = 2  # of every square of so many cells a side, one cell stays itself: at most 3/4 are merged


@contextmanager
def merged_tokens(unet: UNet, height: int, width: int, share: float) -> Iterator[None]:
    """Inside, `share` of the tokens of each self-attention of that level are merged into others.

    `height`, `width`: the latents'. A share of 0 changes nothing.
    """
    if not share:
        yield
        return
    hooks = []
    merges: dict[nn.Module, Merge] = {}

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        merges[module] = Merge.of(inputs[0], rows, columns, share)
        return (merges[module](inputs[0]), *inputs[1:])

    def behind(module: nn.Module, _: tuple[Any, ...], out: Tensor) -> Tensor:
        return merges.pop(module).undo(out)

    level, attentions = finest_attention(unet)
    rows, columns = math.ceil(height / 2**level), math.ceil(width / 2**level)
    for attention in attentions:
        hooks += [attention.register_forward_pre_hook(before), attention.register_forward_hook(behind)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def finest_attention(unet: UNet) -> tuple[int, list[nn.Module]]:
    """The first level (from 0) with attention, and the self-attentions there; none if the U-Net has none."""
    levels = list(zip(unet.down_blocks, reversed(list(unet.up_blocks)), strict=True))
    for level, blocks in enumerate(levels):
        found = [m for block in blocks for name, m in block.named_modules() if name.endswith("attn1")]
        if found:
            return level, found
    return 0, []


@dataclass(frozen=True)
class Merge:
    """Which tokens of (B,T,D) are merged into which. `kept` (B,K), `merged` (B,R) and `into` (B,R) are indices.

    `others` (T-M,) and `ones` (M,) split the cells: of the ones, one a square, each may take in others like it.
    """

    others: Tensor
    ones: Tensor
    kept: Tensor  # among `others`
    merged: Tensor  # among `others`
    into: Tensor  # among `ones`

    @staticmethod
    def of(x: Tensor, height: int, width: int, share: float) -> "Merge":
        """x (B,T,D) with T = height·width. Never merges more than there are others."""
        others, ones = _split(height, width, x.device)
        unit = F.normalize(x, dim=-1)
        likeness = unit[:, others] @ unit[:, ones].transpose(1, 2)
        best, into = likeness.max(dim=-1)
        order = best.argsort(dim=-1, descending=True)
        number = min(int(share * x.shape[1]), len(others))
        merged, kept = order[:, :number], order[:, number:]
        return Merge(others, ones, kept, merged, into.gather(1, merged))

    def __call__(self, x: Tensor) -> Tensor:
        """(B,T,D) -> (B,T-R,D): those that are kept, then the ones, each the mean of what it took in."""
        others, ones = x[:, self.others], x[:, self.ones]
        taken = _take(others, self.merged)
        ones = ones.scatter_reduce(1, self.into[..., None].expand_as(taken), taken, "mean", include_self=True)
        return torch.cat([_take(others, self.kept), ones], dim=1)

    def undo(self, x: Tensor) -> Tensor:
        """(B,T-R,D) -> (B,T,D): what was merged gets the answer of what it was merged into."""
        kept, ones = x.split([self.kept.shape[1], len(self.ones)], dim=1)
        others = x.new_empty(len(x), len(self.others), x.shape[-1])
        others.scatter_(1, self.kept[..., None].expand_as(kept), kept)
        taken = _take(ones, self.into)
        others.scatter_(1, self.merged[..., None].expand_as(taken), taken)
        out = x.new_empty(len(x), len(self.others) + len(self.ones), x.shape[-1])
        out[:, self.others], out[:, self.ones] = others, ones
        return out


def _take(x: Tensor, index: Tensor) -> Tensor:
    """(B,T,D), (B,R) -> (B,R,D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


@lru_cache(maxsize=8)  # a GPU would wait for it at each attention
def _split(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The numbers of the cells: one of each square, at random but always the same, and the others before them."""
    generator = torch.Generator().manual_seed(0)
    down, across = math.ceil(height / _SIDE), math.ceil(width / _SIDE)
    row, column = (torch.randint(_SIDE, (down, across), generator=generator) for _ in range(2))
    row = (row + _SIDE * torch.arange(down)[:, None]).clamp(max=height - 1)
    column = (column + _SIDE * torch.arange(across)).clamp(max=width - 1)
    is_one = torch.zeros(height * width, dtype=torch.bool)
    is_one[(row * width + column).flatten()] = True
    return (~is_one).nonzero()[:, 0].to(device), is_one.nonzero()[:, 0].to(device)
