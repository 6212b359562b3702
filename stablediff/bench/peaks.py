"""What this CPU can do at its best: products of large matrices and 3x3 convolutions, in GFLOPS."""

import time
from collections.abc import Callable

import torch

from stablediff.device import cpu_computes_bfloat16
from stablediff.heap import keep_freed_memory

_TRIALS = 7


@torch.inference_mode()
def measure_peaks(threads: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """lane -> {"matmul": GFLOPS, "conv": GFLOPS}; without bfloat16 where the CPU only emulates it."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # or the system's work is measured as well
    found = {"float32": _peaks(torch.float32, quick=quick)}
    if cpu_computes_bfloat16():
        found["bfloat16"] = _peaks(torch.bfloat16, quick=quick)
    return found


def _peaks(dtype: torch.dtype, *, quick: bool) -> dict[str, float]:
    side, channels, size = (256, 32, 16) if quick else (2048, 320, 64)
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(dtype)
    conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, channels, size, size).to(dtype, memory_format=torch.channels_last)
    return {
        "matmul": 2 * side**3 / best_of(lambda: a @ b) / 1e9,
        "conv": 2 * x.numel() * channels * 9 / best_of(lambda: conv(x)) / 1e9,
    }


def best_of(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some trials, because a peak is what is sought."""
    times = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
