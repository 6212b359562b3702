"""Random weights to start from."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from stablediff.checkpoints.fill import NoInit
from stablediff.config import CLIPConfig, UNetConfig, VAEConfig
from stablediff.errors import ConfigError
from stablediff.fallback import is_out_of_memory
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.layers import ResnetBlock, SpatialTransformer
from stablediff.models.unet import UNet
from stablediff.models.vae import VAE

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def new_vae(config: VAEConfig) -> VAE:
    """With random weights. Raises ConfigError if its sizes do not fit together."""
    side = 4 * config.downscale

    def try_out(vae: VAE) -> None:
        pictures = torch.zeros(1, config.image_channels, side, side)
        _expect(config.image_channels in (3, 4), f"pictures have {config.image_channels} channels instead of 3 or 4")
        _expect(vae.decode(vae.encode(pictures)).shape == pictures.shape, "pictures come out in another size")

    return _new("vae", lambda: VAE(config), try_out)


def new_text_encoder(config: CLIPConfig) -> CLIPTextEncoder:
    """With random weights. Raises ConfigError if its sizes do not fit together."""

    def try_out(encoder: CLIPTextEncoder) -> None:
        encoder(torch.zeros(1, config.max_length, dtype=torch.int64))

    encoder = _new("text", lambda: CLIPTextEncoder(config), try_out)
    initialise_text_encoder(encoder)
    return encoder


def new_unet(config: UNetConfig, latent_channels: int, text: CLIPConfig) -> UNet:
    """With random weights, for these latents and texts. Raises ConfigError if its sizes do not fit, or not to them."""

    def try_out(unet: UNet) -> None:
        latents = torch.zeros(1, latent_channels, 8, 8)
        context, pooled = torch.zeros(1, 4, text.hidden_size), torch.zeros(1, text.projection_size or text.hidden_size)
        answer: Tensor = unet(latents, torch.zeros(1, dtype=torch.int64), context, pooled, torch.zeros(1, 6))
        _expect(answer.shape == latents.shape, f"it answers with {answer.shape[1]} channels to {latent_channels}")

    unet = _new("unet", lambda: UNet(config), try_out)
    initialise_unet(unet)
    return unet


def _new(table: str, build: Callable[[], NetworkT], try_out: Callable[[NetworkT], None]) -> NetworkT:
    """Tried out on a device where nothing is computed, before there are weights."""
    try:
        with torch.device("meta"), torch.no_grad(), NoInit():
            try_out(build())
    except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError) as error:
        raise ConfigError(
            f"the sizes in [{table}] do not fit together ({str(error)[:200]}): the ready ones are in configs/"
        ) from error
    try:
        return build()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"the sizes in [{table}] do not fit into memory: choose smaller ones") from error


def _expect(good: bool, otherwise: str) -> None:
    if not good:
        raise ValueError(otherwise)


@torch.no_grad()
def initialise_text_encoder(encoder: CLIPTextEncoder) -> None:
    """As CLIP was (Radford et al. 2021; Radford et al. 2019): small, and smaller where layers add up."""
    width, depth = encoder.config.hidden_size, encoder.config.num_layers
    nn.init.normal_(encoder.embeddings.token_embedding.weight, std=0.02)
    nn.init.normal_(encoder.embeddings.position_embedding.weight, std=0.01)
    for name, module in encoder.encoder.named_modules():
        if isinstance(module, nn.Linear):
            std = (2 * width) ** -0.5 if name.endswith("fc1") else width**-0.5
            if name.endswith(("out_proj", "fc2")):
                std *= (2 * depth) ** -0.5
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def initialise_unet(unet: UNet) -> None:
    """Every branch starts silent, so that the network begins as a short chain of convolutions (Ho et al. 2020)."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, SpatialTransformer):
            nn.init.zeros_(module.proj_out.weight)
    nn.init.zeros_(unet.conv_out.weight)
    if unet.conv_out.bias is not None:
        nn.init.zeros_(unet.conv_out.bias)
