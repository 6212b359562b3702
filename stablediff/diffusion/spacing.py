"""Which noise levels a sampler visits: `num_steps` levels falling from the schedule's noisiest, and a last one."""

import math
from typing import Literal, get_args

from stablediff.diffusion.schedule import NoiseSchedule

Spacing = Literal["leading", "trailing", "linspace", "karras", "exponential", "align_your_steps", "lcm"]
SPACINGS: tuple[str, ...] = get_args(Spacing)

# Sabour et al. 2024 (arXiv:2404.14507), for ten steps, as published for SD 1.5 and SDXL.
ALIGN_YOUR_STEPS = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
}
LCM_ORIGINAL_STEPS = 50  # latent consistency models are distilled along 50 timesteps


def step_sigmas(
    schedule: NoiseSchedule,
    spacing: str,
    num_steps: int,
    *,
    skips_first_timestep: bool = False,
    final_sigma: float = 0.0,
    kind: str = "sd1",
) -> list[float]:
    """`num_steps` + 1 falling noise levels.

    `skips_first_timestep`: multistep solvers leave out the timestep nearest to the picture, and jump from the one
    before it. `kind` picks the table of "align_your_steps". Raises ValueError for a spacing that cannot do this.
    """
    if not 1 <= num_steps <= len(schedule):
        raise ValueError(f"num_steps is {num_steps}: choose 1 to {len(schedule)}")
    if spacing == "karras":
        sigmas = karras_sigmas(schedule.sigma_min, schedule.sigma_max, num_steps)
    elif spacing == "exponential":
        sigmas = exponential_sigmas(schedule.sigma_min, schedule.sigma_max, num_steps)
    elif spacing == "align_your_steps":
        sigmas = align_your_steps_sigmas(schedule, num_steps, kind)
    else:
        timesteps = step_timesteps(schedule, spacing, num_steps, skips_first_timestep)
        sigmas = [schedule.t_to_sigma(t) for t in timesteps]
    return [*sigmas, min(final_sigma, sigmas[-1])]


def step_timesteps(schedule: NoiseSchedule, spacing: str, num_steps: int, skips_first: bool) -> list[float]:
    """`num_steps` falling timesteps (Lin et al. 2023, arXiv:2305.08891, table 2)."""
    total = len(schedule)
    if spacing == "lcm":
        original = min(LCM_ORIGINAL_STEPS, total)
        if num_steps > original:
            raise ValueError(f"the lcm spacing has {original} timesteps, not {num_steps}: choose fewer steps")
        places = [i * original // num_steps for i in range(num_steps)]
        return [(original - place) * (total // original) - 1.0 for place in places]
    if num_steps == 1:  # where else, if there is but one step?
        return [total - 1.0]
    if spacing == "trailing":
        return [max(round(total - total * i / num_steps) - 1.0, 0.0) for i in range(num_steps)]
    points = min(num_steps + skips_first, total)  # who asks for every timestep skips none
    if spacing == "leading":
        stride = total // points
        offset = min(schedule.config.steps_offset, total - 1 - (points - 1) * stride)
        timesteps = [float(i * stride + offset) for i in range(points)]
    elif spacing == "linspace":
        step = (total - 1) / (points - 1)  # divided first, as numpy does: halves then round alike
        timesteps = [i * step for i in range(points)]
        timesteps = [float(round(t)) for t in timesteps] if skips_first else timesteps
    else:
        raise ValueError(f"spacing {spacing!r} is not known: choose one of {', '.join(SPACINGS)}")
    return timesteps[points - num_steps :][::-1]


def karras_sigmas(sigma_min: float, sigma_max: float, num_steps: int, rho: float = 7.0) -> list[float]:
    """Karras et al. 2022 (arXiv:2206.00364, eq. 5): even in σ^(1/ρ), so that most steps are spent at little noise."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + i / max(num_steps - 1, 1) * (low - high)) ** rho for i in range(num_steps)]


def exponential_sigmas(sigma_min: float, sigma_max: float, num_steps: int) -> list[float]:
    """Even in log σ: every step takes away the same share of the noise."""
    ratio = sigma_min / sigma_max
    return [sigma_max * ratio ** (i / max(num_steps - 1, 1)) for i in range(num_steps)]


def align_your_steps_sigmas(schedule: NoiseSchedule, num_steps: int, kind: str) -> list[float]:
    """The published levels, log-linear between them for other numbers of steps."""
    table = ALIGN_YOUR_STEPS["sdxl" if kind == "sdxl" else "sd1"]
    if not math.isclose(schedule.sigma_max, table[0], rel_tol=0.01):
        raise ValueError(
            "align_your_steps is known for the noise schedule of SD 1.x, 2.x and SDXL only, and this model has "
            "another: choose karras or trailing"
        )
    sigmas = []
    for i in range(num_steps):
        place = i * (len(table) - 1) / max(num_steps - 1, 1)
        low = min(int(place), len(table) - 2)
        sigmas.append(table[low] * (table[low + 1] / table[low]) ** (place - low))
    return sigmas
