"""A whole CLIP, both towers, from a folder in the layout of transformers' CLIPModel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stablediff.checkpoints.fill import Builder
from stablediff.checkpoints.layouts import Source
from stablediff.checkpoints.load import weight_files
from stablediff.checkpoints.settings import clip_config, read_settings
from stablediff.checkpoints.tensors import open_tensors
from stablediff.checkpoints.vocabulary import read_tokenizer
from stablediff.config import CLIPConfig
from stablediff.device import Compute
from stablediff.errors import CheckpointError
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.clip_vision import CLIPVisionConfig, CLIPVisionEncoder
from stablediff.models.tokenizer import Tokenizer

# What transformers leaves out of a file where it is as in CLIP ViT-B/32.
_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_DROPPED = (r"logit_scale", r".*position_ids")


@dataclass(frozen=True)
class ClipModel:
    """Both towers, and how to read text for them."""

    text: CLIPTextEncoder
    vision: CLIPVisionEncoder
    tokenizer: Tokenizer


def load_clip(folder: Path, device: torch.device | None = None) -> ClipModel:
    """In float32. Raises CheckpointError."""
    settings = read_settings(folder / "config.json")
    if "text_config" not in settings or "vision_config" not in settings:
        raise CheckpointError(f"{folder} holds no whole CLIP with both towers: name a folder of CLIPModel.")
    try:
        text_config, vision_config = _configs(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json is not CLIP's ({error}): get it again.") from error
    builder = Builder(Compute(device or torch.device("cpu"), torch.float32, "to measure"))
    tensors = open_tensors(weight_files(folder, allow_pickle=False))
    towers = (
        (builder.build(CLIPTextEncoder, text_config), "text_model.", "text_projection.weight"),
        (builder.build(CLIPVisionEncoder, vision_config), "vision_model.", "visual_projection.weight"),
    )
    for tower, prefix, projection in towers:
        own = [key for key in tensors.shapes if key.startswith(prefix) or key == projection]

        def find(key: str, prefix: str = prefix, projection: str = projection) -> Source:
            return Source(key if key == projection else prefix + key)

        builder.fill(tower, tensors, find, used=own, what=str(folder), dtype=torch.float32, dropped=_DROPPED)
    return ClipModel(towers[0][0], towers[1][0], read_tokenizer(folder, text_config))


def _configs(settings: dict[str, Any]) -> tuple[CLIPConfig, CLIPVisionConfig]:
    shared = {"projection_dim": settings.get("projection_dim", 512)}
    named = {"architectures": ["CLIPTextModelWithProjection"]}
    text = clip_config({**_TEXT, **settings["text_config"], **shared, **named}, penultimate=False)
    vision = {**_VISION, **settings["vision_config"], **shared}
    layers = clip_config({**vision, "architectures": ["CLIPVisionModel"]}, penultimate=False)
    return text, CLIPVisionConfig(
        layers, int(vision.get("image_size", 224)), int(vision.get("patch_size", 32)), int(vision["projection_dim"])
    )
