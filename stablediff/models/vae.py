"""The autoencoder: pictures (B,C,H,W) in [-1, 1] <-> latents (B,L,h,w) of about unit variance."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablediff.config import VAEConfig
from stablediff.heap import give_back
from stablediff.models.fold import FoldedUpsample
from stablediff.models.layers import Attention, Downsample, ResnetBlock, silu_

_EPS = 1e-6  # the U-Net's residual blocks use 1e-5


class Moments(NamedTuple):
    """The Gaussian that the encoder makes of a picture, before scaling."""

    mean: Tensor  # (B,L,h,w)
    logvar: Tensor  # (B,L,h,w)


class SpatialAttention(Attention):
    """One head over all cells of a feature map, around a shortcut: (B,C,h,w) -> (B,C,h,w)."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__(channels, num_heads=1, qkv_bias=True)
        self.group_norm = nn.GroupNorm(norm_groups, channels, eps=_EPS)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        return x + super().forward(tokens, context).transpose(1, 2).unflatten(2, x.shape[-2:])


class VAEResnet(ResnetBlock):
    """A resnet block without a time embedding, on maps that may be large: (B,C,h,w) -> (B,D,h,w)."""

    def __init__(self, in_ch: int, out_ch: int, config: VAEConfig) -> None:
        super().__init__(in_ch, out_ch, None, norm_groups=config.norm_groups, norm_eps=_EPS)

    def _halfway(self) -> None:
        _tidy()


def _tidy() -> None:
    """Hands freed maps back, unless they are needed again at once, for learning."""
    if not torch.is_grad_enabled():
        give_back()


class MidBlock(nn.Module):
    """The coarsest level once more, where every cell may look at all others: (B,C,h,w) -> (B,C,h,w)."""

    def __init__(self, channels: int, config: VAEConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([VAEResnet(channels, channels, config) for _ in range(2)])
        self.attentions = nn.ModuleList(
            [SpatialAttention(channels, config.norm_groups)] if config.mid_attention else []
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class EncoderBlock(nn.Module):
    """One level on the way in: (B,C,h,w) -> (B,D,⌈h/2⌉,⌈w/2⌉), or the same size at the last one."""

    def __init__(self, in_ch: int, out_ch: int, config: VAEConfig, *, is_last: bool) -> None:
        super().__init__()
        widths = [in_ch] + [out_ch] * config.num_resnets
        self.resnets = nn.ModuleList(VAEResnet(a, b, config) for a, b in pairwise(widths))
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(out_ch, asymmetric=True)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class DecoderBlock(nn.Module):
    """One level on the way out: (B,C,h,w) -> (B,D,2h,2w), or the same size at the last one."""

    def __init__(self, in_ch: int, out_ch: int, config: VAEConfig, *, is_last: bool) -> None:
        super().__init__()
        widths = [in_ch] + [out_ch] * (config.num_resnets + 1)
        self.resnets = nn.ModuleList(VAEResnet(a, b, config) for a, b in pairwise(widths))
        self.upsamplers = nn.ModuleList([] if is_last else [FoldedUpsample(out_ch)])

    def layers(self) -> Iterator[nn.Module]:
        """In their order. Called from outside, so that nobody keeps what came in until the last one is done."""
        yield from (*self.resnets, *self.upsamplers)


class Encoder(nn.Module):
    """(B,C,H,W) -> (B,2L,h,w): mean and log-variance."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, last = config.channels, len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            EncoderBlock(widths[max(i - 1, 0)], widths[i], config, is_last=i == last) for i in range(len(widths))
        )
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(silu_(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """(B,L,h,w) -> (B,C,H,W)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, last = config.channels[::-1], len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config)
        self.up_blocks = nn.ModuleList(
            DecoderBlock(widths[max(i - 1, 0)], widths[i], config, is_last=i == last) for i in range(len(widths))
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            for layer in cast(DecoderBlock, block).layers():
                x = layer(x)
                _tidy()
        return self.conv_out(silu_(self.conv_norm_out(x)))


class VAE(nn.Module):
    """Owns `scaling_factor`: latents outside of this class always have about unit variance."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.post_quant_conv else None

    def moments(self, images: Tensor) -> Moments:
        """(B,C,H,W) in [-1, 1] -> mean and log-variance of the unscaled latents."""
        h = self.encoder(F.pixel_unshuffle(images, self.config.patch_size))
        mean, logvar = (h if self.quant_conv is None else self.quant_conv(h)).chunk(2, dim=1)
        return Moments(mean, logvar.clamp(-30, 20))

    def encode(self, images: Tensor) -> Tensor:
        """(B,C,H,W) in [-1, 1] -> latents (B,L,h,w): the mean, so that encoding is deterministic."""
        return self.moments(images).mean * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B,L,h,w) -> (B,C,H,W), about in [-1, 1]."""
        z = latents / self.config.scaling_factor
        h = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return F.pixel_shuffle(h, self.config.patch_size)
