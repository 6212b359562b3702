"""Models -> a diffusers folder that the reference libraries load too; whole, or not at all."""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from stablediff.checkpoints.locate import former_place
from stablediff.checkpoints.suggest import DEFAULTS
from stablediff.config import CLIPConfig, ModelConfig, ScheduleConfig, UNetConfig, VAEConfig
from stablediff.errors import CheckpointError
from stablediff.files import DRAFT, draft_of, sync
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.tokenizer import CLIP_START, Tokenizer
from stablediff.models.unet import UNet
from stablediff.models.vae import VAE

_MARKS = ("model_index.json", "config.json", "tokenizer_config.json")  # of a model, and of its parts
# Distilled models are recognised by the scheduler that they name; the others run with any.
_SCHEDULERS = {"lcm": "LCMScheduler", "euler_ancestral": "EulerAncestralDiscreteScheduler"}


def save_parts(
    folder: Path,
    config: ModelConfig,
    text_encoders: list[CLIPTextEncoder],
    tokenizers: list[Tokenizer],
    unet: UNet,
    vae: VAE,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes beside `folder` first and renames at the end; killed at any moment, the former model is still found.

    `dtype` is the precision on disk (None: the networks' own); `texts` are further files by name.
    """
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder} exists already: choose another name, or overwrite=True")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise CheckpointError(f"{dtype!r} is no precision for weights: choose torch.float16 or another float")
    check_replaceable(folder)
    try:
        draft = draft_folder(folder)
    except OSError as error:
        raise CheckpointError(f"cannot write beside {folder}: {error.strerror}. Choose another place.") from error
    scheduler = schedule_settings(config.schedule, config.defaults.sampler)
    try:
        index: dict[str, Any] = {
            "_class_name": "StableDiffusionXLPipeline" if config.kind == "sdxl" else "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", scheduler["_class_name"]],
        }
        if config.kind == "sdxl":
            index["force_zeros_for_empty_prompt"] = config.zero_empty_negative
        else:
            index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
            index["requires_safety_checker"] = False
        for suffix, encoder, tokenizer in zip(("", "_2"), text_encoders, tokenizers, strict=False):
            projected = encoder.config.projection_size is not None
            architecture = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
            index[f"text_encoder{suffix}"] = ["transformers", architecture]
            write_json(draft / f"text_encoder{suffix}" / "config.json", clip_settings(encoder.config, architecture))
            write_weights(draft / f"text_encoder{suffix}" / "model.safetensors", encoder, transformers_name, dtype)
            index[f"tokenizer{suffix}"] = ["transformers", write_tokenizer(draft / f"tokenizer{suffix}", tokenizer)]
        cells = config.defaults.width // config.vae.downscale
        write_json(draft / "unet" / "config.json", unet_settings(config.unet) | {"sample_size": cells})
        write_weights(draft / "unet" / "diffusion_pytorch_model.safetensors", unet, dtype=dtype)
        write_json(draft / "vae" / "config.json", vae_settings(config.vae) | {"sample_size": config.defaults.width})
        write_weights(draft / "vae" / "diffusion_pytorch_model.safetensors", vae, dtype=dtype)
        write_json(draft / "scheduler" / "scheduler_config.json", scheduler)
        write_json(draft / "model_index.json", index)
        write_json(draft / DEFAULTS, asdict(config.defaults))
        for name, text in (texts or {}).items():
            (draft / name).write_text(text, encoding="utf-8")
        replace_folder(draft, folder)
    except OSError as error:
        raise CheckpointError(
            f"cannot save {folder}: {error.strerror or error}. Free some space or choose another place; "
            "nothing that was there is lost."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Raises CheckpointError if there is something that is no model: it would be lost."""
    for there in (folder, former_place(folder)):
        if there.is_dir() and (any((there / name).is_file() for name in _MARKS) or not any(there.iterdir())):
            continue
        if there.exists() or there.is_symlink():
            raise CheckpointError(f"{there} is there and is no model: move it away, or choose another name")


def draft_folder(folder: Path) -> Path:
    """A new folder beside `folder`, whose place it is to take. Raises OSError."""
    draft = folder.parent / f"{DRAFT}{secrets.token_hex(8)}"
    draft.mkdir(parents=True)
    return draft


def replace_folder(draft: Path, folder: Path) -> None:
    """Puts `draft` in the place of `folder`; between the two renames, `locate` finds the former one."""
    check_replaceable(folder)
    _sync_tree(draft)
    previous = former_place(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    try:
        draft.rename(folder)
    except OSError:
        if previous.exists():
            previous.rename(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def write_json(path: Path, settings: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_weights(
    path: Path, module: nn.Module, rename: Any = lambda name: name, dtype: torch.dtype | None = None
) -> None:
    state = {
        rename(name): t.detach().to("cpu", dtype or t.dtype).contiguous() for name, t in module.state_dict().items()
    }
    try:
        with draft_of(path) as draft:
            save_file(state, draft, metadata={"format": "pt"})
    except SafetensorError as error:  # what a full disk is to this library
        raise OSError(str(error)) from error


def transformers_name(name: str) -> str:
    """All versions of transformers read this prefix; only the newest do without it."""
    return name if name.startswith("text_projection") else f"text_model.{name}"


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> str:
    """-> the name of the class that transformers reads it with."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = tokenizer.backend
    bos, eos, pad = (backend.id_to_token(i) for i in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id))
    is_clip = bos == CLIP_START
    name = "CLIPTokenizer" if is_clip else "PreTrainedTokenizerFast"
    if is_clip:
        model = json.loads(backend.to_str())["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")
    else:
        backend.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": name,
            "bos_token": bos,
            "eos_token": eos,
            "unk_token": eos if is_clip else "<|unk|>",
            "pad_token": pad,
            "model_max_length": tokenizer.max_length,
        },
    )
    return name


def clip_settings(config: CLIPConfig, architecture: str) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_length,
        "hidden_act": config.activation,
        "layer_norm_eps": config.layer_norm_eps,
        "projection_dim": config.projection_size or config.hidden_size,
        "bos_token_id": config.eos_token_id - 1,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": 1,
    }


def unet_settings(config: UNetConfig) -> dict[str, Any]:
    crosses = [depth > 0 for depth in config.transformer_depth]
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.num_resnets,
        "down_block_types": ["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crosses],
        "up_block_types": ["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(crosses)],
        # The last entry is the middle's depth as well; a level without attention ignores its own.
        "transformer_layers_per_block": [max(d, 1) for d in config.transformer_depth[:-1]]
        + [config.mid_transformer_depth],
        "attention_head_dim": list(config.num_heads),
        "cross_attention_dim": config.context_dim,
        "use_linear_projection": config.linear_projection,
        "upcast_attention": config.upcast_attention,
        "norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "addition_embed_type": None if config.added_conditioning == "none" else config.added_conditioning,
        "addition_embed_type_num_heads": config.added_text_heads,
        "addition_time_embed_dim": config.added_size_dim if config.added_conditioning == "text_time" else None,
        "projection_class_embeddings_input_dim": (
            config.added_input_dim if config.added_conditioning == "text_time" else None
        ),
        "time_cond_proj_dim": config.guidance_embedding_dim,
    }


def vae_settings(config: VAEConfig) -> dict[str, Any]:
    levels = len(config.channels)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": config.num_resnets,
        "norm_num_groups": config.norm_groups,
        "mid_block_add_attention": config.mid_attention,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.post_quant_conv,
        "scaling_factor": config.scaling_factor,
        "force_upcast": config.force_upcast,
        **({"patch_size": config.patch_size} if config.patch_size > 1 else {}),
    }


def schedule_settings(schedule: ScheduleConfig, sampler: str) -> dict[str, Any]:
    """`sampler` is the one that the model is usually drawn with."""
    return {
        "_class_name": _SCHEDULERS.get(sampler, "DDIMScheduler"),
        "num_train_timesteps": schedule.num_train_timesteps,
        "beta_schedule": schedule.beta_schedule,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "prediction_type": schedule.prediction_type,
        "rescale_betas_zero_snr": schedule.rescale_zero_snr,
        "clip_sample": False,
        "steps_offset": schedule.steps_offset,
        "set_alpha_to_one": schedule.set_alpha_to_one,
        **({"timestep_spacing": schedule.spacing} if schedule.spacing else {}),
    }
