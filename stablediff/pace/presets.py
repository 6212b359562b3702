"""draft · balanced · best: how much work a picture is worth, by the kind of model."""

import math
from dataclasses import dataclass, replace

from stablediff.config import ModelConfig
from stablediff.device import has_matrix_unit
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.diffusion.spacing import step_sigmas
from stablediff.pipeline import Pipeline
from stablediff.request import Request


@dataclass(frozen=True)
class Preset:
    """`sampler` and `spacing` None are the model's own; `guidance_interval` None is guidance at all noise levels."""

    num_steps: int
    sampler: str | None = None
    spacing: str | None = None
    guidance_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Presets:
    """A kind of model: its presets, and the fewest steps from which it still draws something."""

    draft: Preset
    best: Preset
    fewest: int


# Ten well-placed steps come near to twenty even ones (Sabour et al. 2024, arXiv:2404.14507); a draft takes eight.
# Guidance does little at low noise levels (Kynkäänniemi et al. 2024, arXiv:2404.07724): without it the last ones
# cost half. Kept deep layers are in none: fewer steps of the same price come about as near (docs/benchmarks.md).
_DRAFT = Preset(8, "dpmpp_2m", "align_your_steps", guidance_interval=(0.5, math.inf))

# "balanced" stands in no table: it is what the model's makers meant it to be run with.
PRESETS = {
    "diffusion": Presets(_DRAFT, Preset(40, "dpmpp_2m", "karras"), fewest=5),
    "lcm": Presets(Preset(2), Preset(8), fewest=1),
    "turbo": Presets(Preset(2), Preset(8), fewest=1),
    "custom": Presets(Preset(8), Preset(40), fewest=4),
}


def family(config: ModelConfig) -> str:
    """The line of PRESETS that a model belongs to; distilled ones are known by what they are meant to be run with."""
    defaults = config.defaults
    if defaults.sampler == "lcm":
        return "lcm"
    if defaults.guidance_scale <= 1 and defaults.num_steps <= 8:
        return "turbo"
    return "custom" if config.kind == "custom" else "diffusion"


def fewest_steps(config: ModelConfig) -> int:
    """From which this model still draws something."""
    return PRESETS[family(config)].fewest


def preset(quality: str, config: ModelConfig) -> Preset:
    """One of `config.QUALITIES`, for this model."""
    presets = PRESETS[family(config)]
    if quality == "balanced":
        return Preset(config.defaults.num_steps)
    chosen = presets.draft if quality == "draft" else presets.best
    try:
        if config.schedule.rescale_zero_snr:  # it has to start at pure noise, which its own spacing knows
            return replace(chosen, spacing=None)
        if chosen.spacing:
            step_sigmas(NoiseSchedule(config.schedule), chosen.spacing, chosen.num_steps, kind=config.kind)
    except ValueError:  # its noise schedule is another one than the table was made for
        return replace(chosen, spacing=None)
    return chosen


def preset_for(quality: str, pipeline: Pipeline) -> Preset:
    """As `preset`, as it pays for this pipeline.

    What is compiled, or laid out for a matrix unit, would be made anew where guidance ends, for half the rows.
    """
    chosen = preset(quality, pipeline.config)
    fixed = pipeline.unet.compiled or (pipeline.device.type == "cpu" and has_matrix_unit())
    return replace(chosen, guidance_interval=None) if fixed else chosen


def apply_preset(request: Request, chosen: Preset, num_steps: int | None = None) -> Request:
    """Fills in what the request leaves open; a sampler of the user's keeps its own spacing.

    A picture that starts from another one has guidance at all noise levels: there it may have no others than low ones.
    """
    ours = request.sampler is None
    interval = chosen.guidance_interval if request.init_image is None else None
    return replace(
        request,
        quality=None,
        num_steps=request.num_steps or num_steps or chosen.num_steps,
        sampler=request.sampler or chosen.sampler,
        spacing=request.spacing or (chosen.spacing if ours else None),
        guidance_interval=request.guidance_interval or interval,
    )
