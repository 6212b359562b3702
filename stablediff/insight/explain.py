"""A sampler's step as an equation, with the numbers of a run, and the lines of our code that compute it."""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from stablediff.diffusion.samplers import SAMPLERS, extrapolate, move, split_noise

_PACKAGE = Path(__file__).parent.parent
_PARTS = (move, split_noise, extrapolate)


# The lines that make the picture after the step.
_MAKES_STEP = re.compile(r"\b(move|noise|split_noise|extrapolate)\(|slope_ahead|^\s+return .*[*(]")


class Source(NamedTuple):
    """A function of ours. `marked` are the numbers of the lines that make a step."""

    file: str  # from the project's root
    line: int
    code: str
    marked: tuple[int, ...]

    @property
    def last(self) -> int:
        return self.line + self.code.count("\n") - 1


def sources_of(sampler: str) -> list[Source]:
    """The function that makes this sampler's steps, and those that it calls for it, which are a formula each."""
    function = SAMPLERS[sampler].sample
    first = _source(function.func if isinstance(function, partial) else function)
    body = first.code.partition("\n")[2]
    return [first, *(_source(part) for part in _PARTS if f"{part.__name__}(" in body)]


def _source(function: Callable[..., object]) -> Source:
    lines, first = inspect.getsourcelines(function)
    path = Path(inspect.getfile(function)).relative_to(_PACKAGE.parent)
    marked = tuple(first + number for number, line in enumerate(lines) if number and _MAKES_STEP.search(line))
    return Source(path.as_posix(), first, "".join(lines), marked)


def equations(sampler: str, sigmas: Sequence[float], index: int, eta: float | None = None) -> list[str]:
    """The step from sigmas[index] to the next, a line an equation: first in letters, then in numbers.

    D is the picture expected behind the noise, ε fresh noise, x the picture before the step and x' after it.
    """
    sigma, after = sigmas[index], sigmas[index + 1]
    move = f"x' = D + (σ'/σ)·(x - D) = D + {after / sigma:.4f}·(x - D)"
    if sampler in ("euler",) or (sampler == "ddim" and not eta):
        return [move]
    if sampler in ("ddim", "ddpm", "euler_ancestral"):
        down, up = split_noise(sigma, after, 1.0 if eta is None else eta)
        return [
            f"σ_down = √(σ'² - σ_up²) = {down:.4f},  σ_up = η·σ'·√(σ² - σ'²)/σ = {up:.4f}",
            f"x' = D + (σ_down/σ)·(x - D) + σ_up·ε = D + {down / sigma:.4f}·(x - D) + {up:.4f}·ε",
        ]
    if sampler == "lcm":
        return [f"x' = D + σ'·ε = D + {after:.4f}·ε"]
    if sampler == "heun":
        if not after:
            return [move]
        return [
            f"x̃ = D + (σ'/σ)·(x - D) = D + {after / sigma:.4f}·(x - D)",
            f"x' = x + (σ' - σ)·½·[(x - D)/σ + (x̃ - D̃)/σ'] = x {after - sigma:+.4f}·½·[(x - D)/{sigma:.4f} "
            f"+ (x̃ - D̃)/{after:.4f}]",
        ]
    if sampler == "dpmpp_sde":
        if not after:
            return ["x' = D"]
        middle = math.sqrt(sigma * after)
        down, up = split_noise(sigma, middle, 1.0)
        last_down, last_up = split_noise(sigma, after, 1.0)
        return [
            f"half-way, at √(σ·σ') = {middle:.4f}:  u = D + {down / sigma:.4f}·(x - D) + {up:.4f}·ε₁",
            f"x' = D(u) + {last_down / sigma:.4f}·(x - D(u)) + {last_up:.4f}·ε₂",
        ]
    lines = []
    if sampler == "unipc" and index:
        lines.append("first, x is corrected: the last step is made again with the D that is known now")
    one_order = sampler == "unipc" and index == len(sigmas) - 2
    if index == 0 or after == 0 or one_order:
        return [*lines, move]
    ratio = math.log(sigma / after) / (2 * math.log(sigmas[index - 1] / sigma))
    return [
        *lines,
        f"T = D + r·(D - D₋₁) = D + {ratio:.4f}·(D - D₋₁),  r = ln(σ/σ') / (2·ln(σ₋₁/σ))",
        f"x' = T + (σ'/σ)·(x - T) = T + {after / sigma:.4f}·(x - T)",
    ]


def schedule_plot(sigmas: Sequence[float], index: int, label: str) -> str:
    """The noise levels of a run as an SVG, logarithmic, the step at `index` marked. `label` is what is read aloud."""
    shown = [max(sigma, 1e-3) for sigma in sigmas]
    low, high = math.log(min(shown)), math.log(max(shown))
    width, height, edge = 480, 150, 14

    def place(number: int) -> tuple[float, float]:
        across = number / max(len(shown) - 1, 1)
        down = (high - math.log(shown[number])) / max(high - low, 1e-9)
        return edge + across * (width - 2 * edge), edge + down * (height - 2 * edge)

    points = [place(number) for number in range(len(shown))]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if number == index else 2}"><title>σ = {sigmas[number]:.4g}</title>'
        "</circle>"
        for number, (x, y) in enumerate(points)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" style="width:100%;max-width:{width}px;'
        f'color:var(--color-accent)" fill="currentColor"><polyline points="{line}" fill="none" stroke="currentColor" '
        f'stroke-width="1.5"/>{dots}</svg>'
    )
