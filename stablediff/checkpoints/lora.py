"""LoRA files -> deltas attached to networks, and back. Strict: every tensor must have its place, and fit there."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from stablediff.checkpoints import lora_names
from stablediff.checkpoints.fill import KIND_NAMES, NoInit
from stablediff.checkpoints.locate import LORA_FILE, locate_lora
from stablediff.checkpoints.lora_alpha import ADAPTER_SETTINGS, AdapterSettings, to_alpha, to_settings
from stablediff.checkpoints.settings import kind_of
from stablediff.checkpoints.tensors import SafetensorsSource
from stablediff.errors import CheckpointError
from stablediff.files import draft_of
from stablediff.models.lora import attach, check_scale, lora_state, refuse_attached
from stablediff.models.unet import UNet

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # those that can be made float32
Networks = Mapping[str, nn.Module]  # "unet", "text_encoder" and, in SDXL, "text_encoder_2"
Place = tuple[str, str]  # one of those, and a layer of it
Roles = dict[str, str]  # "down", "up" and perhaps "alpha" -> the tensor's name in the file

_CONTEXT_DIMS = {768: KIND_NAMES["sd1"], 1024: KIND_NAMES["sd2"], 2048: KIND_NAMES["sdxl"]}


def load_lora(name: str | Path, networks: Networks, scale: float = 1.0) -> str:
    """Attaches a LoRA to the networks that it changes. -> its name.

    name: a .safetensors file (of diffusers or kohya), a folder with pytorch_lora_weights.safetensors, or a hub id.
    Raises CheckpointError that says which tensor does not fit and what to do; then nothing was attached.
    """
    check_scale(scale)
    for module in networks.values():
        refuse_attached(module)
    location = locate_lora(str(name))
    tensors = SafetensorsSource([location.path])
    layers = _layers(tensors, networks, location.path.name)
    alphas = _alphas(tensors, layers)
    pairs = {}
    for place, roles in layers.items():
        pairs[place] = [tensors.read(roles[role], _own_float) for role in ("down", "up")]
        if not all(matrix.isfinite().all() for matrix in pairs[place]):
            raise CheckpointError(f"{location.path.name}: {roles['down']} or {roles['up']} is not finite: get it again")
    for (network, layer), (down, up) in pairs.items():
        target = networks[network].get_submodule(layer)
        assert isinstance(target, nn.Linear | nn.Conv2d)
        with NoInit():
            lora = attach(target, len(down), alphas[network, layer])
        lora.scale = scale
        with torch.no_grad():
            lora.A.weight.copy_(down.reshape(lora.A.weight.shape))
            lora.B.weight.copy_(up.reshape(lora.B.weight.shape))
    return location.name


def _own_float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32, copy=True)


def _alphas(tensors: SafetensorsSource, layers: dict[Place, Roles]) -> dict[Place, float]:
    """A layer's own tensor counts more than what the file's header says of all."""
    settings = AdapterSettings(tensors.metadata)
    alphas = {}
    for (network, layer), roles in layers.items():
        if "alpha" in roles:
            alphas[network, layer] = to_alpha(tensors.read(roles["alpha"], _own_float).item(), roles["alpha"])
        else:
            alphas[network, layer] = settings.alpha(network, layer, rank=tensors.shapes[roles["down"]][0])
    return alphas


def _layers(tensors: SafetensorsSource, networks: Networks, file: str) -> dict[Place, Roles]:
    """Which tensors of the file belong to which of our layers, if all of them do and fit."""
    other = lora_names.other_kind(tensors.shapes)
    if other:
        raise CheckpointError(
            f"{file} is a {other[0]} (it has {other[1]}), which is not computed here: choose a plain LoRA, or a model "
            "with this one merged in"
        )
    table = lora_names.layer_names(networks)
    layers: dict[Place, Roles] = {}
    unknown = []
    for name in tensors.shapes:
        stem, role = lora_names.split(name) or ("", "")
        if stem not in table:
            unknown.append(name)
        elif role in layers.setdefault(table[stem], {}):
            raise CheckpointError(f"{file} has {name} twice, also as {layers[table[stem]][role]}: get another copy")
        else:
            layers[table[stem]][role] = name
    if not any(lora_names.split(name) for name in tensors.shapes):
        first = ", ".join(sorted(tensors.shapes)[:3]) or "none"
        raise CheckpointError(f"{file} is no LoRA (its first tensors: {first}): if it is a model, give it with --model")
    if unknown:
        more = f" and {len(unknown) - 1} more" if unknown[1:] else ""
        raise CheckpointError(
            f"{file} has {unknown[0]}{more}, for which this model has no layer: {_advice(tensors, networks)}"
        )
    for (network, layer), roles in layers.items():
        problem = _problem(tensors, roles, networks[network].get_submodule(layer))
        if problem:
            raise CheckpointError(f"{file}: {problem}: {_advice(tensors, networks)}")
    return layers


def _problem(tensors: SafetensorsSource, roles: Roles, layer: nn.Module) -> str | None:
    """What is wrong with the tensors of one layer."""
    for role, name in roles.items():
        whole = role == "alpha" and tensors.dtypes[name].startswith(("I", "U"))
        if not whole and tensors.dtypes[name] not in _FLOATS:
            return f"{name} holds {tensors.dtypes[name]} numbers, which are not weights"
    for role, partner in (("down", "up"), ("up", "down")):
        if role not in roles:
            return f"{roles.get(partner) or roles['alpha']} has no partner, the matrix that goes {role}"
    shapes = {role: tensors.shapes[name] for role, name in roles.items()}
    if shapes.get("alpha", ()) not in ((), (1,)):
        return f"{roles['alpha']} is {list(shapes['alpha'])}, and should be a single number"
    weight = layer.weight.shape
    assert isinstance(weight, torch.Size)
    rank = (*shapes["down"], 0)[0]
    if shapes["down"][:1] == (0,):
        return f"{roles['down']} is {list(shapes['down'])}, which is empty"
    wanted = {"down": (rank, *weight[1:]), "up": (weight[0], rank, *(1 for _ in weight[2:]))}
    for role, shape in wanted.items():
        if _core(shapes[role]) != _core(shape):
            if role == "up" and len(_core(shapes["up"])) == 2 and shapes["up"][0] == weight[0]:
                return f"{roles['down']} {list(shapes['down'])} and {roles['up']} {list(shapes['up'])} differ in rank"
            return f"{roles[role]} is {list(shapes[role])}, and the model's layer takes {list(shape)}"
    return None


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """1x1 convolutions and linear layers are stored either way."""
    return shape[:2] if shape[2:] == (1, 1) else tuple(shape)


def _advice(tensors: SafetensorsSource, networks: Networks) -> str:
    unet = networks.get("unet")
    model = KIND_NAMES[kind_of(unet.config)] if isinstance(unet, UNet) else "another"
    made = _made_for(tensors.shapes)
    if made and made != model:
        return f"this LoRA is for {made}, and the model is {model}; choose a LoRA that was made for it"
    return f"it may be for another model than {model}, or damaged; choose another LoRA, or get it again"


def _made_for(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What kind of model a LoRA was trained on, as far as its tensors tell."""
    for name, shape in shapes.items():
        if re.search(r"double_blocks|joint_blocks|^(lora_)?transformer[._]", name):
            return "another architecture, such as Flux or Stable Diffusion 3"
        if name.startswith(("text_encoder_2.", "lora_te2_")):
            return KIND_NAMES["sdxl"]
        stem, role = lora_names.split(name) or ("", "")
        if role == "down" and re.search(r"attn2[._]to_[kv]$", stem) and len(shape) > 1:
            return _CONTEXT_DIMS.get(shape[1])
    return None


def save_lora(path: str | Path, networks: Networks, *, overwrite: bool = False) -> Path:
    """Writes what is attached to the networks as diffusers does, whole or not at all. -> the file.

    path: a .safetensors file, or a folder for pytorch_lora_weights.safetensors. Raises CheckpointError.
    """
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / LORA_FILE
    if file.exists() and not overwrite:
        raise CheckpointError(f"{file} exists already: choose another name, or overwrite=True")
    state = {
        lora_names.diffusers_name(network, name): tensor.cpu().contiguous()
        for network, module in networks.items()
        for name, tensor in lora_state(module).items()
    }
    if not state:
        raise CheckpointError("no LoRA is attached to these networks: attach_lora first, then save")
    try:
        with draft_of(file, lasting=True) as draft:
            save_file(state, draft, metadata={"format": "pt", ADAPTER_SETTINGS: to_settings(networks)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot save {file} ({error}): free some space or choose another place; nothing that was there is lost"
        ) from error
    return file
