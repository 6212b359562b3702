"""What a checkpoint's makers meant it to be run with, as far as its settings and its name tell."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from stablediff.config import Defaults, ModelConfig
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.errors import CheckpointError

DEFAULTS = "defaults.json"


_FEW_STEPS = re.compile(r"\b((turbo|lightning)\b|hyper (sd|\d+ steps?\b))")
# Where a new word begins: "8LCM", "photo2Lightning", "HyperSD".
_SEAM = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=\d)(?=[A-Za-z])|(?<=[A-Z])(?=[A-Z][a-z])")


def with_habits(config: ModelConfig, name: str, folder: Path | None = None) -> ModelConfig:
    """The same with defaults, and with noise levels for few steps if only the name tells that it was made for them.

    Models that were saved here say so themselves. Raises CheckpointError if they say nonsense.
    """
    if folder is not None and (folder / DEFAULTS).is_file():
        return replace(config, defaults=_saved(folder / DEFAULTS))
    defaults = suggest_defaults(config, name, folder)
    if defaults.sampler == "euler_ancestral":  # distilled at the last of every quarter, not at its first
        config = replace(config, schedule=replace(config.schedule, spacing="trailing"))
    return replace(config, defaults=defaults)


def suggest_defaults(config: ModelConfig, name: str, folder: Path | None = None) -> Defaults:
    """Steps, guidance, sampler and size. Distilled models (LCM, Turbo, Lightning) need few steps and no guidance."""
    scheduler = _read(folder / "scheduler" / "scheduler_config.json") if folder else {}
    scheduler_class = str(scheduler.get("_class_name", ""))
    side = _side(config, folder)
    if config.unet.guidance_embedding_dim or scheduler_class == "LCMScheduler" or re.search(r"\blcm\b", _words(name)):
        guidance = 8.0 if config.unet.guidance_embedding_dim else 1.0
        return Defaults(num_steps=4, guidance_scale=guidance, sampler="lcm", width=side, height=side)
    spaced_for_few = scheduler.get("timestep_spacing") == "trailing" and scheduler_class.startswith("Euler")
    if _FEW_STEPS.search(_words(name)) or (spaced_for_few and not config.schedule.rescale_zero_snr):
        return Defaults(num_steps=4, guidance_scale=1.0, sampler="euler_ancestral", width=side, height=side)
    if config.kind == "custom":
        # A cosine schedule has less noise than a linear one at the same share of the way.
        strength = 0.9 if config.schedule.beta_schedule == "squaredcos_cap_v2" else 0.75
        return Defaults(25, 4.0, sampler="ddim", width=side, height=side, strength=strength)
    return Defaults(guidance_scale=6.0 if config.kind == "sdxl" else 7.5, width=side, height=side)


def _saved(path: Path) -> Defaults:
    try:
        saved = Defaults(**_read(path))
        whole = (saved.num_steps, saved.width, saved.height)
        if not all(type(number) is int and 0 < number <= 10_000 for number in whole):
            raise ValueError(f"{whole} are not steps, width and height")
        if saved.sampler not in SAMPLERS or not 0 <= saved.guidance_scale <= 100:
            raise ValueError(f"sampler {saved.sampler!r} with guidance {saved.guidance_scale!r} is not possible")
        if not 0 < saved.strength <= 1:
            raise ValueError(f"strength {saved.strength!r} is not above 0 and up to 1")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"cannot use {path} ({error}): mend or delete this file.") from error
    return saved


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", _SEAM.sub(" ", name).lower())


def _side(config: ModelConfig, folder: Path | None) -> int:
    """The size that the model was trained at, in pixels."""
    cells = _read(folder / "unet" / "config.json").get("sample_size") if folder else None
    if isinstance(cells, int) and 8 <= cells <= 256:
        return cells * config.vae.downscale
    if config.kind == "sdxl":
        return 1024
    return 768 if config.kind == "sd2" and config.schedule.prediction_type == "v_prediction" else 512


def _read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded
