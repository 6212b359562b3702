"""Small stages that learn from sixteen coloured shapes, whole in all their parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from toy import toy_pipeline

from stablediff import Pipeline
from stablediff.config import CLIPConfig, VAEConfig
from stablediff.models.tokenizer import Tokenizer
from stablediff.training.autoencoder import AutoencoderConfig, AutoencoderStage
from stablediff.training.config import LoopConfig
from stablediff.training.crops import Crops, to_model
from stablediff.training.diffusion import DiffusionStage
from stablediff.training.initialise import initialise_text_encoder, initialise_unet
from stablediff.training.material import Shown
from stablediff.training.objective import ObjectiveConfig
from stablediff.training.text_encoder import TextEncoderConfig, TextEncoderStage
from stablediff.training.vocabulary import learn_vocabulary

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "grey": (128, 128, 128)}
SHAPES = ("square", "disc", "ring", "bar")


def shape(index: int, side: int = 64) -> NDArray[np.uint8]:
    """A coloured shape on a clear ground: 16 of them, (side,side,4)."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    radius = np.hypot(x, y)
    masks = (np.maximum(abs(x), abs(y)) < 0.3, radius < 0.35, abs(radius - 0.3) < 0.1, abs(x) < 0.15)
    picture = np.zeros((side, side, 4), np.uint8)
    picture[masks[index % 4]] = (*list(COLOURS.values())[index // 4 % 4], 255)
    return picture


class ShapePictures:
    def __init__(self, num: int = 16) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def picture(self, index: int) -> NDArray[np.uint8]:
        return shape(index)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        words = f"{list(COLOURS)[index // 4 % 4]} {SHAPES[index % 4]}"
        return words if rng.random() < 0.5 else f"a {words}"


TINY_VAE = VAEConfig(
    in_channels=16,
    out_channels=16,
    latent_channels=4,
    channels=(16, 32),
    num_resnets=1,
    norm_groups=4,
    mid_attention=False,
    scaling_factor=1.0,
    patch_size=2,
)


def loop(**changes: object) -> LoopConfig:
    options = {"steps": 60, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 5, "sheet_steps": 10**6}
    return LoopConfig(**{**options, "ema_decay": 0.9, "precision": "float32", **changes})  # type: ignore[arg-type]


def autoencoder(**changes: object) -> AutoencoderStage:
    options = {"loop": loop(), "crop": 32, "vae": TINY_VAE, "larger_crops_from": 0.9, **changes}
    return AutoencoderStage(AutoencoderConfig(**options), Crops(shape, 16, 4), [shape(0), shape(5)])  # type: ignore[arg-type]


def shown(num: int = 16, channels: int = 4, cells: int = 8) -> Shown:
    """Latents that tell shape and colour, as of a perfect autoencoder of `cells` x `cells`."""
    pixels = torch.stack([to_model(shape(i, cells), 4)[:channels] for i in range(num)])
    return Shown(pixels.half(), np.arange(num), ShapePictures(num))


def text_stage(tokenizer: Tokenizer | None = None, **changes: object) -> TextEncoderStage:
    text = CLIPConfig(vocab_size=700, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, max_length=16)
    if tokenizer is None:
        rng, pictures = np.random.default_rng(0), ShapePictures()
        tokenizer = learn_vocabulary([pictures.caption(i % 16, rng) for i in range(200)], 700, 16)
    text = replace(text, vocab_size=tokenizer.backend.get_vocab_size(), eos_token_id=tokenizer.eos_id)
    config = TextEncoderConfig(loop=loop(**changes), vae=Path("unused"), text=text)
    return TextEncoderStage(config, tokenizer, shown(), shown())


def diffusion(pipeline: Pipeline | None = None, **options: object) -> DiffusionStage:
    pipeline = pipeline or toy_pipeline()
    pipeline.unet.requires_grad_(requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        initialise_text_encoder(pipeline.text_encoders[0])
        initialise_unet(pipeline.unet)
    settings = {"objective": ObjectiveConfig("uniform"), "seed": 0, "size": 64, "text_rate": 0.5, **options}
    return DiffusionStage(pipeline, shown(), shown(4), **settings)  # type: ignore[arg-type]
