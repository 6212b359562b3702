"""A tiny decoder's file -> the network, its sizes read from the shapes of its tensors.

Two layouts: diffusers' AutoencoderTiny ("decoder.layers.0.weight") and TAESD's own ("1.weight", behind a clamp).
"""

import re
from pathlib import Path

from stablediff.checkpoints.fill import Builder
from stablediff.checkpoints.layouts import Source
from stablediff.checkpoints.load import weight_files
from stablediff.checkpoints.locate import Location, locate_weights
from stablediff.checkpoints.tensors import TensorSource, open_tensors
from stablediff.config import ModelConfig
from stablediff.device import Compute
from stablediff.errors import CheckpointError
from stablediff.models.tiny_decoder import TinyDecoder, TinyDecoderConfig

_PREFIXES = (("decoder.layers.", 0), ("decoder.", 1), ("", 1))  # and the number of the first layer
_LAYER = re.compile(r"(\d{1,3})\.(.+)")


def locate_decoder(name: str | Path) -> Location:
    """name: a .safetensors file, a folder that holds one, or a hub id. Raises CheckpointError."""
    return locate_weights(str(name), "decoder", "madebyollin/taesd/taesd_decoder.safetensors")


def load_tiny_decoder(location: Location, model: ModelConfig, compute: Compute) -> TinyDecoder:
    """Raises CheckpointError."""
    try:
        files = [location.path] if location.is_file else weight_files(location.path, allow_pickle=False)
    except CheckpointError as error:
        raise CheckpointError(
            f"{location.path} has no .safetensors weights: name the decoder's file, or the folder that holds it"
        ) from error
    tensors = open_tensors(files)
    prefix, first = next((p for p in _PREFIXES if f"{p[0]}{p[1]}.weight" in tensors.shapes), ("", -1))
    if first < 0:
        raise CheckpointError(f"{location.path} holds no tiny decoder: choose TAESD's, or one in its layout")
    config = _config(tensors, prefix, location.path)
    latent, image, scale = model.vae.latent_channels, model.vae.image_channels, model.vae.downscale
    if (config.latent_channels, config.out_channels, config.upscale) != (latent, image, scale):
        raise CheckpointError(
            f"{location.path} makes {config.out_channels} channels of {config.latent_channels}, {config.upscale} times "
            f"the size, where this model needs {image} of {latent}, {scale} times: choose a decoder for its latents"
        )
    builder = Builder(compute)
    decoder = builder.build(TinyDecoder, config)

    def find(key: str) -> Source:
        match = _LAYER.fullmatch(key.removeprefix("layers."))
        assert match
        return Source(f"{prefix}{int(match[1]) + first}.{match[2]}")

    used = [key for key in tensors.shapes if key.startswith(prefix) and _LAYER.fullmatch(key.removeprefix(prefix))]
    builder.fill(decoder, tensors, find, used=used, what=str(location.path), dtype=compute.dtype, dropped=())
    return decoder


def _config(tensors: TensorSource, prefix: str, path: Path) -> TinyDecoderConfig:
    """Blocks have several convolutions; a doubling stands before a convolution without a bias."""
    layers: dict[int, set[str]] = {}
    for key in tensors.shapes:
        match = _LAYER.fullmatch(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if match:
            layers.setdefault(int(match[1]), set()).add(match[2])
    blocks = [0]
    for number in sorted(layers):
        if "conv.0.weight" in layers[number]:
            blocks[-1] += 1
        elif "bias" not in layers[number]:
            blocks.append(0)
    first, last = (tensors.shapes[f"{prefix}{number}.weight"] for number in (min(layers), max(layers)))
    if len(first) != 4 or len(last) != 4:
        raise CheckpointError(f"{path} holds no tiny decoder: its first or last layer is no convolution")
    return TinyDecoderConfig(first[1], last[0], first[0], tuple(blocks))
