"""The decoder a strip of rows at a time: the same picture in less memory.

A convolution needs one row beyond its strip. Group norms look at the whole map, so their statistics are taken first,
over all strips. At its peak there are four maps of the finest level, where the plain way has five.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablediff.heap import give_back
from stablediff.models.layers import ResnetBlock, Upsample
from stablediff.models.vae import VAE, Decoder

_HOLES = 2**29  # bytes that freed strips may leave: to hand them back takes time


@torch.no_grad()
def decode_in_rows(vae: VAE, latents: Tensor, strip_pixels: int = 2**16) -> Tensor:
    """`vae.decode(latents)` to rounding: latents (B,L,h,w) -> (B,C,H,W). A strip has about so many cells of its map."""
    z = latents / vae.config.scaling_factor
    z = z if vae.post_quant_conv is None else vae.post_quant_conv(z)
    return F.pixel_shuffle(_decode(vae.decoder, z, strip_pixels), vae.config.patch_size)


def _decode(decoder: Decoder, z: Tensor, cells: int) -> Tensor:
    x = decoder.mid_block(decoder.conv_in(z))  # at the coarsest level, where maps are small
    blocks: Any = decoder.up_blocks
    for block in blocks:
        for layer in block.resnets:
            x = _resnet(layer, x, cells)
        for layer in block.upsamplers:
            x = _upsample(layer, x, cells)
    out = x.new_empty(len(x), decoder.conv_out.out_channels, *x.shape[-2:])
    for top, bottom, strip in _normed_convolved(x, decoder.conv_norm_out, decoder.conv_out, cells):
        out[:, :, top:bottom] = strip
    return out


def _resnet(block: ResnetBlock, x: Tensor, cells: int) -> Tensor:
    """Works in `x` itself where the width stays."""
    h = _like(x, block.conv1.out_channels)
    for top, bottom, strip in _normed_convolved(x, block.norm1, block.conv1, cells):
        h[:, :, top:bottom] = strip
    out = x if block.conv_shortcut is None else _like(x, block.conv2.out_channels)
    for top, bottom, strip in _normed_convolved(h, block.norm2, block.conv2, cells):
        rows = x[:, :, top:bottom]
        out[:, :, top:bottom] = strip + (rows if block.conv_shortcut is None else block.conv_shortcut(rows))
    return out


def _upsample(layer: Upsample, x: Tensor, cells: int) -> Tensor:
    height, width = x.shape[-2:]
    out = _like(x, layer.conv.out_channels, (2 * height, 2 * width))
    for top, bottom in _strips(height, width, cells):
        first, last = max(top - 1, 0), min(bottom + 1, height)
        strip = F.interpolate(x[:, :, first:last], scale_factor=2, mode="nearest")
        start = 2 * (top - first) - (first < top)  # one row more than is wanted, on either side where there is one
        stop = 2 * (bottom - first) + (last > bottom)
        out[:, :, 2 * top : 2 * bottom] = _convolve(strip[:, :, start:stop], layer.conv, first == top, last == bottom)
    return out


def _normed_convolved(x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d, cells: int) -> Iterator[tuple[int, int, Tensor]]:
    """conv(silu(norm(x))), strip by strip: first row, the row behind the last, and what they become."""
    height, width = x.shape[-2:]
    scale, shift = _affine(x, norm, cells)
    for top, bottom in _strips(height, width, cells):
        first, last = max(top - 1, 0), min(bottom + 1, height)
        strip = F.silu(torch.addcmul(shift, x[:, :, first:last], scale).to(x.dtype), inplace=True)
        yield top, bottom, _convolve(strip, conv, first == top, last == bottom)
        give_back(_HOLES)


def _convolve(strip: Tensor, conv: nn.Conv2d, is_top: bool, is_bottom: bool) -> Tensor:
    """3x3, with zeros around the map and none between strips."""
    out: Tensor = conv(strip)  # with zeros above and below, too: rows that are wrong between strips
    return out[:, :, 0 if is_top else 1 : None if is_bottom else -1]


def _affine(x: Tensor, norm: nn.GroupNorm, cells: int) -> tuple[Tensor, Tensor]:
    """The group norm as a factor and a summand of each channel, (B,C,1,1) float32: means first, then variances."""
    height, width = x.shape[-2:]
    batch, groups = len(x), norm.num_groups
    each = x.shape[1] // groups
    count = each * height * width

    def of_groups(channels: Tensor) -> Tensor:
        """(B,C) -> (B,C): each channel's group's sum."""
        return channels.reshape(batch, groups, each).sum(-1).repeat_interleave(each, 1)

    strips = [x[:, :, top:bottom] for top, bottom in _strips(height, width, cells)]
    mean = of_groups(_total(strip.sum((2, 3), dtype=torch.float32) for strip in strips)) / count
    middle = mean[..., None, None]
    spread = of_groups(_total((strip - middle).square_().sum((2, 3)) for strip in strips))
    inverse = (spread / count + norm.eps).rsqrt()
    scale = norm.weight.float() * inverse
    shift = norm.bias.float() - mean * scale
    return scale[..., None, None], shift[..., None, None]


def _total(sums: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(sums)).sum(0)


def _strips(height: int, width: int, cells: int) -> Iterator[tuple[int, int]]:
    rows = max(cells // width, 1)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _like(x: Tensor, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """A map of the same kind with room for so many channels."""
    shape = (len(x), channels, *(size or x.shape[-2:]))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
