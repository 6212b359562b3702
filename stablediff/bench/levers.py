"""What each shortcut of this package saves, and what it costs: seconds beside the plain way, and how far the picture is
from the plain one. All in this process, taking turns, so that a machine that gets busier is unfair to nobody."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from stablediff.bench.workloads import Say
from stablediff.device import cpu_computes_int8
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import step_sigmas
from stablediff.evaluation.setting import table
from stablediff.evaluation.sheets import labelled_sheet, save_sheet
from stablediff.generate import generate
from stablediff.images import over_white
from stablediff.models.compiled import can_compile
from stablediff.pace.speed import Speed
from stablediff.pipeline import Pipeline, load
from stablediff.request import MAX_STEPS, Request
from stablediff.result import Result, Update

# Of pictures that the bundled model can draw; other models understand them as well.
PROMPTS = ("fox, flat style", "red apple, soft style", "rocket, glossy style", "blue fish")
_SEED = 1


@dataclass(frozen=True)
class Lever:
    """`request` and `loading` are what differs from the plain way."""

    name: str
    request: dict[str, Any] = field(default_factory=dict)
    loading: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measured:
    """Of one lever: seconds of the cold run, of every warm run and what was foretold of it, stages, pictures."""

    first: float = math.nan
    seconds: list[float] = field(default_factory=list)
    foretold: list[float] = field(default_factory=list)
    denoise: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)


PLAIN = Lever("plain")
_FINE = "four times the steps"  # where shortcuts and plain ways alike would come to, given the time


def levers_for(pipeline: Pipeline, plain: Request, decoder: str | None) -> list[Lever]:
    """Those that make sense for this model, the plain way first."""
    config = pipeline.config
    steps = plain.num_steps or config.defaults.num_steps
    # A third of the noise levels from above and from below, in the middle of the logarithm.
    sigmas = step_sigmas(pipeline.schedule, "karras", 12, kind=config.kind)
    middle = (sigmas[8], sigmas[2])
    sampler = SAMPLERS[plain.sampler or config.defaults.sampler]
    converges = not sampler.stochastic and 4 * steps <= MAX_STEPS
    levers = [
        PLAIN,
        *([Lever(_FINE, {"num_steps": 4 * steps})] if converges else []),
        Lever("two thirds of the steps", {"num_steps": max(2 * steps // 3, 1)}),
        Lever("half the steps", {"num_steps": max(steps // 2, 1)}),
        Lever(f"guidance at noise levels {middle[0]:.2g} to {middle[1]:.2g} only", {"guidance_interval": middle}),
        Lever(f"guidance above noise level {middle[0]:.2g} only", {"guidance_interval": (middle[0], math.inf)}),
        *(Lever(f"deep layers at 1 call of {n}", {"cache_interval": n}) for n in (2, 3, 5)),
        *(Lever(f"{share:.0%} of the tokens merged", {"merged_tokens": share}) for share in (0.25, 0.5)),
    ]
    if decoder:  # before what takes long to load, as its file may be none
        levers.append(Lever("tiny decoder", loading={"decoder": decoder}))
    if pipeline.device.type == "cpu" and cpu_computes_int8() and not pipeline.compute.int8:
        levers.append(Lever("U-Net in int8", loading={"dtype": "int8"}))
    if not pipeline.unet.compiled and can_compile(pipeline.device):
        levers.append(Lever("U-Net compiled", loading={"compiled": True}))
    return levers


def measure_levers(
    model: str, plain: Request, rounds: int, say: Say, decoder: str | None = None, prompts: Sequence[str] = PROMPTS
) -> tuple[Pipeline, dict[str, Measured]]:
    """Every lever draws every prompt `rounds` times, after a round to warm up. Raises CheckpointError."""
    first = load(model)
    levers = levers_for(first, plain, decoder)
    pipelines = {lever.name: load(model, **lever.loading) if lever.loading else first for lever in levers}
    speeds = {name: Speed(pipeline) for name, pipeline in pipelines.items()}
    found = {lever.name: Measured() for lever in levers}
    for number in range(rounds + 1):
        for lever in levers if number % 2 == 0 else reversed(levers):
            measured = found[lever.name]
            for prompt in prompts if number else prompts[:1]:
                request = replace(plain, prompt=prompt, seed=_SEED, **lever.request)
                foretold, result = _draw(pipelines[lever.name], request, speeds[lever.name])
                if number == 0:
                    measured.first = result.seconds["total"]
                    say(f"{lever.name}: {measured.first:.3g} s, cold")
                    continue
                measured.seconds.append(result.seconds["total"])
                measured.foretold.append(foretold)
                measured.denoise.append(result.seconds["denoise"])
                measured.decode.append(result.seconds["decode"])
                if number == 1:
                    measured.pictures.append(over_white(result.images[0]))
            if number:
                say(f"{lever.name}, round {number} of {rounds}: {median(measured.seconds):.3g} s a picture")
    return first, found


def _draw(pipeline: Pipeline, request: Request, speed: Speed) -> tuple[float, Result]:
    """-> the seconds that were foretold (NaN if nobody knew), and what came."""
    events: Iterator[Update | Result] = generate(pipeline, request, speed=speed)
    first, *_, last = events
    assert isinstance(first, Update)
    assert isinstance(last, Result)
    return first.seconds_left if first.seconds_left is not None else math.nan, last


def picture_error(pictures: Sequence[Image.Image], plain: Sequence[Image.Image]) -> tuple[float, float]:
    """Mean and root mean square of the differences of all pixels, of 255."""
    gaps = np.concatenate(
        [
            (np.asarray(one, dtype=np.float32) - np.asarray(other, dtype=np.float32)).ravel()
            for one, other in zip(pictures, plain, strict=True)
        ]
    )
    return float(np.abs(gaps).mean()), float(np.sqrt(np.square(gaps).mean()))


def write_levers(pipeline: Pipeline, plain: Request, found: dict[str, Measured], out: Path, threads: int) -> Path:
    """levers-MODEL.md, .json and .png. -> the Markdown file."""
    resolved = replace(plain, seed=_SEED).resolve(pipeline.config.defaults, pipeline.config.schedule.spacing)
    base, fine = found[PLAIN.name], found.get(_FINE)
    name = f"levers-{pipeline.name.replace('/', '-')}"
    rows, figures = [], {}
    for lever, measured in found.items():
        seconds = median(measured.seconds)
        error, rms = picture_error(measured.pictures, base.pictures)
        fine_error = picture_error(measured.pictures, fine.pictures)[0] if fine else None
        known = [t / f for t, f in zip(measured.seconds, measured.foretold, strict=True) if math.isfinite(f)]
        figures[lever] = {
            "first": measured.first,
            "seconds": seconds,
            "least": min(measured.seconds),
            "most": max(measured.seconds),
            "times_faster": median(base.seconds) / seconds,
            "denoise_times_faster": median(base.denoise) / median(measured.denoise),
            "decode": median(measured.decode),
            "picture_error": error,
            "picture_rms": rms,
            "fine_picture_error": fine_error,
            "taken_by_foretold": median(known) if known else None,
        }
        rows.append(
            [
                lever,
                f"{seconds:.3g} ({min(measured.seconds):.3g}–{max(measured.seconds):.3g})",
                f"{measured.first:.3g}",
                f"{figures[lever]['times_faster']:.2f}",
                f"{figures[lever]['denoise_times_faster']:.2f}",
                f"{error:.1f}",
                "—" if fine_error is None else f"{fine_error:.1f}",
                f"{figures[lever]['taken_by_foretold']:.2f}" if known else "—",
            ]
        )
    out.mkdir(parents=True, exist_ok=True)
    sheet = labelled_sheet([(lever, measured.pictures) for lever, measured in found.items()])
    lines = [
        f"# Shortcuts: {pipeline.name}",
        "",
        f"Written by `python -m stablediff bench --levers`. {pipeline.describe()}. {resolved.width}x{resolved.height}, "
        f"{resolved.num_steps} steps of {resolved.sampler}, guidance {resolved.guidance_scale:g}, {threads} threads; "
        f"{len(base.seconds)} pictures each, warm, taking turns.",
        "",
        *table(
            [
                "",
                "s a picture (least–most)",
                "first",
                "times faster",
                "the steps alone",
                "error",
                "from the finest",
                "taken ÷ foretold",
            ],
            rows,
        ),
        "",
        "`first` is a cold picture, in seconds. The error is the mean difference to the plain picture of the same "
        f"prompt and seed, of 255; beside it the same to that of {_FINE}, which tells shortcuts of one price apart"
        + ("." if fine else ": not where that cannot be drawn, or the sampler adds noise, which leads elsewhere."),
        "",
        save_sheet(sheet, out, name),
    ]
    about = {
        "model": pipeline.name,
        "compute": pipeline.compute.reason,
        "threads": threads,
        "steps": resolved.num_steps,
        "levers": figures,
    }
    (out / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    path = out / f"{name}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
