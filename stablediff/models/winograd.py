"""3x3 convolutions with 16 products where the plain way has 36: F(2x2, 3x3) of Lavin and Gray 2015 (arXiv:1509.09308).

Four neighbouring cells of the output, Y (2x2), come from a tile d (4x4) of the input and a kernel g (3x3):

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A        with  Bᵀ = 1  0 -1  0      G =  1   0   0      Aᵀ = 1  1  1  0
                                                       0  1  1  0           ½   ½   ½           0  1 -1 -1
                                                       0 -1  1  0           ½  -½   ½
                                                       0  1  0 -1           0   0   1

With channels, ⊙ is a matrix product for each of the 16 places, of all tiles at once: that is where the time goes. In
float32 the result differs from the plain sums by their rounding (3e-6 of the largest). In bfloat16 it would not do: the
tiles are differences.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

_TILES = 1024  # at once: all 16 of them should stay in the cache
_LEAST = 3e9  # operations of the plain way; below, what is between the products costs more than it saves
_NARROWEST = 192  # channels in and out, for the same reason

GROWTH = 16 / 9  # of the weights
G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class WinogradKernel:
    """A kernel (D,C,3,3) as 4x4 matrices (D,C), laid out for maps of a size (B,C,H,W)."""

    def __init__(self, matrices: Iterable[Tensor], size: torch.Size) -> None:
        batch, _, height, width = size
        tiles = batch * _rows_at_once(batch, height, width) * -(-width // 2)
        self._matrices = [torch.ops.mkldnn._reorder_linear_weight(matrix, tiles) for matrix in matrices]

    @classmethod
    def of(cls, weight: Tensor, size: torch.Size) -> "WinogradKernel":
        return cls(to_u(weight), size)

    def laid_out_for(self, size: torch.Size) -> "WinogradKernel":
        return WinogradKernel((matrix.to_dense() for matrix in self._matrices), size)

    def to_dense(self) -> Tensor:
        """(D,C,3,3): g again, to rounding; what was float16 once is so to the bit."""
        u = torch.stack([matrix.to_dense() for matrix in self._matrices]).unflatten(0, (4, 4))
        rows = torch.stack([u[0], u[1] - u[2], u[3]])
        return torch.stack([rows[:, 0], rows[:, 1] - rows[:, 2], rows[:, 3]], 1).permute(2, 3, 0, 1)

    @torch.no_grad()
    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(B,C,H,W) -> (B,D,H,W), padded with zeros; both are channels-last."""
        batch, _, height, width = x.shape
        tall, wide = -(-height // 2), -(-width // 2)  # tiles
        x = x.permute(0, 2, 3, 1)
        out = x.new_empty(batch, tall, 2, wide, 2, self._matrices[0].shape[0])
        step = _rows_at_once(batch, height, width)
        for top in range(0, tall, step):
            part = out[:, top : top + step]
            first, last = 2 * top - 1, 2 * (top + part.shape[1]) + 1
            beyond = max(-first, 0), max(last - height, 0)
            strip = F.pad(x[:, max(first, 0) : last], (0, 0, 1, 1 + width % 2, *beyond))
            self._convolve(strip, bias, part)
        whole = out.view(batch, 2 * tall, 2 * wide, -1)[:, :height, :width].permute(0, 3, 1, 2)
        return whole.contiguous(memory_format=torch.channels_last)

    def _convolve(self, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """A strip (B,2t+2,2w+2,C) -> `out` (B,t,2,w,2,D)."""
        _, tall, _, wide, _, _ = out.shape
        halves = []  # of Aᵀ, across
        for a, row in enumerate(_differences(x, 1, tall)):
            m = []
            for b, tiles in enumerate(_differences(row, 2, wide)):
                # What is added to this one place gets into all four cells.
                added = bias if (a, b) == (1, 1) else None
                matrix = self._matrices[4 * a + b]
                m.append(torch.ops.mkldnn._linear_pointwise(tiles, matrix, added, "none", [], ""))
            halves.append((m[0].add_(m[1]).add_(m[2]), m[1].sub_(m[2]).sub_(m[3])))
        for column, y in enumerate(zip(*halves, strict=True)):
            torch.add(y[0].add_(y[1]), y[2], out=out[:, :, 0, :, column])
            torch.sub(y[1].sub_(y[2]), y[3], out=out[:, :, 1, :, column])


def to_u(weight: Tensor) -> Tensor:
    """G g Gᵀ: (D,C,3,3) -> (16,D,C), one product with G ⊗ G for all kernels."""
    g = weight.new_tensor(G)
    return (torch.kron(g, g) @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(16, *weight.shape[:2])


def _differences(x: Tensor, dim: int, count: int) -> list[Tensor]:
    """Bᵀ along one dimension, for `count` tiles, each two cells further."""
    taken = [slice(None)] * x.ndim
    cells = []
    for i in range(4):
        taken[dim] = slice(i, i + 2 * count, 2)
        cells.append(x[tuple(taken)])
    return [cells[0] - cells[2], cells[1] + cells[2], cells[2] - cells[1], cells[1] - cells[3]]


def _rows_at_once(batch: int, height: int, width: int) -> int:
    """Rows of tiles in a strip: all strips alike, but for the last one."""
    tall, wide = -(-height // 2), -(-width // 2)
    strips = -(-batch * tall * wide // _TILES)
    return max(-(-tall // strips), 1)


def suits(weight: Tensor) -> bool:
    """Whether a convolution with such a kernel, (D,C,3,3), can gain."""
    return weight.dtype == torch.float32 and weight.shape[2:] == (3, 3) and min(weight.shape[:2]) >= _NARROWEST


def pays(weight: Tensor, batch: int, height: int, width: int) -> bool:
    """Whether it does for maps of this size."""
    return suits(weight) and 2 * weight.numel() * batch * height * width >= _LEAST
