"""Weights laid out once as a CPU's kernels want them. Torch does so at every call, for what it gets could have changed.

The same numbers; only in float32 the order of some sums is another one. The best layout depends on the size of what
comes in, and a wrong one can be twenty times slower: another size lays them out anew, which is as much as torch does.
"""

import platform
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablediff.device import has_matrix_unit
from stablediff.heap import give_back, leave_in_file
from stablediff.models.frozen import FrozenLayer, exchange, is_large
from stablediff.models.layers import GEGLU
from stablediff.models.winograd import GROWTH, WinogradKernel, pays, suits

_SAME = [1, 1], [1, 1], [1, 1], 1  # padding, stride, dilation and groups of a convolution that keeps the size


class _Packed(FrozenLayer):
    """`weight` is unpacked when it is asked for: to be saved, compared, or converted."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.bias = layer.bias
        self._keep(layer.weight.detach())
        self.num_weights = layer.weight.numel()

    def _keep(self, weight: Tensor) -> None:
        """As it is, until the first size is known; for good where there are no kernels for it."""
        self.packs = weight.device.type == "cpu" and can_pack(weight.dtype)
        self._dense: Tensor | None = weight
        self._packed: Tensor | WinogradKernel | _Halves | None = None
        self._size: torch.Size | None = None
        self.weight_bytes = weight.element_size() * (GROWTH if self.packs and suits(weight) else 1)

    @property
    def weight(self) -> Tensor:
        if self._dense is not None:
            return self._dense
        assert self._packed is not None
        return self._packed.to_dense()

    def __getstate__(self) -> dict[str, Any]:  # a copy is packed for itself
        return {**self.__dict__, "_dense": self.weight, "_packed": None, "_size": None}

    def packed_for(self, size: torch.Size) -> Any:
        if self._packed is None or not self._fits(size):
            self._packed, self._size = self._layout(size), size
            if self._dense is not None:
                leave_in_file(self._dense)
                self._dense = None
            give_back()  # or the dense weights of a whole network stay as holes
        return self._packed

    def _fits(self, size: torch.Size) -> bool:
        """Whether the layout serves this size as well: with half or twice the rows it does, as where guidance begins
        and ends. Not taken for granted of matrix units, where this was not tried."""
        packed = self._size
        assert packed is not None
        if size == packed or has_matrix_unit():
            return size == packed
        return size[1:] == packed[1:] and max(size[0], packed[0]) <= 2 * min(size[0], packed[0])

    def _layout(self, size: torch.Size) -> Any:
        return self.pack(self.weight, size)

    def pack(self, weight: Tensor, size: torch.Size) -> Any:
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # what `.to(…)` is made of
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._keep(fn(self.weight))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)


class PackedLinear(_Packed):
    """(…,D) -> (…,E)."""

    def pack(self, weight: Tensor, size: torch.Size) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), size[:-1].numel())
        return packed

    def forward(self, x: Tensor) -> Tensor:
        if not self.packs:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed_for(x.shape), self.bias, "none", [], "")
        return out


class _Halves:
    """A weight (2E,D) in two, each laid out for `rows`."""

    def __init__(self, weight: Tensor, rows: int) -> None:
        value, gate = (half.contiguous() for half in weight.chunk(2))
        self.value = torch.ops.mkldnn._reorder_linear_weight(value, rows)
        self.gate = torch.ops.mkldnn._reorder_linear_weight(gate, rows)

    def to_dense(self) -> Tensor:
        return torch.cat([self.value.to_dense(), self.gate.to_dense()])


class PackedGEGLU(_Packed):
    """All of a `GEGLU`, (…,D) -> (…,E): the gate's product takes the GELU while its numbers are at hand."""

    def pack(self, weight: Tensor, size: torch.Size) -> _Halves:
        return _Halves(weight, size[:-1].numel())

    def forward(self, x: Tensor) -> Tensor:
        if not self.packs:
            value, gate = F.linear(x, self.weight, self.bias).chunk(2, dim=-1)
            return F.gelu(gate).mul_(value)
        halves = self.packed_for(x.shape)
        for_value, for_gate = (None, None) if self.bias is None else self.bias.chunk(2)
        gate = torch.ops.mkldnn._linear_pointwise(x, halves.gate, for_gate, "gelu", [], "none")
        value = torch.ops.mkldnn._linear_pointwise(x, halves.value, for_value, "none", [], "")
        return gate.mul_(value)


class PackedConv2d(_Packed):
    """(B,C,H,W) -> (B,D,h,w), padded with zeros. In the way of winograd.py from the first size on for which it pays."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        assert not isinstance(layer.padding, str)
        self.how = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels

    def _layout(self, size: torch.Size) -> Any:
        if isinstance(self._packed, WinogradKernel):
            return self._packed.laid_out_for(size)
        return super()._layout(size)

    def pack(self, weight: Tensor, size: torch.Size) -> Any:
        if self.how == _SAME and pays(weight, size[0], *size[2:]):
            return WinogradKernel.of(weight, size)
        dense = weight.contiguous().to_mkldnn()
        packed: Tensor = torch.ops.aten.mkldnn_reorder_conv2d_weight(dense, *self.how, list(size))
        return packed

    def forward(self, x: Tensor) -> Tensor:
        if not self.packs:
            padding, stride, dilation, groups = self.how
            return F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
        weight = self.packed_for(x.shape)
        if isinstance(weight, WinogradKernel):
            return weight.convolve(x, self.bias)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.how, "none", [], "")
        return out


def pack(network: nn.Module) -> None:
    """Exchanges the large layers of a network that is on a CPU, in place."""
    for layer in network.modules():
        if isinstance(layer, GEGLU) and isinstance(layer.proj, nn.Linear) and is_large(layer.proj):
            layer.proj, layer.gates_itself = PackedGEGLU(layer.proj), True
    exchange(network, lambda layer: PackedLinear(layer) if isinstance(layer, nn.Linear) else PackedConv2d(layer), _kept)


def _kept(name: str) -> bool:
    """The first layer is asked for its data type."""
    return name == "conv_in"


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether torch has these kernels here: they do not emulate a precision that the CPU does not compute."""
    if not torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
