"""Random LoRAs made by peft on the reference's networks, and saved by diffusers or as kohya's scripts name things."""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from ldm import ldm_unet
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from tiny import TinyModel, save_tensors
from torch import Tensor, nn

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
EVERYTHING = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "conv")
NETWORKS = ("unet", "text_encoder", "text_encoder_2")


def copy_of(model: TinyModel) -> DiffusionPipeline:
    """The reference with networks of its own, which adapters may change."""
    parts = {key: part for key, part in model.reference.components.items() if part is not None}
    for name in NETWORKS:
        if name in parts:
            parts[name] = copy.deepcopy(parts[name])
    if "text_encoder_2" in parts:
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def add_random_lora(
    network: nn.Module, targets: Iterable[str], *, rank: int = 4, alpha: float = 6, **more: Any
) -> None:
    """By peft; strong enough to change what the network says."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=False, **more)
    network.add_adapter(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            fan_in = parameter[0].numel()
            parameter.data.normal_(std=(0.2 / fan_in) ** 0.5, generator=generator)


def save_by_diffusers(model: DiffusionPipeline, folder: Path, *, metadata: bool = True) -> Path:
    """-> the folder, with all adapters of the model's networks in one file."""
    options: dict[str, Any] = {}
    for name in NETWORKS:
        network = getattr(model, name, None)
        if network is None or not getattr(network, "peft_config", None):
            continue
        state = get_peft_model_state_dict(network)
        options[f"{name}_lora_layers"] = state if name == "unet" else convert_state_dict_to_diffusers(state)
        if metadata:
            options[f"{name}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    type(model).save_lora_weights(folder, **options)
    return folder


def random_lora(model: TinyModel, folder: Path, targets: Iterable[str] = ATTENTION, *, text: bool = True) -> Path:
    pipeline = copy_of(model)
    add_random_lora(pipeline.unet, targets)
    for name in NETWORKS[1:]:
        if text and hasattr(pipeline, name):
            add_random_lora(getattr(pipeline, name), TEXT)
    return save_by_diffusers(pipeline, folder)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "pytorch_lora_weights.safetensors")


# --- other layouts ----------------------------------------------------------------------------------------------------

_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


def halves(tensors: dict[str, Tensor]) -> Iterable[tuple[str, str, str, Tensor]]:
    """(network, layer, "down" or "up", tensor) of a file by diffusers."""
    for key, tensor in tensors.items():
        network, _, rest = key.partition(".")
        layer, half = rest, ""
        for end, role in ((".lora_A.weight", "down"), (".lora_B.weight", "up")):
            if rest.endswith(end):
                layer, half = rest.removesuffix(end), role
        for role in ("down", "up"):
            for infix in (".lora_linear_layer.", ".lora."):
                if rest.endswith(f"{infix}{role}.weight"):
                    layer, half = rest.removesuffix(f"{infix}{role}.weight"), role
        assert half
        yield network, layer, half, tensor


def to_kohya(
    tensors: dict[str, Tensor], path: Path, alpha: float, rename: Callable[[str], str] = str, *, sdxl: bool = False
) -> Path:
    """`rename`: the U-Net's layers, for files that name them as the original code does."""
    out = {}
    for network, layer, half, tensor in halves(tensors):
        name = rename(layer) if network == "unet" else f"text_model.{layer.removeprefix('text_model.')}"
        prefix = "lora_te1" if sdxl and network == "text_encoder" else _KOHYA[network]
        stem = f"{prefix}_{name.replace('.', '_')}"
        out[f"{stem}.lora_{half}.weight"] = tensor
        out[f"{stem}.alpha"] = torch.tensor(alpha)
    return save_tensors(out, path)


def ldm_renamer(unet: nn.Module) -> Callable[[str], str]:
    """The reference's name of a layer -> the original code's."""
    weights = [key for key in unet.state_dict() if key.endswith(".weight")]
    renamed = ldm_unet({key: key for key in weights})  # type: ignore[dict-item, misc]
    names = {str(ours): theirs for theirs, ours in renamed.items()}
    return lambda layer: names[f"{layer}.weight"].removesuffix(".weight")


def to_old_diffusers(tensors: dict[str, Tensor], path: Path, *, text: str) -> Path:
    """As until 2023: processors in the U-Net, and in text encoders `text`, "to_q_lora" or "lora_linear_layer"."""
    out = {}
    for network, layer, half, tensor in halves(tensors):
        parent, _, last = layer.rpartition(".")
        if network == "unet":
            parent, last = (parent.removesuffix(".to_out"), "to_out") if last == "0" else (parent, last)
            out[f"unet.{parent}.processor.{last}_lora.{half}.weight"] = tensor
            continue
        prefix = f"{network}.text_model.{layer.removeprefix('text_model.')}"
        if text == "lora_linear_layer":
            out[f"{prefix}.lora_linear_layer.{half}.weight"] = tensor
        else:
            old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}[last]
            out[f"{prefix.removesuffix(last)}{old}_lora.{half}.weight"] = tensor
    return save_tensors(out, path)
