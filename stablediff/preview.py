"""A glimpse of unfinished latents without the autoencoder: each cell's colour as a linear function of its channels."""

from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stablediff.fallback import NotFiniteError, dtype_of
from stablediff.images import to_images
from stablediff.models.vae import VAE
from stablediff.pipeline import Pipeline

# Latent channels -> red, green, blue in [-1, 1], with a constant last, as fitted by ComfyUI's authors for the
# autoencoders that all SD 1.x and 2.x, and all SDXL, checkpoints share.
_KNOWN = {
    "sd": (
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
        (0.0, 0.0, 0.0),
    ),
    "sdxl": (
        (0.3651, 0.4232, 0.4341),
        (-0.2533, -0.0042, 0.1068),
        (0.1076, 0.1111, -0.0362),
        (-0.3165, -0.2492, -0.2188),
        (0.1084, -0.0175, -0.0011),
    ),
}


# Fitted once for each autoencoder, as long as it is in memory.
_FITTED: "WeakKeyDictionary[VAE, Tensor]" = WeakKeyDictionary()


class Previewer:
    """Latents -> small pictures, one pixel a cell."""

    def __init__(self, pipeline: Pipeline) -> None:
        kind = pipeline.config.kind
        if pipeline.config.vae.latent_channels == 4 and kind != "custom":
            self.factors = torch.tensor(_KNOWN["sdxl" if kind == "sdxl" else "sd"])
        else:
            if pipeline.vae not in _FITTED:
                _FITTED[pipeline.vae] = fit_colours(pipeline.present(pipeline.vae), pipeline.device)
            self.factors = _FITTED[pipeline.vae]

    def __call__(self, denoised: Tensor) -> list[Image.Image]:
        """(B,L,h,w) -> B pictures of w x h pixels."""
        latents = denoised.float().cpu()
        weights, bias = self.factors[:-1], self.factors[-1]
        return to_images(torch.einsum("blhw,lc->bchw", latents, weights) + bias[:, None, None])


@torch.inference_mode()
def fit_colours(vae: VAE, device: torch.device, cells: int = 8, samples: int = 12) -> Tensor:
    """Least squares from the latents of made-up pictures to their cells' mean colours: (L+1, C).

    Raises NotFiniteError.
    """
    pixels = colour_fields(samples, vae.config.image_channels, cells * vae.config.downscale)
    latents = vae.encode(pixels.to(device, dtype_of(vae))).float().cpu()
    if not torch.isfinite(latents).all():
        raise NotFiniteError
    colours = F.adaptive_avg_pool2d(pixels, cells)
    inputs = latents.permute(0, 2, 3, 1).flatten(0, 2)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    return torch.linalg.lstsq(inputs, colours.permute(0, 2, 3, 1).flatten(0, 2)).solution


def colour_fields(samples: int, channels: int, side: int) -> Tensor:
    """Random patches of colour on white, hard-edged and soft: (B,C,side,side) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(samples, channels, 6, 6, generator=generator) * 2 - 1
    hard = F.interpolate(coarse, size=(side, side), mode="nearest")
    soft = F.interpolate(coarse.flip(-1), size=(side, side), mode="bilinear")
    colours = torch.where(torch.arange(samples).view(-1, 1, 1, 1) % 2 == 0, hard, soft)
    painted = F.interpolate(torch.rand(samples, 1, 5, 5, generator=generator), size=(side, side)) > 0.4
    if channels == 4:  # what is opaque is painted
        colours[:, 3:] = 1
        return torch.where(painted, colours, torch.tensor([1.0, 1.0, 1.0, -1.0]).view(1, 4, 1, 1))
    return torch.where(painted, colours, torch.ones(()))
