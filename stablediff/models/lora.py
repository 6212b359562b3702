"""Low-rank deltas (LoRA, Hu et al. 2021, arXiv:2106.09685): W x becomes W x + scale · alpha / rank · B A x.

Attached, A and B can be trained while W rests, and every other tensor keeps its name. Merged, they are part of W.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stablediff.errors import RequestError
from stablediff.models.frozen import FrozenLayer

Layer = nn.Linear | nn.Conv2d

# Which layers, by the ends of their names. In the U-Net:
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "conv")
# In a text encoder:
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_FEED_FORWARD = ("fc1", "fc2")


class LoRA(nn.Module):
    """What one layer gains: its input, (…,I) or (B,I,h,w), -> what is added to its output, (…,O) or (B,O,h',w').

    A begins as the paper's code draws it and B as zero, so that at first nothing is added. Both are float32, whatever
    the layer is: a delta is too small for the steps of a half precision.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float) -> None:
        super().__init__()
        self.rank, self.alpha, self.scale = rank, alpha, 1.0
        self.A: Layer
        self.B: Layer
        if isinstance(layer, nn.Conv2d):
            window: Any = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
            self.A = nn.Conv2d(layer.in_channels, rank, **window, bias=False)
            self.B = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.A = nn.Linear(layer.in_features, rank, bias=False)
            self.B = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.kaiming_uniform_(self.A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.B.weight)
        self.to(layer.weight.device, torch.float32)  # drawn on the CPU before, so that a seed is the same everywhere
        self.hook = layer.register_forward_hook(_add_delta)

    @property
    def factor(self) -> float:
        return self.scale * self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.B(self.A(x.to(self.A.weight.dtype)))

    def delta(self) -> Tensor:
        """The same as a change of the layer's weight: (O,I) or (O,I,kh,kw), float32."""
        down, up = self.A.weight.float(), self.B.weight.float()
        return self.factor * (up.flatten(1) @ down.flatten(1)).unflatten(1, down.shape[1:])


def _add_delta(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    added: Tensor = layer.get_submodule("lora")(inputs[0])
    return output + added.to(output.dtype)


def attach(layer: Layer, rank: int, alpha: float) -> LoRA:
    """Gives one layer a LoRA, as its child `lora`."""
    lora = LoRA(layer, rank, alpha)
    layer.add_module("lora", lora)
    return lora


def attached(module: nn.Module) -> Iterator[tuple[str, Layer, LoRA]]:
    """All layers of the module that have a LoRA, with their names."""
    for name, layer in list(module.named_modules()):
        lora = layer._modules.get("lora")
        if isinstance(lora, LoRA) and isinstance(layer, Layer):
            yield name, layer, lora


def refuse_attached(module: nn.Module) -> None:
    """One at a time, and none where weights only draw. Raises RequestError."""
    if any(isinstance(layer, FrozenLayer) for layer in module.modules()):
        raise RequestError(
            "these weights were laid out for drawing: name the LoRA in load(), or load the model with trainable=True"
        )
    if any(attached(module)):
        raise RequestError("this network has a LoRA attached already: merge or detach that one first")


def attach_lora(
    module: nn.Module, rank: int = 4, alpha: float | None = None, targets: Iterable[str] = ATTENTION
) -> list[nn.Parameter]:
    """Gives a LoRA to every layer whose name ends with one of `targets`. -> what is to be trained, A and B of each.

    alpha: None for `rank`, which is a factor of 1. Attach after the weights are loaded. Raises RequestError.
    """
    alpha = float(rank) if alpha is None else alpha
    if not 1 <= rank <= 4096:
        raise RequestError(f"the LoRA's rank is {rank}: choose 1 to 4096, such as 4 or 16")
    if not (math.isfinite(alpha) and alpha > 0):
        raise RequestError(f"the LoRA's alpha is {alpha}: choose more than 0, such as the rank ({rank})")
    refuse_attached(module)
    ends = tuple(f".{target}" for target in targets)
    layers = [layer for name, layer in module.named_modules() if isinstance(layer, Layer) and f".{name}".endswith(ends)]
    if not layers:
        raise RequestError(f"no layer's name ends with any of {', '.join(ends)}: choose other targets")
    loras = [attach(layer, rank, alpha) for layer in layers]
    return [parameter for lora in loras for parameter in lora.parameters()]


def set_lora_scale(module: nn.Module, scale: float) -> None:
    """How much of the attached LoRA to use: 1 is all, 0 none. Raises RequestError if it is not finite."""
    check_scale(scale)
    for _, _, lora in attached(module):
        lora.scale = scale


def check_scale(scale: float) -> None:
    if not math.isfinite(scale) or abs(scale) > 100:
        raise RequestError(f"the LoRA's scale is {scale:g}: choose -100 to 100, such as 0.8")


@torch.no_grad()
def merge_lora(module: nn.Module) -> None:
    """Adds the deltas to the weights, in float32 and rounded once, and detaches.

    The weights become new tensors, because the old ones may lie in the mapping of a checkpoint's file.
    """
    for _, layer, lora in attached(module):
        weight = torch.empty_like(layer.weight).copy_(layer.weight.float() + lora.delta())
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    detach_lora(module)


def detach_lora(module: nn.Module) -> None:
    """Takes the LoRA away; the module is as it was before."""
    for _, layer, lora in attached(module):
        lora.hook.remove()
        del layer.lora


def lora_state(module: nn.Module) -> dict[str, Tensor]:
    """The attached A and B, named as in the diffusers layout: `….to_q.lora_A.weight`, `….to_q.lora_B.weight`."""
    return {
        f"{name}.lora_{letter}.weight": half.weight.detach()
        for name, _, lora in attached(module)
        for letter, half in (("A", lora.A), ("B", lora.B))
    }
