"""What this CPU makes of a 3x3 convolution, in GFLOPS, per precision and memory format.

python tools/conv_speed.py
"""

import time

import torch


def main() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for memory_format in (torch.channels_last, torch.contiguous_format):
            conv = torch.nn.Conv2d(320, 320, 3, padding=1).to(dtype).to(memory_format=memory_format)  # type: ignore[call-overload]
            x = torch.randn(2, 320, 64, 64).to(dtype, memory_format=memory_format)
            with torch.inference_mode():
                conv(x)
                start = time.perf_counter()
                conv(x)
                seconds = time.perf_counter() - start
            flops = 2 * x.numel() * 320 * 9
            print(f"{dtype} {memory_format}: {flops / seconds / 1e9:.0f} GFLOPS")


if __name__ == "__main__":
    main()
