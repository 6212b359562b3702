"""A small decoder for the latents of Stable Diffusion, in the layout of TAESD (github.com/madebyollin/taesd).

An eighteenth of the work of the autoencoder's own, for a picture a little softer. It takes latents as the U-Net leaves
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TinyDecoderConfig:
    """`num_blocks` has an entry a level, the coarsest first; each level but the last doubles the map."""

    latent_channels: int = 4
    out_channels: int = 3
    width: int = 64
    num_blocks: tuple[int, ...] = (3, 3, 3, 1)

    @property
    def upscale(self) -> int:
        return int(2 ** (len(self.num_blocks) - 1))


class TinyBlock(nn.Module):
    """Three convolutions around a shortcut: (B,C,h,w) -> (B,C,h,w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class TinyDecoder(nn.Module):
    """Latents of about unit variance (B,L,h,w) -> (B,C,H,W), about in [-1, 1]."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(*_layers(config))

    def decode(self, latents: Tensor) -> Tensor:
        # The clamp is gentle: a latent far outside of what training saw would else leave a blot.
        return self.layers(torch.tanh(latents / 3) * 3) * 2 - 1


def _layers(config: TinyDecoderConfig) -> Sequence[nn.Module]:
    width = config.width
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, width, 3, padding=1), nn.ReLU()]
    for level, blocks in enumerate(config.num_blocks):
        layers += [TinyBlock(width) for _ in range(blocks)]
        if level < len(config.num_blocks) - 1:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    return [*layers, nn.Conv2d(width, config.out_channels, 3, padding=1)]
