"""A location on disk -> networks with their weights: strict, memory-mapped, one tensor at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from stablediff.checkpoints import layouts
from stablediff.checkpoints.detect import detect_single_file
from stablediff.checkpoints.fill import Builder, LoadReport
from stablediff.checkpoints.layouts import Source
from stablediff.checkpoints.locate import CLIP_MERGES, Location
from stablediff.checkpoints.progress import Progress, silent
from stablediff.checkpoints.settings import read_model_config, read_settings
from stablediff.checkpoints.suggest import with_habits
from stablediff.checkpoints.tensors import open_tensors
from stablediff.checkpoints.vocabulary import read_tokenizer
from stablediff.config import ModelConfig, PredictionType
from stablediff.device import Compute
from stablediff.errors import CheckpointError, RequestError
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.tokenizer import Tokenizer, clip_tokenizer
from stablediff.models.unet import UNet
from stablediff.models.vae import VAE


@dataclass
class Parts:
    """Everything that a checkpoint holds."""

    config: ModelConfig
    text_encoders: list[CLIPTextEncoder]
    tokenizers: list[Tokenizer]
    unet: UNet
    vae: VAE
    report: LoadReport


def load_parts(
    location: Location,
    compute: Compute,
    *,
    prediction_type: PredictionType | None = None,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> Parts:
    """Reads a diffusers folder or a single file. Raises CheckpointError: which tensor, which file, what to do.

    `prediction_type` overrides what the checkpoint says, or what its tensors suggest. `progress` hears of every tensor.
    """
    if prediction_type not in (None, *get_args(PredictionType)):
        raise RequestError(f"prediction_type is {prediction_type!r}: choose {', '.join(get_args(PredictionType))}")
    if location.is_file:
        parts = _load_single_file(location, Builder(compute, progress=progress), allow_pickle)
    else:
        parts = _load_folder(location, Builder(compute, progress=progress), allow_pickle)
    if prediction_type is not None:
        schedule = replace(parts.config.schedule, prediction_type=prediction_type)
        parts.config = replace(parts.config, schedule=schedule)
    return parts


def _load_folder(location: Location, builder: Builder, allow_pickle: bool) -> Parts:
    folder, compute = location.path, builder.compute
    config = read_model_config(folder)

    def fill(module: nn.Module, name: str, dtype: torch.dtype) -> None:
        tensors = open_tensors(weight_files(folder / name, allow_pickle), allow_pickle=allow_pickle)
        builder.fill(
            module,
            tensors,
            lambda key: layouts.folder_source(key, tensors.shapes),
            used=tensors.shapes,
            what=f"{folder.name}/{name}",
            dtype=dtype,
            dropped=layouts.FOLDER_DROPPED,
        )

    names = ["", "_2"][: len(config.text_encoders)]
    encoders = [builder.build(CLIPTextEncoder, text_config) for text_config in config.text_encoders]
    unet, vae = builder.build(UNet, config.unet), builder.build(VAE, config.vae)
    builder.expect(*encoders, unet, vae)
    tokenizers = []
    for suffix, text_config, encoder in zip(names, config.text_encoders, encoders, strict=True):
        fill(encoder, f"text_encoder{suffix}", compute.dtype)
        tokenizers.append(read_tokenizer(folder / f"tokenizer{suffix}", text_config))
    fill(unet, "unet", compute.dtype)
    fill(vae, "vae", compute.vae_dtype(config.vae.force_upcast))
    config = with_habits(config, location.name, folder)
    return Parts(config, encoders, tokenizers, unet, vae, builder.report(config, folder))


def weight_files(folder: Path, allow_pickle: bool) -> list[Path]:
    """The files of one part: whole or in shards, in full precision rather than float16, pickles only if allowed."""
    files = _usual(folder, ("diffusion_pytorch_model", "model"), ".safetensors")
    if files:
        return files
    # Old repositories keep several variants side by side, and the plain name is the one to draw with.
    pickles = _usual(folder, ("diffusion_pytorch_model", "pytorch_model"), ".bin")
    pickles = pickles or sorted(p for p in folder.glob("*.bin") if p.is_file())[:1]
    if pickles and allow_pickle:
        return pickles
    also = " (only pickles, which can run code: get the safetensors version, or --allow-pickle)" if pickles else ""
    raise CheckpointError(f"{folder} has no .safetensors weights{also}: the model is not complete, get it again.")


def _usual(folder: Path, stems: Sequence[str], ending: str) -> list[Path]:
    """The files under the names that diffusers and transformers give them; empty if there are none."""
    for stem in stems:
        for variant in ("", ".fp16"):
            whole, index = folder / f"{stem}{variant}{ending}", folder / f"{stem}{ending}.index{variant}.json"
            if whole.is_file():
                return [whole]
            if index.is_file():
                return _shards(index)
    return []


def _shards(index: Path) -> list[Path]:
    table = read_settings(index).get("weight_map")
    names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
    if not names or any(Path(name).name != name or not (index.parent / name).is_file() for name in names):
        raise CheckpointError(f"{index} names files that are not beside it: the model is not complete, get it again.")
    return [index.parent / name for name in names]


def _load_single_file(location: Location, builder: Builder, allow_pickle: bool) -> Parts:
    compute = builder.compute
    tensors = open_tensors([location.path], allow_pickle=allow_pickle)
    config = detect_single_file(tensors)
    config = with_habits(config, location.name)

    def below(prefix: str, find: Callable[[str], Source | None]) -> Callable[[str], Source | None]:
        def prefixed(key: str) -> Source | None:
            source = find(key)
            return source and replace(source, key=prefix + source.key)

        return prefixed

    def fill(module: nn.Module, prefix: str, find: Callable[[str], Source | None], dtype: torch.dtype) -> None:
        # SD 2's last text layer is never run, because the U-Net reads the one before it.
        layers = config.text_encoders[0].num_layers
        unused = rf"cond_stage_model\.model\.transformer\.resblocks\.{layers}\..*"
        builder.fill(
            module,
            tensors,
            below(prefix, find),
            used=[key for key in tensors.shapes if key.startswith(prefix)],
            what=location.path.name,
            dtype=dtype,
            dropped=(*layouts.LDM_DROPPED, unused) if config.kind == "sd2" else layouts.LDM_DROPPED,
        )

    encoders = [builder.build(CLIPTextEncoder, text_config) for text_config in config.text_encoders]
    unet, vae = builder.build(UNet, config.unet), builder.build(VAE, config.vae)
    builder.expect(*encoders, unet, vae)
    tokenizers = []
    text_prefixes = layouts.text_prefixes(config.kind, tensors.shapes)
    for text_config, prefix, encoder in zip(config.text_encoders, text_prefixes, encoders, strict=True):
        openclip = f"{prefix}ln_final.weight" in tensors.shapes
        table = layouts.openclip_text(text_config)
        fill(encoder, prefix, table.get if openclip else Source, compute.dtype)
        tokenizers.append(
            clip_tokenizer(CLIP_MERGES, pad_id=0 if openclip else None, max_length=text_config.max_length)
        )

    unet_table, vae_table = layouts.ldm_unet(config.unet), layouts.ldm_vae(config.vae)
    fill(unet, layouts.UNET_PREFIX, lambda key: layouts.ldm_source(key, unet_table), compute.dtype)
    vae_dtype = compute.vae_dtype(config.vae.force_upcast)
    fill(vae, layouts.VAE_PREFIX, lambda key: layouts.ldm_source(key, vae_table), vae_dtype)
    builder.account_for_rest(tensors, location.path.name)
    return Parts(config, encoders, tokenizers, unet, vae, builder.report(config, location.path))
