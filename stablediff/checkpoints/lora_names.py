"""How the tensors of a LoRA file are named: by diffusers, today and formerly, and by kohya's scripts."""

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from stablediff.checkpoints.layouts import ldm_source, ldm_unet
from stablediff.checkpoints.save import transformers_name
from stablediff.models.unet import UNet

# What a tensor is to its layer, by the end of its name.
ENDS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}

# What other kinds of deltas are called, by what gives them away.
_OTHER_KINDS = (
    (r"[._]hada_", "LoHa"),
    (r"[._]lokr_", "LoKr"),
    (r"dora_scale|lora_magnitude_vector", "DoRA"),
    (r"lora_mid\b", "LoCon in Tucker form"),
    (r"[._]b?oft_", "OFT"),
    (r"\.on_input$", "IA3"),
    (r"\.diff(_b)?$", "full differences"),
    (r"lora.*\.bias$", "LoRA with biases"),
)

_KOHYA = {"unet": ("lora_unet",), "text_encoder": ("lora_te", "lora_te1"), "text_encoder_2": ("lora_te2",)}
# In the text encoders, the first diffusers layout called attention's layers as the U-Net does.
_OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def other_kind(names: Iterable[str]) -> tuple[str, str] | None:
    """(kind, tensor) if the file holds deltas that are no plain LoRA."""
    for name in names:
        for pattern, kind in _OTHER_KINDS:
            if re.search(pattern, name):
                return kind, name
    return None


def split(name: str) -> tuple[str, str] | None:
    """A tensor's name -> its layer as the file calls it, and what it is to the layer: "down", "up" or "alpha"."""
    for end, role in ENDS.items():
        if name.endswith(end):
            return name.removesuffix(end).replace(".processor.", "."), role
    return None


def layer_names(networks: Mapping[str, nn.Module]) -> dict[str, tuple[str, str]]:
    """{what files call a layer: (our network, our layer)}, for all layers that can have a LoRA."""
    table: dict[str, tuple[str, str]] = {}
    for network, module in networks.items():
        ldm = ldm_unet(module.config) if isinstance(module, UNet) else {}
        for layer, child in module.named_modules():
            if isinstance(child, nn.Linear | nn.Conv2d):
                table |= dict.fromkeys(_aliases(network, layer, ldm), (network, layer))
    return table


def _aliases(network: str, layer: str, ldm: dict[str, str]) -> Iterator[str]:
    names = [layer] if network == "unet" else [layer, f"text_model.{layer}"]
    parent, _, last = layer.rpartition(".")
    if network != "unet" and last in _OLD_TEXT:
        names += [f"{parent}.{_OLD_TEXT[last]}", f"text_model.{parent}.{_OLD_TEXT[last]}"]
    for name in names:
        yield f"{network}.{name}"
        yield f"{network}.{name.removesuffix('.0')}"  # to_out.0 was to_out
        if network == "unet":  # before files had more than one network in them
            yield from (name, name.removesuffix(".0"))
    source = ldm_source(f"{layer}.weight", ldm)
    if source:  # for SDXL, kohya's scripts use the names of the original code
        names.append(source.key.removesuffix(".weight"))
    for prefix in _KOHYA[network]:
        yield from (f"{prefix}_{name.replace('.', '_')}" for name in names)


def diffusers_name(network: str, name: str) -> str:
    """`….to_q.lora_A.weight` of one of our networks, as diffusers writes it."""
    if network == "unet":
        return f"unet.{name}"
    # It knows layers of text encoders other than attention's by this ending alone.
    name = name.replace(".lora_A.", ".lora_linear_layer.down.").replace(".lora_B.", ".lora_linear_layer.up.")
    return f"{network}.{transformers_name(name)}"
