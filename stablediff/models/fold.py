"""Doubling a feature map and convolving it as one transposed convolution: the same sums, with 4 products instead of 9.

Where a map was doubled, a 3x3 kernel meets each cell in two rows and columns at once, with weights that can be added up
beforehand.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stablediff.models.layers import Upsample


class FoldedUpsample(Upsample):
    """An `Upsample` that folds its weights where nothing is learnt, on CPUs alone: there it was measured."""

    _folded: tuple[Tensor, Tensor] | None = None  # the weights that were folded, and what they became

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        if size is not None or torch.is_grad_enabled() or x.device.type != "cpu":
            return super().forward(x, size)
        return F.conv_transpose2d(x, self._kernel(), self.conv.bias, stride=2, padding=1)

    def _kernel(self) -> Tensor:
        """Folded once, and again whenever the weights have changed.

        They are compared themselves: sharded weights (FSDP2) and those of inference mode change without a new address
        or version.
        """
        weight = self.conv.weight
        if self._folded is None or self._folded[0].dtype != weight.dtype or not torch.equal(self._folded[0], weight):
            self._folded = weight.detach().clone(), fold(weight)
        return self._folded[1]


def fold(weight: Tensor) -> Tensor:
    """(D,C,3,3) of a convolution behind nearest-neighbour doubling -> (C,D,4,4) of the transposed one, stride 2.

    Doubling is a transposed convolution with 2x2 ones; two convolutions in a row are one with both kernels convolved.
    """
    kernel = weight.new_zeros(weight.shape[1], weight.shape[0], 4, 4, dtype=torch.float32)
    flipped = weight.float().transpose(0, 1).flip(2, 3)
    for row in (0, 1):
        for column in (0, 1):
            kernel[:, :, row : row + 3, column : column + 3] += flipped
    return kernel.to(weight.dtype).contiguous(memory_format=torch.channels_last)
