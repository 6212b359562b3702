"""A Stable Diffusion of a few thousand random weights, whole in all its parts: for what needs no sense in its pictures.

Laid out like SD 1.x, so a latent cell is 8 pixels, and 64x64 pixels are 8x8 cells.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageChops
from torch import Tensor, nn

from stablediff import Pipeline, Request, Result, Update, generate
from stablediff.checkpoints.fill import LoadReport
from stablediff.checkpoints.locate import CLIP_MERGES
from stablediff.config import CLIPConfig, Defaults, ModelConfig, UNetConfig, VAEConfig
from stablediff.device import Compute
from stablediff.images import over_white
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.tokenizer import Tokenizer, clip_tokenizer
from stablediff.models.unet import UNet
from stablediff.models.vae import VAE

_UNET = UNetConfig(
    channels=(8, 16), num_resnets=1, transformer_depth=(1, 0), num_heads=(2, 2), context_dim=8, norm_groups=4
)


def toy_pipeline(dtype: torch.dtype = torch.float32, **unet: Any) -> Pipeline:
    config = ModelConfig(
        text_encoders=(CLIPConfig(hidden_size=8, intermediate_size=16, num_layers=2, num_heads=2),),
        unet=replace(_UNET, **unet),
        vae=VAEConfig(channels=(4, 8, 8, 8), num_resnets=1, norm_groups=4),
        defaults=Defaults(num_steps=3, width=64, height=64),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = CLIPTextEncoder(config.text_encoders[0]), UNet(config.unet), VAE(config.vae)
    nn.init.constant_(parts[0].final_layer_norm.bias, 0.3)  # a trained tower's outputs do not have a mean of 0 either
    encoder, unet_module, vae = (part.eval().requires_grad_(False).to(dtype) for part in parts)
    return Pipeline(
        name="toy",
        config=config,
        text_encoders=[encoder],
        tokenizers=[_tokenizer()],
        unet=unet_module,
        vae=vae,
        compute=Compute(torch.device("cpu"), dtype, "a toy"),
        report=LoadReport("toy", Path("toy"), "F32"),
    )


@cache
def _tokenizer() -> Tokenizer:
    return clip_tokenizer(CLIP_MERGES)


def draw(pipeline: Pipeline, **wishes: Any) -> Result:
    return events(pipeline, **wishes)[1]


def events(
    pipeline: Pipeline, should_stop: Callable[[], bool] = lambda: False, **wishes: Any
) -> tuple[list[Update], Result]:
    *updates, result = generate(pipeline, Request(**wishes), should_stop)
    assert isinstance(result, Result)
    assert all(isinstance(update, Update) for update in updates)
    return updates, result


def count_rows(inputs: tuple[Any, ...]) -> int:
    """What a module answers with: a U-Net asks its one picture with as many prompts as it gets."""
    return len(inputs[2] if len(inputs) > 2 else inputs[0])


@contextmanager
def count_calls(module: nn.Module) -> Iterator[list[int]]:
    """A list that gets an entry, the batch size, with every forward pass."""
    calls: list[int] = []
    handle = module.register_forward_hook(lambda _module, inputs, _output: calls.append(count_rows(inputs)))
    yield calls
    handle.remove()


@contextmanager
def spoil(module: nn.Module, when: Callable[[int], bool] = lambda _call: True, upto: Any = None) -> Iterator[None]:
    """NaN instead of what the module computes, at those calls (from 1), as long as its weights have the type `upto`."""
    count = 0

    def nan(spoilt: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal count
        count += 1
        if not when(count) or upto not in (None, next(spoilt.parameters()).dtype):
            return output
        if isinstance(output, Tensor):
            return output * torch.nan
        return output._replace(context=output.context * torch.nan)

    handle = module.register_forward_hook(nan)
    yield
    handle.remove()


@contextmanager
def no_memory(
    module: nn.Module, when: Callable[[Tensor], bool] = lambda _input: True, error: Exception | None = None
) -> Iterator[None]:
    """Memory runs out in the module whenever its input is like that."""

    def refuse(_module: nn.Module, inputs: Any) -> None:
        if when(inputs[0]):
            raise error or MemoryError

    handle = module.register_forward_pre_hook(refuse)
    yield
    handle.remove()


# Of so few cells a thing alone would often be nothing at all.
APPLE: dict[str, Any] = {
    "prompt": "red apple on a yellow background, flat style",
    "num_steps": 2,
    "width": 96,
    "height": 64,
}


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest of all pixels, as they look over white, in steps of 1/255."""
    return max(high for _, high in ImageChops.difference(over_white(one), over_white(other)).getextrema())


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    histogram = ImageChops.difference(over_white(one), over_white(other)).convert("L").histogram()
    return sum(value * count for value, count in enumerate(histogram)) / sum(histogram)


def is_picture(image: Image.Image) -> bool:
    """Not of one colour, as pictures are whose numbers were not finite."""
    return any(low < high for low, high in over_white(image).getextrema())
