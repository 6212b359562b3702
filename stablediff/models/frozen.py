"""Layers whose weights only draw: kept in a form that is fast, and no longer to be trained."""

from collections.abc import Callable

from torch import nn

_LEAST = 64  # channels in and out: below it there is nothing to win


class FrozenLayer(nn.Module):
    """In place of a linear layer or a convolution. Its weight is no parameter, but counts as one here."""

    num_weights: int
    weight_bytes: float  # each


def is_large(layer: nn.Linear | nn.Conv2d) -> bool:
    return min(layer.weight.shape[:2]) >= _LEAST


def exchange(
    network: nn.Module, make: Callable[[nn.Linear | nn.Conv2d], FrozenLayer], kept: Callable[[str], bool]
) -> None:
    """Puts `make(layer)` in place of each large layer of `network`, but for those whose name is to be kept."""
    for name, layer in list(network.named_modules()):
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not is_large(layer) or kept(name):
            continue
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, make(layer))


def count_weights(network: nn.Module) -> int:
    """Of all layers, frozen ones among them."""
    return sum(p.numel() for p in network.parameters()) + sum(layer.num_weights for layer in _frozen(network))


def count_bytes(network: nn.Module) -> int:
    plain = sum(p.numel() * p.element_size() for p in network.parameters())
    return plain + round(sum(layer.num_weights * layer.weight_bytes for layer in _frozen(network)))


def _frozen(network: nn.Module) -> list[FrozenLayer]:
    return [layer for layer in network.modules() if isinstance(layer, FrozenLayer)]
