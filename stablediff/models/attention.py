"""Scaled-dot-product attention, by the way that is fastest where it runs."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stablediff.device import bfloat16_pays, has_matrix_unit

# Tokens up to which training on a CPU does without the fused kernel, whose way back is several times slower there
# (`python tools/attention_speed.py`). With more tokens the scores would need too much memory.
_SHORT = 128
_STRIP = 2**21  # scores at a time: as many as stay in a CPU's cache
_WIDTH = 16  # numbers: products are fastest where rows are a multiple of it
_SURE = 2.0**60  # sums of exponentials up to it, and down to its inverse, have lost nothing that shows


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, *, causal: bool = False, upcast: bool = False) -> Tensor:
    """Multi-head scaled-dot-product attention (Vaswani et al. 2017, eq. 1).

    q (B,T,D), k and v (B,S,D) -> (B,T,D). `upcast` computes scores in float32 (SD 2.1 overflows in float16).
    """

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B,H,T,D/H)

    if upcast:
        q, k = q.float(), k.float()
    product: Callable[..., Tensor] = F.scaled_dot_product_attention
    if q.device.type == "cpu" and not torch.compiler.is_compiling():
        learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        if learns and max(q.shape[1], k.shape[1]) <= _SHORT:
            product = plain_attention
        elif not learns and not causal and q.dtype == torch.bfloat16 and strips_are_faster():
            product = attention_in_strips
    out = product(heads(q), heads(k), heads(v.to(q.dtype)), is_causal=causal)
    return out.transpose(1, 2).flatten(2).to(v.dtype)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
    """The equation as it stands, with all scores in memory: (B,H,T,D), (B,H,S,D) twice -> (B,H,T,D)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores.float().softmax(dim=-1).to(v.dtype) @ v


@functools.cache
def strips_are_faster() -> bool:
    """Where bfloat16 pays without a matrix unit: torch's fused kernel is no faster there than in float32."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16")) and not has_matrix_unit() and bfloat16_pays()


def attention_in_strips(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
    """The equation for some heads, or some rows of one head, at a time: shapes as `plain_attention`, never causal.

    Scores are rounded to the inputs' precision; sums are taken in float32.

    Where the values' rows are filled up anyhow, a one behind them lets the product take the softmax's sums, which then
    need neither the largest score nor a division of each: three passes over the scores become one.
    """
    assert not is_causal
    width = q.shape[-1]
    if width % _WIDTH:
        out = _in_strips(q * (width**-0.5 * math.log2(math.e)), k, F.pad(v, (0, 1), value=1.0), Tensor.exp2_)
        sums = out[..., width : width + 1]
        if bool(((sums > 1 / _SURE) & (sums < _SURE)).all()):
            return out[..., :width] / sums
    return _in_strips(q * width**-0.5, k, v, lambda scores: scores.softmax(-1))[..., :width]


def _in_strips(q: Tensor, k: Tensor, v: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """weigh(q kᵀ) v: (B,H,T,D), (B,H,S,D), (B,H,S,E) -> (B,H,T,E), with E filled up to whole registers."""
    batch, heads, rows, _ = q.shape
    q, keys = q.flatten(0, 1).contiguous(), k.flatten(0, 1).contiguous().transpose(1, 2)
    v = F.pad(v.flatten(0, 1), (0, -v.shape[-1] % _WIDTH))
    out = q.new_empty(batch * heads, rows, v.shape[-1])
    some = max(_STRIP // (rows * k.shape[2]), 1)
    strip = min(max(_STRIP // k.shape[2], 1), rows)
    for queries, their_keys, values, results in zip(*(x.split(some) for x in (q, keys, v, out)), strict=True):
        for part, result in zip(queries.split(strip, 1), results.split(strip, 1), strict=True):
            torch.bmm(weigh(torch.bmm(part, their_keys)), values, out=result)
    return out.unflatten(0, (batch, heads))
