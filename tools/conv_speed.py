"""What this CPU makes of a 3x3 convolution: in GFLOPS, per precision and memory format; and by models/winograd.py.

python tools/conv_speed.py
"""

from functools import partial

import torch
from torch import nn

from stablediff.bench.peaks import best_of
from stablediff.models import winograd
from stablediff.models.packed import PackedConv2d

Shape = tuple[int, int, int, int]  # batch, channels in and out, cells a side

# Of SD 1.5's U-Net as it draws 512x512 with guidance, and of its decoder.
DRAWING: tuple[Shape, ...] = (
    (2, 320, 320, 64),
    (2, 960, 320, 64),
    (2, 640, 640, 32),
    (2, 1920, 640, 32),
    (2, 1280, 1280, 16),
    (2, 2560, 1280, 16),
    (2, 1280, 1280, 8),
    (1, 512, 512, 64),
    (1, 512, 512, 128),
    (1, 256, 256, 256),
)


def precisions() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for memory_format in (torch.channels_last, torch.contiguous_format):
            conv = nn.Conv2d(320, 320, 3, padding=1).to(dtype).to(memory_format=memory_format)  # type: ignore[call-overload]
            x = torch.randn(2, 320, 64, 64).to(dtype, memory_format=memory_format)
            flops = 2 * x.numel() * 320 * 9
            print(f"{dtype} {memory_format}: {flops / best_of(partial(conv, x)) / 1e9:.0f} GFLOPS")


def plain_and_winograd(shape: Shape) -> None:
    batch, channels, wide, side = shape
    conv = nn.Conv2d(channels, wide, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
    plain, ours = PackedConv2d(conv), PackedConv2d(conv)
    least, winograd._LEAST = winograd._LEAST, float("inf")
    one = best_of(partial(plain, x))
    winograd._LEAST = least
    other = best_of(partial(ours, x))
    error = float((plain(x) - ours(x)).abs().max() / plain(x).abs().max())
    print(f"{shape}: plain {1e3 * one:.1f} ms, ours {1e3 * other:.1f} ms, {one / other:.2f} times; error {error:.0e}")


def main() -> None:
    with torch.inference_mode():
        precisions()
        for shape in DRAWING:
            plain_and_winograd(shape)


if __name__ == "__main__":
    main()
