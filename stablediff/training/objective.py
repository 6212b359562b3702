"""What a diffusion model is trained to say: the forward process, its target, and which noise levels count how much.

    x_t = √ᾱ_t · x_0 + √(1 - ᾱ_t) · ε,  ε ~ N(0, 1)          (Ho et al. 2020, arXiv:2006.11239, eq. 4)
    L   = E_{x_0, ε, t} [ w(t) · || target - network(x_t, t, prompt) ||² ]               (eq. 14, where w = 1)

The target is ε (Ho et al.), x_0, or the velocity v_t = √ᾱ_t · ε - √(1 - ᾱ_t) · x_0 (Salimans and Ho 2022,
arXiv:2202.00512, appendix D).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stablediff.config import PredictionType
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.errors import ConfigError
from stablediff.training.config import check_range

_STEEPEST = 100.0  # where a sigmoid has long been 0 or 1


@dataclass(frozen=True)
class ObjectiveConfig:
    """How timesteps are drawn and weighed. Use one of the two, not both.

    timesteps "logit_normal" draws t/T = sigmoid(mean + deviation · n), n ~ N(0, 1) (Esser et al. 2024,
    arXiv:2403.03206, section 3.1). weighting "min_snr" is min(SNR, γ) in terms of x_0 (Hang et al. 2023,
    arXiv:2303.09556, eq. 6).
    """

    timesteps: Literal["uniform", "logit_normal"] = "logit_normal"
    logit_mean: float = 0.0
    logit_deviation: float = 1.0
    weighting: Literal["none", "min_snr"] = "none"
    gamma: float = 5.0

    def __post_init__(self) -> None:
        check_range("logit_mean", self.logit_mean, -_STEEPEST, _STEEPEST)
        check_range("logit_deviation", self.logit_deviation, 0, _STEEPEST)
        if not self.gamma > 0:
            raise ConfigError(f"gamma is {self.gamma}: choose more than 0, such as 5")


def draw_timesteps(config: ObjectiveConfig, normals: Tensor, uniforms: Tensor, num_timesteps: int) -> Tensor:
    """Standard normal and uniform numbers (B,) -> t (B,) int64 in [0, num_timesteps)."""
    share = uniforms
    if config.timesteps == "logit_normal":
        share = torch.sigmoid(config.logit_mean + config.logit_deviation * normals)
    return (share * num_timesteps).long().clamp(max=num_timesteps - 1)


def target_of(x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule, prediction_type: PredictionType) -> Tensor:
    """What the network should answer: x0 and noise (B,…), t (B,) -> (B,…)."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x0
    signal, rest = schedule.roots(t, x0)
    return signal * noise - rest * x0


def loss_weights(
    config: ObjectiveConfig, t: Tensor, schedule: NoiseSchedule, prediction_type: PredictionType
) -> Tensor:
    """w(t) (B,), for a squared error in the network's own terms.

    An error e in x_0 is SNR · e² in ε and (SNR + 1) · e² in v, so min(SNR, γ) in x_0 is divided by that.
    """
    if config.weighting == "none":
        return torch.ones(len(t), device=t.device)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    clipped = snr.clamp(max=config.gamma)
    if prediction_type == "epsilon":
        clipped = clipped / snr
    elif prediction_type == "v_prediction":
        clipped = clipped / (snr + 1)
    return clipped.float().to(t.device)[t]


def loss_by_quartile(losses: Tensor, t: Tensor, num_timesteps: int) -> dict[str, Tensor]:
    """Means of losses (B,) over quarters of t, NaN where there is none; in the last one prompts are understood."""
    quartile = (4 * t) // num_timesteps
    counts = torch.zeros(4, device=losses.device).index_add_(0, quartile, torch.ones_like(losses))
    sums = torch.zeros(4, device=losses.device).index_add_(0, quartile, losses)
    means = sums / counts
    return {f"loss_q{i + 1}": means[i] for i in range(4)}
