"""Samplers: pure functions that walk from noise to a picture, and yield every step.

All take `(denoise, x, sigmas, noise)`: D(x; σ), the start x (B,C,h,w) at noise level σ_0, the falling noise levels, and
a function that gives fresh standard normal noise shaped like its argument. None keeps any state between calls.

Almost every one of them repeats a single move. The picture at noise level σ lies on a line from the denoised picture;
go along it to σ':

    x' = D + (σ' / σ)·(x - D)

This is an Euler step of the probability-flow equation, and exactly DDIM. The better samplers only choose a better
target than the last D, or put some noise back.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from stablediff.diffusion.denoiser import Denoise

Noise = Callable[[Tensor], Tensor]
SampleFunction = Callable[[Denoise, Tensor, Sequence[float], Noise], Iterator["Step"]]


@dataclass(frozen=True)
class Step:
    """What a sampler yields: the picture after the step, and the network's guess of what is behind the noise."""

    index: int
    sigma: float
    sigma_next: float
    x: Tensor  # (B,C,h,w) at noise level sigma_next
    denoised: Tensor  # (B,C,h,w)


def move(x: Tensor, target: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """From noise level σ to σ', straight towards the target."""
    return target + (sigma_next / sigma) * (x - target)


def split_noise(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(down, up): go down to the first, then add the second as fresh noise, and arrive at σ'.

    η = 0 adds nothing, η = 1 as much as the forward process did (Song et al. 2020, arXiv:2010.02502, eq. 16,
    in the scale x = x_0 + σ·ε).
    """
    up = eta * sigma_next * math.sqrt(max(sigma**2 - sigma_next**2, 0.0)) / sigma
    return math.sqrt(max(sigma_next**2 - up**2, 0.0)), up


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Euler's method on the probability-flow equation (Karras et al. 2022, algorithm 1 without its second look)."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        x = move(x, denoised, sigma, sigma_next)
        yield Step(i, sigma, sigma_next, x, denoised)


def ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, eta: float = 1.0
) -> Iterator[Step]:
    """Go down too far, and put fresh noise back. η = 0 is DDIM; η = 1 is DDPM's posterior and Euler ancestral.

    The three are one formula (Song et al. 2020, arXiv:2010.02502, eq. 12); they differ in the levels they visit.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        down, up = split_noise(sigma, sigma_next, eta)
        x = move(x, denoised, sigma, down)
        if up:
            x = x + up * noise(x)
        yield Step(i, sigma, sigma_next, x, denoised)


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """An Euler step, a look at where it leads, and the mean of both slopes (Karras et al. 2022, algorithm 1)."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        ahead = move(x, denoised, sigma, sigma_next)
        if sigma_next:
            slope, slope_ahead = (x - denoised) / sigma, (ahead - denoise(ahead, sigma_next)) / sigma_next
            ahead = ahead + (slope_ahead - slope) * ((sigma_next - sigma) / 2)
        x = ahead
        yield Step(i, sigma, sigma_next, x, denoised)


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """DPM-Solver++(2M): the target leans on the last two (Lu et al. 2022, arXiv:2211.01095, algorithm 2)."""
    previous: tuple[Tensor, float] | None = None
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        x = move(x, extrapolate(denoised, previous, sigma, sigma_next), sigma, sigma_next)
        previous = denoised, sigma
        yield Step(i, sigma, sigma_next, x, denoised)


def extrapolate(denoised: Tensor, previous: tuple[Tensor, float] | None, sigma: float, sigma_next: float) -> Tensor:
    """Where the denoised picture will be half a step on, if it goes on changing as it did (linear in log σ)."""
    if previous is None or sigma_next == 0:
        return denoised
    before, sigma_before = previous
    half_ratio = math.log(sigma / sigma_next) / (2 * math.log(sigma_before / sigma))
    return denoised + half_ratio * (denoised - before)


def dpmpp_sde(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """DPM-Solver++ for the stochastic equation, with a look half-way (Lu et al. 2022; r = 1/2, η = 1).

    The noise of the half step is a part of the noise of the whole step, as on one Brownian path in σ.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            middle = math.sqrt(sigma * sigma_next)
            first, second = noise(x) * math.sqrt(sigma - middle), noise(x) * math.sqrt(middle - sigma_next)
            down, up = split_noise(sigma, middle, eta=1.0)
            half = move(x, denoised, sigma, down) + up * first / math.sqrt(sigma - middle)
            target = denoise(half, middle)
            down, up = split_noise(sigma, sigma_next, eta=1.0)
            x = move(x, target, sigma, down) + up * (first + second) / math.sqrt(sigma - sigma_next)
        yield Step(i, sigma, sigma_next, x, denoised)


def unipc(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """UniPC of order 2 with B(h) = e^h - 1 (Zhao et al. 2023, arXiv:2302.04867).

    Its predictor is DPM-Solver++(2M). When the network has looked at the predicted point, the corrector makes the same
    step again with that knowledge, which costs no further evaluation.
    """
    history: list[tuple[Tensor, float]] = []  # (denoised, sigma), newest last
    start, order = x, 0
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        if history:
            x = move(start, _unipc_target(denoised, history, sigma, order), history[-1][1], sigma)
        order = 1 if not history or i == len(sigmas) - 2 else 2
        target = extrapolate(denoised, history[-1] if order == 2 else None, sigma, sigma_next)
        history = [*history[-1:], (denoised, sigma)]
        start, x = x, move(x, target, sigma, sigma_next)
        yield Step(i, sigma, sigma_next, x, denoised)


def _unipc_target(denoised: Tensor, history: list[tuple[Tensor, float]], sigma: float, order: int) -> Tensor:
    """The corrector's target for the step that led to σ, where the network has now seen `denoised` (eq. 9)."""
    last, sigma_last = history[-1]
    if order == 1:
        return last + 0.5 * (denoised - last)
    before, sigma_before = history[-2]
    h = math.log(sigma_last / sigma)
    ratio = -math.log(sigma_before / sigma_last) / h
    growth = math.expm1(-h)
    phi_1 = growth / -h - 1
    phi_2 = phi_1 / -h - 0.5
    b_1, b_2 = phi_1 / growth, 2 * phi_2 / growth
    weight_before = (b_1 - b_2) / (1 - ratio)
    return last + weight_before * (before - last) / ratio + (b_1 - weight_before) * (denoised - last)


def lcm(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Iterator[Step]:
    """Latent consistency: believe the network at once, then add fresh noise (Luo et al. 2023, arXiv:2310.04378).

    The boundary condition's c_skip and c_out differ from 0 and 1 by less than 1e-5 at every timestep in use.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        x = denoised + sigma_next * noise(x) if sigma_next else denoised
        yield Step(i, sigma, sigma_next, x, denoised)


@dataclass(frozen=True)
class Sampler:
    """An entry of the table: the function, and the habits that people know it by."""

    label: str  # as other programs write it into their pictures
    sample: SampleFunction
    spacing: str  # the usual one, where the model names none
    evaluations: int = 1  # calls of the network a step
    stochastic: bool = False
    skips_first_timestep: bool = False
    # Starts at σ_0·ε rather than at √(1 + σ_0²)·ε, unless the spacing is "leading": a habit of the σ-first samplers.
    starts_at_sigma: bool = False
    takes_eta: bool = False


SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler("DDPM", partial(ancestral, eta=1.0), "leading", stochastic=True),
    "ddim": Sampler("DDIM", partial(ancestral, eta=0.0), "leading", takes_eta=True),
    "euler": Sampler("Euler", euler, "linspace", starts_at_sigma=True),
    "euler_ancestral": Sampler(
        "Euler a", partial(ancestral, eta=1.0), "linspace", stochastic=True, starts_at_sigma=True, takes_eta=True
    ),
    "heun": Sampler("Heun", heun, "linspace", evaluations=2, starts_at_sigma=True),
    "dpmpp_2m": Sampler("DPM++ 2M", dpmpp_2m, "linspace", skips_first_timestep=True),
    "dpmpp_sde": Sampler("DPM++ SDE", dpmpp_sde, "linspace", evaluations=2, stochastic=True, starts_at_sigma=True),
    "unipc": Sampler("UniPC", unipc, "linspace", skips_first_timestep=True),
    "lcm": Sampler("LCM", lcm, "lcm", stochastic=True),
}
