"""What attention costs on this CPU by torch's fused kernel, and by ours of models/attention.py, in bfloat16.

python tools/attention_speed.py
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stablediff.models.attention import attention_in_strips, plain_attention

Attention = Callable[..., Tensor]
Shape = tuple[int, int, int, int, int]  # batch, heads, queries, keys, width of a head

# Of the bundled model in training, and of SD 1.5 (cross-attention among them), its decoder and SDXL when they draw.
LEARNING: tuple[Shape, ...] = ((32, 6, 64, 64, 32), (32, 6, 64, 32, 32), (32, 10, 16, 32, 32), (32, 6, 128, 128, 32))
DRAWING: tuple[Shape, ...] = (
    (2, 8, 4096, 4096, 40),
    (2, 8, 1024, 1024, 80),
    (2, 8, 256, 256, 160),
    (2, 8, 4096, 77, 40),
    (1, 1, 4096, 4096, 512),
    (2, 10, 4096, 4096, 64),
)


def milliseconds(attention: Attention, shape: Shape, *, learning: bool) -> tuple[float, float]:
    """-> forth, back (0 if nothing is learnt): the best of five."""
    batch, heads, queries, keys, width = shape
    times = []
    for _ in range(5):
        q, k, v = (
            torch.randn(batch, tokens, heads, width, dtype=torch.bfloat16).transpose(1, 2).requires_grad_(learning)
            for tokens in (queries, keys, keys)
        )
        start = time.perf_counter()
        out = attention(q, k, v, is_causal=False)
        middle = time.perf_counter()
        if learning:
            out.backward(torch.ones_like(out))
        times.append((1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)))
    return min(times)


def main() -> None:
    for learning, shapes, ours in ((True, LEARNING, plain_attention), (False, DRAWING, attention_in_strips)):
        for shape in shapes:
            fused = milliseconds(F.scaled_dot_product_attention, shape, learning=learning)
            other = milliseconds(ours, shape, learning=learning)
            forth = f"{shape}: fused {fused[0]:.1f} ms, {ours.__name__} {other[0]:.1f} ms forth"
            print(f"{forth}, {fused[1]:.1f} and {other[1]:.1f} ms back" if learning else forth, flush=True)


if __name__ == "__main__":
    main()
