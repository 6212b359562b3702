"""Tiny Stable Diffusion models with random weights, made and saved by the reference libraries.

They have all that the real ones have (every kind of block, both text towers, CLIP's vocabulary), but few channels.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from ldm import single_file
from reference import draw_weights
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.convert_slow_tokenizer import bytes_to_unicode

from stablediff.checkpoints.locate import CLIP_MERGES

logging.getLogger("diffusers").setLevel(logging.ERROR)  # it warns about settings as old as the real checkpoints'
logging.getLogger("transformers").setLevel(logging.ERROR)

KINDS = ("sd1", "sd2", "sdxl")
_SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


@dataclass(frozen=True)
class TinyModel:
    reference: DiffusionPipeline
    folder: Path
    file: Path  # the same as one LDM file, for the kinds that have such files


def save_model(kind: str, folder: Path) -> TinyModel:
    model = make_model(kind)
    model.save_pretrained(folder)
    model.set_progress_bar_config(disable=True)
    file = folder.with_suffix(".safetensors")
    if kind in KINDS:
        save_tensors(single_file(model), file)
    return TinyModel(model, folder, file)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return path


def make_model(kind: str) -> DiffusionPipeline:
    """kind: one of KINDS; "lcm" is SD 1 with the guidance scale as an input, "inpaint" SD 1 with nine channels."""
    if kind == "sdxl":
        return StableDiffusionXLPipeline(
            text_encoder=_clip(64, activation="quick_gelu", seed=1),
            text_encoder_2=_clip(128, activation="gelu", seed=2, projected=True),
            tokenizer=clip_tokenizer(),
            tokenizer_2=clip_tokenizer(pad_token="!"),
            unet=_unet(
                channels=(64, 64, 128),
                depth=(1, 2, 3),
                attention=(False, True, True),
                context=64 + 128,
                attention_head_dim=(1, 1, 2),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=128 + 6 * 256,
            ),
            vae=_vae(layers=1, scaling_factor=0.13025, force_upcast=True),
            scheduler=EulerDiscreteScheduler(**_SCHEDULE, timestep_spacing="leading"),
        )
    sd2 = kind == "sd2"
    channels = (64, 64, 128, 128) if sd2 else (32, 64, 64)
    more: dict[str, Any] = {"attention_head_dim": 8}
    if sd2:
        more = {"attention_head_dim": (1, 1, 2, 2), "use_linear_projection": True}
    elif kind == "lcm":
        more["time_cond_proj_dim"] = 48
    elif kind == "inpaint":
        more["in_channels"] = 9
    scheduler = PNDMScheduler(**_SCHEDULE, skip_prk_steps=True)
    if sd2:
        scheduler = DDIMScheduler(
            **_SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
        )
    elif kind == "lcm":
        scheduler = LCMScheduler(**_SCHEDULE)
    pipeline_class = LatentConsistencyModelPipeline if kind == "lcm" else StableDiffusionPipeline
    return pipeline_class(
        text_encoder=_clip(128, activation="gelu") if sd2 else _clip(64, activation="quick_gelu"),
        tokenizer=clip_tokenizer(pad_token="!") if sd2 else clip_tokenizer(),
        unet=_unet(
            channels=channels,
            depth=(1,) * len(channels),
            attention=(True,) * (len(channels) - 1) + (False,),
            context=128 if sd2 else 64,
            **more,
        ),
        vae=_vae(layers=2),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def randomize(model: nn.Module, seed: int) -> Any:
    model.load_state_dict(draw_weights(model.state_dict(), seed), strict=True)
    return model.eval().requires_grad_(False)


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's vocabulary by its own rule: bytes, bytes that end a word, merges, and two marks."""
    merges = CLIP_MERGES.read_text(encoding="utf-8").splitlines()[1:]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    return {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}, merges


def clip_tokenizer(**options: Any) -> transformers.CLIPTokenizer:
    vocabulary, merges = clip_vocabulary()
    return transformers.CLIPTokenizer(
        vocab=vocabulary, merges=[tuple(pair.split()) for pair in merges], model_max_length=77, **options
    )


def write_old_tokenizer(folder: Path, **settings: Any) -> None:
    """As transformers wrote it before version 5: two files that only together make a tokenizer."""
    vocabulary, merges = clip_vocabulary()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(settings), encoding="utf-8")


def _clip(hidden: int, *, activation: str, projected: bool = False, seed: int = 0) -> nn.Module:
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=hidden // 64,
        hidden_act=activation,
        projection_dim=hidden,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return randomize(kind(config), seed)


def _unet(
    *, channels: tuple[int, ...], depth: tuple[int, ...], attention: tuple[bool, ...], context: int, **more: Any
) -> UNet2DConditionModel:
    return randomize(
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=channels,
            layers_per_block=2,
            transformer_layers_per_block=depth,
            down_block_types=["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
            up_block_types=["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)],
            cross_attention_dim=context,
            **more,
        ),
        seed=3,
    )


def _vae(*, layers: int, **more: Any) -> AutoencoderKL:
    channels = (32, 32, 64, 64)
    return randomize(
        AutoencoderKL(
            block_out_channels=channels,
            layers_per_block=layers,
            down_block_types=["DownEncoderBlock2D"] * len(channels),
            up_block_types=["UpDecoderBlock2D"] * len(channels),
            latent_channels=4,
            sample_size=64,
            **more,
        ),
        seed=4,
    )
