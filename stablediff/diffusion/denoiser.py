"""From what a network predicts to what samplers need: D(x; σ), the picture expected behind the noise.

The one place that knows of ε-, v- and x_0-prediction, of guidance, and of the network's input scale.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stablediff.config import PredictionType
from stablediff.diffusion.schedule import NoiseSchedule

Denoise = Callable[[Tensor, float], Tensor]


class Network(Protocol):
    def __call__(self, x: Tensor, t: float, *, with_uncond: bool) -> Tensor:
        """x (B,C,h,w) of unit variance, timestep t -> (B,C,h,w); with `with_uncond` (2B,C,h,w), conditional first."""
        ...


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

    A scale of at most 1 means none, and the unconditional branch is never run. `rescale` mends overexposure
    (Lin et al. 2023, arXiv:2305.08891, eq. 15-16). Outside of `sigma_interval` = (low, high] there is no guidance
    (Kynkäänniemi et al. 2024, arXiv:2404.07724).
    """

    scale: float = 7.5
    rescale: float = 0.0
    sigma_interval: tuple[float, float] = (0.0, math.inf)

    def active(self, sigma: float) -> bool:
        low, high = self.sigma_interval
        return self.scale > 1 and low < sigma <= high

    def combine(self, cond: Tensor, uncond: Tensor) -> Tensor:
        """Away from the picture of nothing, past the picture of the prompt: (B,…) and (B,…) -> (B,…)."""
        guided = uncond + self.scale * (cond - uncond)
        if not self.rescale:
            return guided
        axes = tuple(range(1, cond.ndim))
        rescaled = guided * (cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
        return self.rescale * rescaled + (1 - self.rescale) * guided


class Denoiser:
    """D(x; σ) for x = x_0 + σ·ε: x (B,C,h,w) float32 -> x_0 as the network expects it, float32."""

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        prediction_type: PredictionType = "epsilon",
        guidance: Guidance | None = None,
    ) -> None:
        self.network, self.schedule = network, schedule
        self.prediction_type, self.guidance = prediction_type, guidance or Guidance(scale=1.0)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        guided = self.guidance.active(sigma)
        scaled = x / math.sqrt(1 + sigma**2)
        output = self.network(scaled, self.schedule.sigma_to_t(sigma), with_uncond=guided).float()
        if guided:
            output = self.guidance.combine(*output.chunk(2))
        return to_denoised(output, x, sigma, self.prediction_type)


def to_denoised(output: Tensor, x: Tensor, sigma: float, prediction_type: PredictionType) -> Tensor:
    """A network's output -> x_0, for x = x_0 + σ·ε."""
    if prediction_type == "epsilon":
        return x - sigma * output
    if prediction_type == "v_prediction":  # Salimans and Ho 2022 (arXiv:2202.00512, appendix D): v = √ᾱ·ε - √(1-ᾱ)·x_0
        return x / (1 + sigma**2) - output * (sigma / math.sqrt(1 + sigma**2))
    return output


def keep_known(denoise: Denoise, known: Tensor, mask: Tensor, noise: Tensor) -> Denoise:
    """Inpainting with any sampler: what is outside of the mask is not asked of the network, because it is known.

    known (B,C,h,w) latents, mask (B,1,h,w) with 1 where to draw, noise (B,C,h,w): the start's own noise, so that the
    known part stays on one path from noise to picture.
    """

    def masked(x: Tensor, sigma: float) -> Tensor:
        return torch.lerp(known, denoise(torch.lerp(known + sigma * noise, x, mask), sigma), mask)

    return masked
