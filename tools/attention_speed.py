"""What the way forth and back through short attention costs on this CPU: torch's fused kernel, and plain products.

python tools/attention_speed.py
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stablediff.models.attention import plain_attention

Attention = Callable[..., Tensor]


def milliseconds(attention: Attention, batch: int, heads: int, queries: int, keys: int) -> tuple[float, float]:
    """-> forth, back: the best of five, bfloat16, heads of 32."""
    times = []
    for _ in range(5):
        q, k, v = (
            torch.randn(batch, tokens, heads, 32, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
            for tokens in (queries, keys, keys)
        )
        start = time.perf_counter()
        out = attention(q, k, v, is_causal=False)
        middle = time.perf_counter()
        out.backward(torch.ones_like(out))
        times.append((1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)))
    return min(times)


def main() -> None:
    for shape in ((32, 6, 64, 64), (32, 6, 64, 32), (32, 10, 16, 32), (32, 6, 128, 128)):
        for name, attention in (("fused", F.scaled_dot_product_attention), ("plain", plain_attention)):
            forth, back = milliseconds(attention, *shape)
            print(f"batch, heads, queries, keys {shape}, {name}: {forth:.1f} ms forth, {back:.1f} ms back")


if __name__ == "__main__":
    main()
