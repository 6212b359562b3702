"""Pictures -> features (N,D), in which distances between sets of pictures are measured."""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stablediff.evaluation.batches import batched
from stablediff.evaluation.judge.network import Judge
from stablediff.evaluation.judge.verdict import judge_pictures, to_pixels

Embed = Callable[[Iterable[Image.Image]], Tensor]
_WIDTHS, _SEED = (32, 64, 128), 20
_BATCH = 64


def embed_all(pictures: Iterable[Image.Image], ways: Mapping[str, Embed]) -> dict[str, Tensor]:
    """Features of each kind, of pictures that are looked at once and never held in memory together."""
    parts: dict[str, list[Tensor]] = {name: [] for name in ways}
    for some in batched(pictures, _BATCH):
        for name, embed in ways.items():
            parts[name].append(embed(some))
    return {name: torch.cat(rows) if rows else ways[name]([]) for name, rows in parts.items()}


def judge_features(judge: Judge) -> Embed:
    """What the judge has learnt to see: (N,D) for its coarsest width D."""
    return lambda pictures: judge_pictures(judge, pictures)[1]


def random_features(pictures: Iterable[Image.Image]) -> Tensor:
    """Three layers of fixed random convolutions, their means and their largest values: (N,256).

    A second opinion that no training has shaped: random convolutions keep the likeness of pictures (Saxe et al. 2011).
    """
    generator = torch.Generator().manual_seed(_SEED)
    kernels, width = [], 4
    for wider in _WIDTHS:
        kernels.append(torch.randn(wider, width, 3, 3, generator=generator) * (2 / (9 * width)) ** 0.5)
        width = wider
    rows = [to_pixels(picture) for picture in pictures]
    parts = [_convolve(torch.stack(rows[i : i + _BATCH]), kernels) for i in range(0, len(rows), _BATCH)]
    return torch.cat(parts) if parts else torch.zeros(0, 2 * width)


@torch.inference_mode()
def _convolve(x: Tensor, kernels: list[Tensor]) -> Tensor:
    for kernel in kernels:
        x = F.conv2d(x, kernel, stride=2, padding=1).relu()
    return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
