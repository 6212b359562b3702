"""Stage 1, the autoencoder: pictures <-> latents that a U-Net can learn (Rombach et al. 2022, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stablediff.checkpoints.parts import load_vae, load_vae_config, save_vae
from stablediff.config import VAEConfig
from stablediff.errors import ConfigError
from stablediff.images import to_images
from stablediff.training.config import LoopConfig, check_range
from stablediff.training.crops import Crops, to_model
from stablediff.training.discriminator import PatchDiscriminator, adversarial_losses
from stablediff.training.initialise import new_vae
from stablediff.training.reconstruction import colour_loss, kl_divergence, psnr, pyramid_l1, saturate
from stablediff.training.savable import check_savable_vae
from stablediff.training.sheets import contact_sheet
from stablediff.training.stage import Batch, Stage

_WEIGHTS = ("edges", "laplacian", "colour", "squared", "kl", "adversarial")
_FEWER = 4  # smaller crops for one larger one


@dataclass(frozen=True)
class AutoencoderConfig:
    """A stage file. Weights of losses are relative to the pixels' own."""

    loop: LoopConfig
    # Of the icons, which are learnt (none: all).
    styles: tuple[str, ...] = ()
    crop: int = 128
    # From this share of the run on, crops of twice the side, a quarter as many.
    larger_crops_from: float = 0.65
    edges: float = 0.3
    laplacian: float = 0.0
    colour: float = 1.0
    # Weighs large errors more: what PSNR counts.
    squared: float = 0.0
    kl: float = 1e-3
    # The deviation of noise put on latents before decoding, drawn from 0 to this, so that the decoder forgives the
    # U-Net's errors.
    latent_noise: float = 0.0
    # How often latents are shrunk to half before decoding, to the picture of half the size: a picture's latents at two
    # sizes become alike (Kouzelis et al. 2025, EQ-VAE, arXiv:2502.09509).
    equivariance: float = 0.25
    adversarial: float = 0.0
    adversarial_from: float = 0.8
    freeze_encoder: bool = False
    vae: VAEConfig = field(default_factory=VAEConfig)
    # A folder to start from instead of random weights; `vae` is what is there.
    init: Path | None = None

    def __post_init__(self) -> None:
        check_range("equivariance", self.equivariance, 0, 1)
        for name in (*_WEIGHTS, "latent_noise", "adversarial_from", "larger_crops_from"):
            check_range(name, getattr(self, name), 0)
        if self.init is not None:
            object.__setattr__(self, "vae", load_vae_config(self.init))
        check_savable_vae(self.vae)
        if not (self.freeze_encoder or (self.vae.quant_conv and self.vae.post_quant_conv)):
            raise ConfigError("latents would keep any scale: choose quant_conv and post_quant_conv = true in [vae]")
        cell = self.vae.downscale * (2 if self.equivariance else 1)
        if cell < 1 or self.crop < 16 or self.crop % cell:
            raise ConfigError(f"crop is {self.crop}: choose a multiple of {cell}, and 16 or more")


