"""3x3 convolutions that learn, with 16 products where the plain way has 36: F(2x2, 3x3) as in `models/winograd.py`.

    Y = Aᵀ M A,   M = U ⊙ V,   U = G g Gᵀ,   V = Bᵀ d B

for each tile d (4x4) of the input. Every step but ⊙ is linear, so that the gradients go back through the transposes:

    dM = A dY Aᵀ,   dU = Σ dM ⊙ V over the tiles,   dg = Gᵀ dU G,   dV = U ⊙ dM,   dd = B dV Bᵀ

and with channels each ⊙ is a matrix product for each of the 16 places, of all tiles at once. That is for float32 on a
CPU, where the gradients of plain convolutions come at half the speed of a matrix product.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablediff.models.winograd import G, to_u

_IN_CACHE = 2_000_000  # numbers: of the tiles that are worked on at once


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """(B,C,H,W) and (D,C,3,3) -> (B,D,H,W), padded with zeros; maps are channels-last, H and W even."""
    y: Tensor = _Convolution.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        batch, in_ch, height, width = x.shape
        u = to_u(weight)
        v = x.new_empty(4, 4, batch, height // 2, width // 2, in_ch)
        y = x.new_empty(batch, height, width, len(weight))
        for some in _at_once(x):
            _to_v(x[some], v[:, :, some])
            _to_y(_multiply(v[:, :, some], u.transpose(1, 2)), y[some])
        ctx.save_for_backward(u, v if ctx.needs_input_grad[1] else None)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        u, v = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        batch, _, height, width = dy.shape
        du = torch.zeros_like(u) if wants_weight else None
        dx = dy.new_empty(batch, height, width, u.shape[2])
        for some in _at_once(dy):
            dm = _to_dm(dy[some])
            if du is not None:
                du.baddbmm_(_rows(dm).transpose(1, 2), _rows(v[:, :, some]))
            if wants_x:
                _to_dx(_multiply(dm, u), dx[some])
        return dx.permute(0, 3, 1, 2) if wants_x else None, None if du is None else _to_dweight(du)


def _to_dweight(du: Tensor) -> Tensor:
    """Gᵀ dU G: (16,D,C) -> (D,C,3,3)."""
    g = du.new_tensor(G)
    return (torch.kron(g, g).T @ du.flatten(1)).view(3, 3, *du.shape[1:]).permute(2, 3, 0, 1)


def _to_v(x: Tensor, v: Tensor) -> None:
    """Bᵀ d B: (B,C,H,W) -> (4,4,B,H/2,W/2,C)."""
    _, _, height, width = x.shape
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    down = x.new_empty(4, *v.shape[2:4], *x.shape[2:])
    _differences([x[:, i : i + height : 2] for i in range(4)], down)
    for row, out in zip(down, v, strict=True):
        _differences([row[:, :, i : i + width : 2] for i in range(4)], out)


def _to_dx(dv: Tensor, dx: Tensor) -> None:
    """B dV Bᵀ, added up where tiles overlap: (4,4,B,H/2,W/2,C) -> (B,H,W,C)."""
    across = dv.new_empty(4, *dv.shape[2:5], 2, dv.shape[-1])
    for row, out in zip(dv, across, strict=True):
        _overlap(row, out.unbind(3), dim=2)
    _overlap(across.flatten(3, 4), dx.unflatten(1, (-1, 2)).unbind(2), dim=1)


def _to_y(m: Tensor, y: Tensor) -> None:
    """Aᵀ M A: (4,4,B,H/2,W/2,D) -> (B,H,W,D)."""
    across = m.new_empty(4, *m.shape[2:5], 2, m.shape[-1])
    for row, out in zip(m, across, strict=True):
        _gather(row, out.unbind(3))
    _gather(across.flatten(3, 4), y.unflatten(1, (-1, 2)).unbind(2))


def _to_dm(dy: Tensor) -> Tensor:
    """A dY Aᵀ: (B,D,H,W) -> (4,4,B,H/2,W/2,D)."""
    dy = dy.permute(0, 2, 3, 1)
    batch, height, width, channels = dy.shape
    down = dy.new_empty(4, batch, height // 2, width, channels)
    dm = dy.new_empty(4, 4, batch, height // 2, width // 2, channels)
    _spread(dy[:, 0::2], dy[:, 1::2], down)
    for row, out in zip(down, dm, strict=True):
        _spread(row[:, :, 0::2], row[:, :, 1::2], out)
    return dm


def _rows(tiles: Tensor) -> Tensor:
    """(4,4,B,H/2,W/2,C) -> (16,B·H/2·W/2,C)."""
    return tiles.flatten(0, 1).flatten(1, 3)


def _multiply(tiles: Tensor, matrices: Tensor) -> Tensor:
    """(4,4,B,H/2,W/2,C) and (16,C,D) -> (4,4,B,H/2,W/2,D)."""
    return torch.bmm(_rows(tiles), matrices).view(*tiles.shape[:-1], -1)


def _at_once(maps: Tensor) -> Iterator[slice]:
    """Maps (B,C,H,W) whose tiles, 16 numbers for every 4, stay in the cache."""
    step = max(_IN_CACHE * len(maps) // (4 * maps.numel()), 1)
    return (slice(start, start + step) for start in range(0, len(maps), step))


# The matrices along one dimension. The first two and the last two are transposes of each other.


def _differences(d: Sequence[Tensor], v: Tensor) -> None:
    """Bᵀ"""
    torch.sub(d[0], d[2], out=v[0])
    torch.add(d[1], d[2], out=v[1])
    torch.sub(d[2], d[1], out=v[2])
    torch.sub(d[1], d[3], out=v[3])


def _overlap(v: Tensor, d: Sequence[Tensor], dim: int) -> None:
    """B, into the even and the odd cells: a tile is in the middle of four, and reaches one further on either side."""
    even, odd = d
    rest = v.shape[1:][dim] - 1
    torch.sub(v[1], v[2], out=even).add_(v[3])
    even.narrow(dim, 1, rest).sub_(v[3].narrow(dim, 0, rest))
    torch.add(v[1], v[2], out=odd).sub_(v[0])
    odd.narrow(dim, 0, rest).add_(v[0].narrow(dim, 1, rest))


def _gather(m: Tensor, y: Sequence[Tensor]) -> None:
    """Aᵀ"""
    torch.add(m[0], m[1], out=y[0]).add_(m[2])
    torch.sub(m[1], m[2], out=y[1]).sub_(m[3])


def _spread(even: Tensor, odd: Tensor, m: Tensor) -> None:
    """A"""
    m[0].copy_(even)
    torch.add(even, odd, out=m[1])
    torch.sub(even, odd, out=m[2])
    torch.neg(odd, out=m[3])
