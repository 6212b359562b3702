"""How the time of a picture grows: with its steps, with its size, and with the number of pictures."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from PIL import Image, ImageDraw, ImageFont

from stablediff.bench.workloads import Say
from stablediff.evaluation.setting import table
from stablediff.generate import generate
from stablediff.pipeline import Pipeline, load
from stablediff.request import MAX_SIZE, MAX_STEPS, MIN_SIZE, Request
from stablediff.result import Result

_PROMPT, _SEED = "fox, flat style", 1
_SHARES = (0.5, 0.75, 1.0, 1.25, 1.5)  # of the model's own side
_PICTURES = (1, 2, 4)
MOST_STEPS = MAX_STEPS // 4
_SIDE = 32  # pixels: sides are multiples of it

_PANEL, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 320, 56, 18, 34, 52


@dataclass(frozen=True)
class Series:
    """Medians of `seconds` at the amounts `across`, and the straight line a + b·x that is nearest to them."""

    name: str
    unit: str
    across: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def line(self) -> tuple[float, float]:
        """(a, b) by least squares."""
        x, y = self.across, self.seconds
        mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
        spread = sum((one - mean_x) ** 2 for one in x)
        slope = sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True)) / spread
        return mean_y - slope * mean_x, slope

    @property
    def bend(self) -> float:
        """The largest distance of a time from the line, as a share of the largest time."""
        a, b = self.line
        return max(abs(a + b * x - y) for x, y in zip(self.across, self.seconds, strict=True)) / max(self.seconds)

    @property
    def power(self) -> float:
        """p of seconds ~ amount^p, between the least and the largest amount."""
        return math.log(self.seconds[-1] / self.seconds[0]) / math.log(self.across[-1] / self.across[0])


def wishes_for(pipeline: Pipeline, plain: Request) -> Iterator[tuple[str, str, list[tuple[float, Request]]]]:
    """What is drawn: the name of a series, its unit, and a request for each amount, the least first."""
    defaults = pipeline.config.defaults
    steps = plain.num_steps or defaults.num_steps
    numbers = sorted({max(steps // 2, 1), steps, 2 * steps, 4 * steps})
    yield "steps", "steps", [(float(number), replace(plain, num_steps=number)) for number in numbers]
    sides = sorted({int(share * defaults.width) // _SIDE * _SIDE for share in _SHARES})
    sides = [side for side in sides if MIN_SIZE <= side <= MAX_SIZE]
    yield "size", "megapixels", [(side**2 / 1e6, replace(plain, width=side, height=side)) for side in sides]
    yield "pictures", "pictures", [(float(number), replace(plain, num_images=number)) for number in _PICTURES]


def measure_growth(model: str, plain: Request, rounds: int, say: Say) -> tuple[Pipeline, list[Series]]:
    """Every request is drawn once to warm up and then `rounds` times. Raises CheckpointError."""
    pipeline = load(model)
    found = []
    for name, unit, wishes in wishes_for(pipeline, replace(plain, prompt=_PROMPT, seed=_SEED)):
        times = []
        for amount, wish in wishes:
            times.append(median([_draw(pipeline, wish) for _ in range(1 + rounds)][1:]))
            say(f"{amount:.3g} {unit}: {times[-1]:.3g} s")
        found.append(Series(name, unit, tuple(amount for amount, _ in wishes), tuple(times)))
    return pipeline, found


def _draw(pipeline: Pipeline, request: Request) -> float:
    *_, result = generate(pipeline, request)
    assert isinstance(result, Result)
    return result.seconds["total"]


def write_growth(pipeline: Pipeline, plain: Request, found: Sequence[Series], out: Path, threads: int) -> Path:
    """growth-MODEL.md, .json and .png. -> the Markdown file."""
    name = f"growth-{pipeline.name.replace('/', '-')}"
    resolved = replace(plain, seed=_SEED).resolve(pipeline.config.defaults)
    rows = []
    for series in found:
        a, b = series.line
        times = " · ".join(f"{x:.3g}: {y:.3g} s" for x, y in zip(series.across, series.seconds, strict=True))
        line = f"{a:.2g} + {b:.3g} · {series.unit}"
        rows.append([series.name, times, line, f"{100 * series.bend:.1f} %", f"{series.power:.2f}"])
    lines = [
        f"# How the time grows: {pipeline.name}",
        "",
        f"Written by `python -m stablediff bench --growth`. {pipeline.describe()}. Where nothing else is said: "
        f"{resolved.width}x{resolved.height}, {resolved.num_steps} steps of {resolved.sampler}, guidance "
        f"{resolved.guidance_scale:g}, one picture, {threads} threads. Warm medians of whole runs, with decoding.",
        "",
        *table(["with", "seconds", "nearest line", "furthest from it", "power"], rows),
        "",
        "The distance is a share of the longest time. A power of 1 is growth in proportion; what a run needs once "
        "keeps it below, and attention between all cells, whose work grows with their square, lifts it with the size.",
        "",
        f"![seconds over steps, size and pictures]({name}.png)",
    ]
    out.mkdir(parents=True, exist_ok=True)
    panels(found).save(out / f"{name}.png")
    about = {
        "model": pipeline.name,
        "compute": pipeline.compute.reason,
        "threads": threads,
        "series": [{**asdict(series), "line": series.line, "power": series.power} for series in found],
    }
    (out / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    path = out / f"{name}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def panels(found: Sequence[Series]) -> Image.Image:
    """A plot a series side by side: the times as points, and the straight line nearest to them."""
    image = Image.new("RGB", (_PANEL * len(found), _HEIGHT), "white")
    for number, series in enumerate(found):
        _panel(ImageDraw.Draw(image), series, _PANEL * number)
    return image


def _panel(draw: ImageDraw.ImageDraw, series: Series, left: int) -> None:
    font = ImageFont.load_default(13)
    top, most = 1.1 * max(series.seconds), 1.05 * max(series.across)

    def place(amount: float, seconds: float) -> tuple[float, float]:
        x = left + _LEFT + amount / most * (_PANEL - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - seconds / top * (_HEIGHT - _TOP - _BOTTOM)

    for i in range(5):
        (start, y), (end, _) = place(0, top * i / 4), place(most, 0)
        draw.line((start, y, end, y), fill="#e4e4e4")
        draw.text((start - 6, y), f"{top * i / 4:.2g}", fill="black", font=font, anchor="rm")
    for amount in series.across:
        x, y = place(amount, 0)
        draw.text((x, y + 6), f"{amount:.2g}", fill="black", font=font, anchor="mt")
    draw.text((left + _LEFT, 10), "seconds", fill="black", font=font)
    draw.text((left + _PANEL / 2, _HEIGHT - 14), series.unit, fill="black", font=font, anchor="mm")
    a, b = series.line
    ends = series.across[0], series.across[-1]
    draw.line([place(x, a + b * x) for x in ends], fill="#888888", width=2)
    for amount, seconds in zip(series.across, series.seconds, strict=True):
        x, y = place(amount, seconds)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill="#1f6fb4")
