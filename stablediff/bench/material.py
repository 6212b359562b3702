"""What all engines are given: a folder with the same weights, and the same embeddings, noise and noise levels."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stablediff.bench.workloads import Workload, bundled_model
from stablediff.checkpoints.locate import CLIP_MERGES, locate
from stablediff.checkpoints.save import save_parts
from stablediff.checkpoints.settings import read_model_config
from stablediff.config import ModelConfig
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.diffusion.spacing import step_sigmas
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.tokenizer import clip_tokenizer
from stablediff.models.unet import UNet, guidance_embedding
from stablediff.models.vae import VAE

_TOKENS = 77
_LCM_GUIDANCE = 8.0


@dataclass(frozen=True)
class Material:
    """`inputs`: latents (1,L,h,w), context (rows,T,D) and whatever else the network takes."""

    workload: Workload
    folder: Path  # of the model
    work: Path  # where engines keep what they make of it
    inputs: dict[str, Tensor]
    sigmas: list[float]
    config: ModelConfig


def make_material(workload: Workload, folder: Path) -> Path:
    """Writes model and inputs, or finds them there whole. -> `folder`."""
    if is_made(workload, folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # of another model, or cut off
    folder.mkdir(parents=True)
    if workload.config is not None:
        _save_random(workload.config, folder / "model")
    save_file(make_inputs(workload, _config(workload)), folder / "inputs.safetensors")
    (folder / "done.json").write_text(_about(workload, folder), encoding="utf-8")
    return folder


def is_made(workload: Workload, folder: Path) -> bool:
    """Whether it is there whole, and of this workload."""
    try:
        return (folder / "done.json").read_text(encoding="utf-8") == _about(workload, folder)
    except (OSError, UnicodeDecodeError):
        return False


def _about(workload: Workload, folder: Path) -> str:
    """What it was made of, and the sizes of its files, so that one that was cut off shows, or another bundled model."""
    files = [*folder.glob("*.safetensors"), *(folder / "model").rglob("*.*")]
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files if file.is_file()}
    bundled = [] if workload.config else sorted(locate(bundled_model()).path.rglob("*.safetensors"))
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in bundled]
    return json.dumps([repr(workload), sizes, *digests], sort_keys=True)


def read_material(workload: Workload, folder: Path) -> Material:
    model = folder / "model" if workload.config is not None else locate(bundled_model()).path
    config = _config(workload)
    schedule = NoiseSchedule(config.schedule)
    sigmas = step_sigmas(schedule, "trailing", workload.steps, kind=config.kind)
    return Material(workload, model, folder, load_file(folder / "inputs.safetensors"), sigmas, config)


def _config(workload: Workload) -> ModelConfig:
    return workload.config or read_model_config(locate(bundled_model()).path)


def _save_random(config: ModelConfig, folder: Path) -> None:
    """Seeded weights, as torch initialises layers: they keep the scale of what goes through, so all stays finite."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = [CLIPTextEncoder(text) for text in config.text_encoders]
        unet, vae = UNet(config.unet), VAE(config.vae)
    for network in (*encoders, unet, vae):
        network.requires_grad_(False)
    save_parts(folder, config, encoders, [clip_tokenizer(CLIP_MERGES) for _ in encoders], unet, vae)


def make_inputs(workload: Workload, config: ModelConfig) -> dict[str, Tensor]:
    """Seeded noise of the right shapes; the conditional row first, as everywhere here."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    unet, cell = config.unet, config.vae.downscale
    rows = 2 if workload.guidance > 1 and unet.guidance_embedding_dim is None else 1
    inputs = {
        "latents": randn(1, config.vae.latent_channels, workload.height // cell, workload.width // cell),
        "context": randn(rows, _TOKENS if workload.config else config.text_encoders[0].max_length, unet.context_dim),
    }
    if unet.added_conditioning == "text_time":
        inputs["pooled"] = randn(rows, unet.added_input_dim - 6 * unet.added_size_dim)
        sizes = [workload.height, workload.width, 0, 0, workload.height, workload.width]
        inputs["size_ids"] = torch.tensor([sizes] * rows)
    if unet.guidance_embedding_dim:
        inputs["guidance"] = torch.full((rows,), _LCM_GUIDANCE)
        inputs["guidance_embedding"] = guidance_embedding(inputs["guidance"], unet.guidance_embedding_dim)
    return inputs


def count_flops(material: Material) -> dict[str, float]:
    """Of one forward with all rows and of decoding one picture, a multiply-add being two: counted on "meta"."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = {name: tensor.to("meta") for name, tensor in material.inputs.items()}
    rows = len(inputs["context"])
    latents = inputs["latents"].expand(rows, -1, -1, -1)

    def count(network: nn.Module, call: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            call(network)
        return float(counter.get_total_flops())

    with torch.device("meta"), torch.no_grad():
        unet, vae = UNet(material.config.unet), VAE(material.config.vae)
        more = {name: inputs[name] for name in ("pooled", "size_ids", "guidance") if name in inputs}
        forward = count(unet, lambda net: net(latents, torch.zeros(rows), inputs["context"], **more))
        decode = count(vae, lambda net: net.decode(latents[:1]))
    return {"forward": forward, "decode": decode}
