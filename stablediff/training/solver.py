"""A teacher's steps as a batch needs them: every row at a timestep of its own, in the scale of unit variance.

Timestep -1 is the picture itself, without noise.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stablediff.config import PredictionType
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.diffusion.spacing import step_timesteps
from stablediff.errors import ConfigError

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # of latent consistency models, here and in the reference


class Level(NamedTuple):
    """How much of each row is picture and how much noise, √ᾱ_t and √(1 - ᾱ_t): (B,1,1,1) float32 each."""

    signal: Tensor
    noise: Tensor


def level_at(schedule: NoiseSchedule, t: Tensor) -> Level:
    """t (B,) int64, -1 or more. The roots are taken in float64, where 1 - ᾱ of little noise still has its digits."""
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alphas_cumprod])
    roots = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()]).float().to(t.device)
    return Level(*roots[:, t + 1].view(2, -1, 1, 1, 1))


def to_x0(output: Tensor, x_t: Tensor, level: Level, prediction_type: PredictionType) -> Tensor:
    """A network's output (B,C,h,w) -> x_0, for x_t = √ᾱ_t·x_0 + √(1 - ᾱ_t)·ε."""
    if prediction_type == "epsilon":
        return (x_t - level.noise * output) / level.signal
    if prediction_type == "v_prediction":
        return level.signal * x_t - level.noise * output
    return output


def ddim_step(x_t: Tensor, x0: Tensor, start: Level, end: Level) -> Tensor:
    """From x_t straight towards x_0, down to another level (Song et al. 2020, arXiv:2010.02502, eq. 12, σ = 0)."""
    return end.signal * x0 + (end.noise / start.noise) * (x_t - start.signal * x0)


def target_of_jump(x_t: Tensor, x_end: Tensor, start: Level, end: Level) -> Tensor:
    """The x_0 with which a single DDIM step from x_t is at x_end (Salimans and Ho 2022, arXiv:2202.00512, alg. 2)."""
    ratio = end.noise / start.noise
    return (x_end - ratio * x_t) / (end.signal - ratio * start.signal)


def boundary(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out (B,1,1,1), 1 and 0 at t = 0 (Luo et al. 2023, arXiv:2310.04378, section 4.1)."""
    scaled = (TIMESTEP_SCALING * t.float()).view(-1, 1, 1, 1)
    spread = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / spread, scaled / spread.sqrt()


def huber(a: Tensor, b: Tensor, c: float) -> Tensor:
    """√((a - b)² + c²) - c, the mean of each row: (B,…) -> (B,). Like |a - b|, but smooth where they meet."""
    return (((a - b) ** 2 + c**2).sqrt() - c).flatten(1).mean(dim=1)


def consistency_grid(total: int, num: int, skip: int) -> Tensor:
    """The timesteps t_n, n from 0: `skip` times 0, and `num` evenly spaced ones up to the last, int64."""
    if num > total:
        raise ConfigError(f"num_ddim_timesteps is {num}: this model has {total} timesteps, choose no more")
    return torch.cat([torch.zeros(skip, dtype=torch.int64), (torch.arange(num) + 1) * (total // num) - 1])


def halved_grid(schedule: NoiseSchedule, steps: int) -> Tensor:
    """-1 for the picture, and the rising timesteps of `steps` steps of DDIM, (steps + 1,) int64."""
    if steps > len(schedule):
        raise ConfigError(f"teacher_steps is {steps}: this model has {len(schedule)} timesteps, choose no more")
    rising = step_timesteps(schedule, "trailing", steps, skips_first=False)[::-1]
    return torch.tensor([-1, *(int(t) for t in rising)])
