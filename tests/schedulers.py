"""The reference schedulers (diffusers) made from our configs, and a toy network with which both sides can be run.

As shipped, the schedulers keep their constants in float32, which loses 0.2 % of the cosine schedule's smallest noise
levels and gives NaN at its largest. In `double_precision` they say the same in float64: what then still differs from
ours is a difference in mathematics.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from stablediff.config import PredictionType, ScheduleConfig
from stablediff.diffusion.denoiser import Denoise, to_denoised
from stablediff.diffusion.noise import SeededNoise
from stablediff.diffusion.schedule import NoiseSchedule

REFERENCES: dict[str, type] = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "dpmpp_sde": DPMSolverSDEScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}
TWO_STAGE = ("heun", "dpmpp_sde")  # their schedulers count each of the two evaluations as a step
IN_SIGMA_SCALE = ("euler", "euler_ancestral", "heun", "dpmpp_sde")  # the others keep x at unit variance

SHAPE = (4, 3, 3)  # one picture's latents


def make_scheduler(name: str, config: ScheduleConfig, spacing: str | None = None, **more: Any) -> Any:
    """`spacing` may also be "karras" or "exponential", which for the reference are flags."""
    fields = {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_schedule": config.beta_schedule,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "prediction_type": config.prediction_type,
        "rescale_betas_zero_snr": config.rescale_zero_snr,
        "steps_offset": config.steps_offset,
        "set_alpha_to_one": config.set_alpha_to_one,
        "clip_sample": False,
    }
    if spacing in ("karras", "exponential"):
        fields[f"use_{spacing}_sigmas"] = True
    elif spacing not in (None, "lcm"):
        fields["timestep_spacing"] = spacing
    known = inspect.signature(REFERENCES[name].__init__).parameters
    return REFERENCES[name](**{key: value for key, value in fields.items() if key in known}, **more)


def step_starts(name: str, per_evaluation: list[float]) -> list[float]:
    """A scheduler's timesteps or sigmas -> one for each step."""
    return per_evaluation[::2] if name in TWO_STAGE else per_evaluation


@contextmanager
def double_precision(name: str, noise: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """Within, one reference's module takes float32 for another word for float64, and draws its noise from `noise`."""
    module = inspect.getmodule(REFERENCES[name])
    swaps: dict[str, Any] = {
        "torch": SimpleNamespace(**{**vars(torch), "float32": torch.float64}),
        "np": SimpleNamespace(**{**vars(np), "float32": np.float64}),
    }
    if noise is not None and hasattr(module, "randn_tensor"):
        swaps["randn_tensor"] = lambda shape, **_: noise(torch.empty(shape)).double()
    with mock.patch.multiple(module, **swaps):
        yield


class ToyNetwork:
    """The perfect network for a mixture of three Gaussians in four channels: nonlinear, and known exactly.

    It knows only timesteps, as a real one does, and counts its calls.
    """

    weights = torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64)
    widths = torch.tensor([0.25, 0.5, 0.35], dtype=torch.float64)
    means = torch.tensor([[-1.2, 0.6, 0.3, -0.4], [0.8, -0.9, 1.1, 0.2], [0.1, 0.4, -1.3, 0.9]], dtype=torch.float64)

    def __init__(self, schedule: NoiseSchedule, prediction_type: PredictionType) -> None:
        self.schedule, self.prediction_type = schedule, prediction_type
        self.calls = 0

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        x, means = x.double().unsqueeze(1), self.means[:, :, None, None]
        weights, widths = self.weights[:, None, None, None], self.widths[:, None, None, None]
        variance = widths**2 + sigma**2
        log_density = -((x - means) ** 2 / variance + variance.log()).sum(2, keepdim=True) / 2
        posterior = (weights.log() + log_density).softmax(1)
        return (posterior * (widths**2 * x + sigma**2 * means) / variance).sum(1)

    def __call__(self, x: Tensor, t: float, *, with_uncond: bool = False) -> Tensor:
        assert not with_uncond
        self.calls += 1
        sigma = self.schedule.t_to_sigma(float(t))
        scale = math.sqrt(1 + sigma**2)
        noisy = x.double() * scale
        denoised = self.denoise(noisy, sigma)
        eps = (noisy - denoised) / sigma
        output = {"epsilon": eps, "v_prediction": (eps - sigma * denoised) / scale, "sample": denoised}
        return output[self.prediction_type].to(x.dtype)


def reference_steps(
    name: str, config: ScheduleConfig, spacing: str, num_steps: int, noise: SeededNoise, eta: float, *, double: bool
) -> list[Tensor]:
    """x after every step of the reference, at unit variance, run as its own pipelines run it."""
    if double:
        with double_precision(name, noise):
            return _reference_steps(name, config, spacing, num_steps, noise, eta, torch.float64)
    return _reference_steps(name, config, spacing, num_steps, noise, eta, torch.float32)


def _reference_steps(
    name: str,
    config: ScheduleConfig,
    spacing: str,
    num_steps: int,
    noise: SeededNoise,
    eta: float,
    dtype: torch.dtype,
) -> list[Tensor]:
    scheduler = make_scheduler(name, config, spacing)
    scheduler.set_timesteps(num_steps)
    network = ToyNetwork(NoiseSchedule(config), config.prediction_type)
    arguments: dict[str, Any] = {"eta": eta} if name == "ddim" else {}
    if name in ("ddpm", "ddim", "euler_ancestral", "lcm"):
        arguments["generator"] = noise.generators
    if name == "dpmpp_sde":
        scheduler.noise_sampler = brownian_noise(noise)

    x = noise.sample(SHAPE).to(dtype) * scheduler.init_noise_sigma
    steps = []
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **arguments).prev_sample
        assert x.dtype == dtype
        steps.append(x)
    if name in TWO_STAGE:
        steps = steps[1::2] + steps[-1:]
    if name in IN_SIGMA_SCALE:
        sigmas = step_starts(name, scheduler.sigmas.tolist()[:-1])
        steps = [x / math.sqrt(1 + sigma**2) for x, sigma in zip(steps, [*sigmas[1:], 0.0], strict=True)]
    return steps


def brownian_noise(noise: SeededNoise) -> Callable[[Tensor, Tensor], Tensor]:
    """W(σ) - W(σ') at unit variance, for a Brownian path W drawn in the order in which our `dpmpp_sde` draws it.

    It is asked for σ -> middle and then σ -> σ', and the second has to contain the first.
    """
    first: list[tuple[Tensor, Tensor]] = []  # the first increment of the step, and where it ended

    def sample(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        fresh = torch.stack([torch.randn(SHAPE, generator=g) for g in noise.generators]).to(sigma.dtype)
        if not first:
            first.append((fresh * (sigma - sigma_next).sqrt(), sigma_next))
            return fresh
        increment, middle = first.pop()
        return (increment + fresh * (middle - sigma_next).sqrt()) / (sigma - sigma_next).sqrt()

    return sample


def double_denoise(network: ToyNetwork) -> Denoise:
    """What `Denoiser` does, without its rounding to float32."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        output = network(x / math.sqrt(1 + sigma**2), network.schedule.sigma_to_t(sigma))
        return to_denoised(output, x, sigma, network.prediction_type)

    return denoise
