"""The forward process: how a picture drowns in noise, one timestep after another.

    x_t = √ᾱ_t · x_0 + √(1 - ᾱ_t) · ε,  ε ~ N(0, 1)              (Ho et al. 2020, arXiv:2006.11239, eq. 4)

Samplers work in the scale of Karras et al. 2022 (arXiv:2206.00364), x = x_0 + σ·ε, where all that counts is the noise
level σ = √((1 - ᾱ) / ᾱ). From that scale to the first: x_t = x / √(1 + σ²).
"""

import bisect
import math

import torch
from torch import Tensor

from stablediff.config import ScheduleConfig


def make_betas(config: ScheduleConfig) -> Tensor:
    """The variance added at each timestep: (T,) float64."""
    steps, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.beta_schedule == "linear":  # Ho et al. 2020
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if config.beta_schedule == "scaled_linear":  # latent diffusion: linear in the square root
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    # Nichol and Dhariwal 2021 (arXiv:2102.09672, eq. 17): ᾱ falls along a cosine, with each β kept below 0.999.
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shifts and scales √ᾱ so that the last timestep is pure noise (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
    roots = (1 - betas).cumprod(0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    alpha_bar = ((roots - last) * first / (first - last)) ** 2
    alphas = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return 1 - alphas


class NoiseSchedule:
    """`alphas_cumprod` (T,) falling and `sigmas` (T,) rising, both float64, and the ways between σ and t."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        betas = make_betas(config)
        self.betas = rescale_zero_terminal_snr(betas) if config.rescale_zero_snr else betas
        self.alphas_cumprod = (1 - self.betas).cumprod(0)
        if config.rescale_zero_snr:
            # Pure noise would be σ = ∞. The usual stand-in is σ = 4096; more, where the timestep before has as much.
            before = self.alphas_cumprod[-2].item()
            self.alphas_cumprod[-1] = 2**-24 if before > 2**-24 else before / 2
        self.sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        self._log_sigmas: list[float] = self.sigmas.log().tolist()

    def __len__(self) -> int:
        return len(self.sigmas)

    @property
    def sigma_min(self) -> float:
        return math.exp(self._log_sigmas[0])

    @property
    def sigma_max(self) -> float:
        return math.exp(self._log_sigmas[-1])

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0): x0 and noise (B,…), t (B,) integers -> x_t (B,…)."""
        signal, rest = self.roots(t, x0)
        return signal * x0 + rest * noise

    def roots(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 - ᾱ_t) in the type of `like` (B,…), and to be multiplied with it: t (B,) -> (B,1,…) each.

        They are taken in float64 before they go to the device, because not every device has it (MPS).
        """
        roots = torch.stack([self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()])
        signal, noise = roots.to(like.dtype).to(like.device)[:, t].view(2, -1, *[1] * (like.ndim - 1))
        return signal, noise

    def sigma_to_t(self, sigma: float) -> float:
        """The timestep with this noise level, between two whole ones if need be (linear in log σ)."""
        logs, log = self._log_sigmas, math.log(max(sigma, 1e-10))
        low = min(max(bisect.bisect_right(logs, log) - 1, 0), len(logs) - 2)
        fraction = (log - logs[low]) / (logs[low + 1] - logs[low])
        return low + min(max(fraction, 0.0), 1.0)

    def t_to_sigma(self, t: float) -> float:
        """The noise level of a timestep, whole or not (linear in log σ)."""
        low = min(int(t), len(self) - 2)
        logs = self._log_sigmas
        return math.exp(logs[low] + (t - low) * (logs[low + 1] - logs[low]))
