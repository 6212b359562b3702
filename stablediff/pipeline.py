"""The loaded parts of a model together, and nothing else."""

from dataclasses import dataclass
from pathlib import Path

import torch

from stablediff.checkpoints.fill import LoadReport
from stablediff.checkpoints.load import load_parts
from stablediff.checkpoints.locate import DEFAULT_MODEL, locate
from stablediff.checkpoints.save import save_parts
from stablediff.config import ModelConfig, PredictionType
from stablediff.device import Compute, choose_compute
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.tokenizer import Tokenizer
from stablediff.models.unet import UNet
from stablediff.models.vae import VAE


@dataclass
class Pipeline:
    """What `generate` draws with. `load` makes one; the parts may be exchanged (another `vae`, say) at will."""

    name: str
    config: ModelConfig
    text_encoders: list[CLIPTextEncoder]
    tokenizers: list[Tokenizer]
    unet: UNet
    vae: VAE
    compute: Compute
    report: LoadReport

    @property
    def device(self) -> torch.device:
        return self.compute.device

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule(self.config.schedule)

    @property
    def takes_mask(self) -> bool:
        """Whether the U-Net was trained for inpainting: noise, mask and known picture go in side by side."""
        return self.config.unet.in_channels == 2 * self.config.vae.latent_channels + 1

    def describe(self) -> str:
        """A line for the user: what was loaded, from where, and where it computes."""
        report = self.report
        millions = sum(p.numel() for p in self.unet.parameters()) / 1e6
        prediction = self.config.schedule.prediction_type
        return (
            f"{self.name}: {report.kind}, U-Net of {millions:.0f} M parameters, {prediction}, stored as "
            f"{report.stored_dtype.lower()} · {self.compute.reason}"
        )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes a diffusers folder, whole or not at all. Raises CheckpointError if `folder` is taken."""
        save_parts(Path(folder), self.config, self.text_encoders, self.tokenizers, self.unet, self.vae, overwrite)


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    prediction_type: PredictionType | None = None,
    allow_pickle: bool = False,
) -> Pipeline:
    """Loads the bundled model ("sticker"), a diffusers folder, a single file, or a hub id ("owner/name").

    device: "cpu", "cuda", "cuda:1", "mps" or None for the best. dtype: "float32", "bfloat16", "float16" or None for the
    fastest that is safe there. Raises CheckpointError or DeviceError, whose text says what to do.
    """
    compute = choose_compute(device, dtype)
    location = locate(str(model))
    parts = load_parts(location, compute, prediction_type=prediction_type, allow_pickle=allow_pickle)
    return Pipeline(
        name=location.name,
        config=parts.config,
        text_encoders=parts.text_encoders,
        tokenizers=parts.tokenizers,
        unet=parts.unet,
        vae=parts.vae,
        compute=compute,
        report=parts.report,
    )