class AutoencoderStage(Stage):
    """Learns from random crops of `pictures`; measures on `held_out`, whole."""

    def __init__(self, config: AutoencoderConfig, crops: Crops, held_out: Sequence[NDArray[np.uint8]]) -> None:
        super().__init__()
        self.config, self.crops, self.held_out = config, crops, held_out
        self.has_idle_parameters = config.adversarial > 0  # until the judge begins
        self.rows_multiple = _FEWER if config.larger_crops_from < 1 else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            self.vae = new_vae(config.vae) if config.init is None else load_vae(config.init)
            if config.adversarial:
                self.judge = PatchDiscriminator(config.vae.image_channels)
        if config.freeze_encoder:
            self.vae.encoder.requires_grad_(requires_grad=False)
            if self.vae.quant_conv is not None:
                self.vae.quant_conv.requires_grad_(requires_grad=False)

    def batch(self, step: int, rows: slice) -> Batch:
        config = self.config
        progress, side = step / config.loop.steps, config.crop
        if progress >= config.larger_crops_from:
            side, rows = 2 * side, slice(rows.start // _FEWER, rows.stop // _FEWER)
        streams = [np.random.default_rng((config.loop.seed, step, row)) for row in range(rows.start, rows.stop)]
        pictures = torch.stack([self.crops.draw(stream, side) for stream in streams])
        cells = side // config.vae.downscale
        shape = (config.vae.latent_channels, cells, cells)
        noise = np.stack([stream.standard_normal((2, *shape), dtype=np.float32) for stream in streams])
        chances = np.stack([stream.random(1, dtype=np.float32) for stream in streams])
        # All rows of a batch are shrunk, or none: the first row of the whole batch decides.
        shrunk = np.random.default_rng((config.loop.seed, step)).random() < config.equivariance
        return {
            "pictures": pictures,
            "noise": torch.from_numpy(noise),
            "noise_level": torch.from_numpy(chances) * config.latent_noise,
            "shrunk": torch.full((len(streams),), bool(shrunk)),
        }

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        config, original = self.config, batch["pictures"]
        moments = self.vae.moments(original)
        mean, logvar = moments.mean.float(), moments.logvar.float()
        z = mean + (0.5 * logvar).exp() * batch["noise"][:, 0]
        # The noise is measured in units of the latents' own deviation.
        z = z + batch["noise_level"][:, :, None, None] * mean.detach().std() * batch["noise"][:, 1]
        if batch["shrunk"][0]:
            z, original = F.avg_pool2d(z, 2), F.avg_pool2d(original, 2)
        decoded = self.vae.decode(z * config.vae.scaling_factor).float()
        seen = saturate(decoded, original)
        pixels = pyramid_l1(seen, original, config.edges, config.laplacian)
        colour, kl = colour_loss(seen, original), kl_divergence(mean, logvar)
        figures = {"pixels": pixels, "colour": colour, "kl": kl}
        loss = pixels + config.colour * colour + config.kl * kl
        if config.squared:
            figures["squared"] = F.mse_loss(seen, original)
            loss = loss + config.squared * figures["squared"]
        if config.adversarial and progress >= config.adversarial_from:
            figures["fooling"], figures["judge"] = adversarial_losses(self.judge, decoded, original)
            loss = loss + config.adversarial * figures["fooling"] + figures["judge"]
        return {"loss": loss, **figures}

    def _reconstruct(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        """-> (B,C,H,W) decoded and original, on the CPU; one at a time, because they are large."""
        device = next(self.vae.parameters()).device
        originals = [to_model(picture, self.crops.channels) for picture in pictures]
        decoded = [self.vae.decode(self.vae.encode(x[None].to(device)))[0].float().cpu() for x in originals]
        return torch.stack(decoded), torch.stack(originals)

    def measure(self) -> dict[str, float]:
        if not self.held_out:
            return {}
        decoded, original = self._reconstruct(self.held_out)
        return {"held_out_psnr": psnr(decoded, original).mean().item()}

    def sheet(self) -> Image.Image | None:
        """Originals above, decoded below."""
        if not self.held_out:
            return None
        decoded, original = self._reconstruct(self.held_out[:8])
        return contact_sheet([*to_images(original), *to_images(decoded)], columns=len(original))

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """The autoencoder, its latents brought to mean 0 and deviation 1, channel by channel, unless they must stay."""
        if not self.config.freeze_encoder:  # what reads its latents knows them as they are
            self.normalise_latents()
        save_vae(folder, self.vae)

    def normalise_latents(self, count: int = 256) -> None:
        """Folds each channel's mean μ and deviation s into the 1x1 convolutions at both ends of the latents: exact.

        z' = (z - μ) / s leaves `quant_conv`, and z = s·z' + μ enters `post_quant_conv`. As latents are z' times the
        scaling factor, that factor is a part of s.
        """
        quant, post = self.vae.quant_conv, self.vae.post_quant_conv
        assert quant is not None
        assert post is not None
        assert quant.bias is not None
        assert post.bias is not None
        device, size = quant.weight.device, 4 * self.config.crop
        streams = [np.random.default_rng((self.config.loop.seed, 10**9, i)) for i in range(count)]
        means = [
            self.vae.moments(self.crops.draw(stream, size)[None].to(device)).mean.float().cpu() for stream in streams
        ]
        latents = torch.cat([m.transpose(0, 1).flatten(1) for m in means], dim=1).to(device)  # (L, count·h·w)
        mu, s = latents.mean(dim=1), latents.std(dim=1).clamp(min=1e-4) * self.config.vae.scaling_factor
        channels = len(mu)
        quant.weight[:channels] /= s[:, None, None, None]
        quant.bias[:channels] = (quant.bias[:channels] - mu) / s
        quant.bias[channels:] -= 2 * s.log()  # the log-variance follows
        post.bias += post.weight[:, :, 0, 0] @ mu
        post.weight *= s[None, :, None, None]
