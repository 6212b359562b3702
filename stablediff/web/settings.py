"""The controls that say how to draw: steps, guidance, sampler, schedule, size, seed and number."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from stablediff.config import QUALITIES
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import SPACINGS
from stablediff.errors import RequestError
from stablediff.pace.budget import within
from stablediff.pace.presets import Preset, fewest_steps, preset_for
from stablediff.pipeline import Pipeline
from stablediff.request import MAX_GUIDANCE, Limits, Request, interval_text
from stablediff.web import wish
from stablediff.web.events import QUIET
from stablediff.web.models import Models, resolve
from stablediff.web.progress import duration
from stablediff.web.texts import decimal, text
from stablediff.web.trouble import beside, control_of, remark, wrong
from stablediff.web.voice import Voice

SIZES = (256, 256), (512, 512), (512, 768), (768, 512), (768, 768), (1024, 1024)
_MOST_SECONDS = 300
OWN, TIMED = "own", "timed"  # the quality of steps that were set by hand, and of those that fit into a time


# The slider of the seconds, and what is said of them, are there as long as they are what counts.
_ONLY_TIMED = f"""quality => quality === '{TIMED}'
  ? [{{ __type__: 'update', visible: true }}, {{ __type__: 'update' }}]
  : [{{ __type__: 'update', visible: false }}, '']"""


@dataclass
class Settings:
    """`named`: the controls by what `wish.to_request` calls them. `slots`: where their refusals are shown."""

    named: dict[str, Any]
    slots: dict[str, gr.HTML]
    quality: gr.Dropdown
    seconds: gr.Slider
    budget: gr.HTML  # what is to be said of so few seconds
    dice: gr.Button
    lock: gr.Button


def make_settings(voice: Voice, pipeline: Pipeline, limits: Limits) -> Settings:
    defaults = pipeline.config.defaults
    quality = voice(
        gr.Dropdown,
        {"label": "quality", "choices": _qualities, "info": "quality_info"},
        value="balanced",
        elem_id="quality",
    )
    seconds = voice(
        gr.Slider,
        {"label": "budget"},
        minimum=1,
        maximum=_MOST_SECONDS,
        step=1,
        value=15,
        visible=False,
        elem_id="seconds",
    )
    budget = gr.HTML(elem_id="budget", elem_classes="slot")
    steps = voice(
        gr.Slider,
        {"label": "steps"},
        minimum=1,
        maximum=limits.max_steps,
        step=1,
        value=min(defaults.num_steps, limits.max_steps),
        elem_id="steps",
    )
    wrong_steps = _slot("steps")
    guidance = voice(
        gr.Slider,
        {"label": "guidance"},
        minimum=1,
        maximum=MAX_GUIDANCE / 5,
        step=0.1,
        value=max(defaults.guidance_scale, 1),
        elem_id="guidance",
    )
    wrong_guidance = _slot("guidance")
    size = voice(
        gr.Dropdown,
        {"label": "size", "choices": _sizes(pipeline, limits)},
        value=f"{defaults.width}x{defaults.height}",
        allow_custom_value=True,
        elem_id="size",
    )
    count = voice(
        gr.Slider,
        {"label": "count"},
        minimum=1,
        maximum=max(limits.max_images, 2),
        step=1,
        value=1,
        elem_id="count",
        visible=limits.max_images > 1,
    )
    wrong_size, wrong_count = _slot("size"), _slot("count")
    with gr.Row(elem_classes="seed"):
        seed = voice(gr.Textbox, {"label": "seed", "placeholder": "seed_random"}, max_lines=1, elem_id="seed")
        dice = voice(gr.Button, {"value": "dice"}, elem_id="dice", size="sm")
        lock = voice(gr.Button, {"value": "lock"}, elem_id="lock", size="sm")
    wrong_seed = _slot("seed")
    with voice(gr.Accordion, {"label": "more"}, open=False, elem_id="more"):
        labels = [(entry.label, name) for name, entry in SAMPLERS.items()]
        sampler = voice(gr.Dropdown, {"label": "sampler"}, choices=labels, value=defaults.sampler, elem_id="sampler")
        spacing = voice(gr.Dropdown, {"label": "spacing", "choices": _spacings}, value="", elem_id="spacing")
        interval = voice(
            gr.Textbox,
            {"label": "interval", "placeholder": "interval_all", "info": "interval_info"},
            max_lines=1,
            elem_id="interval",
        )
    wrong_spacing, wrong_interval = _slot("spacing"), _slot("interval")  # to be seen when it is closed, too
    dice.click(
        lambda: str(secrets.randbelow(2**32)),
        None,
        seed,
        **QUIET,
    )
    named = {
        "steps": steps,
        "guidance": guidance,
        "interval": interval,
        "sampler": sampler,
        "spacing": spacing,
        "size": size,
        "seed": seed,
    }
    slots = {
        "steps": wrong_steps,
        "guidance": wrong_guidance,
        "size": wrong_size,
        "count": wrong_count,
        "seed": wrong_seed,
        "spacing": wrong_spacing,
        "interval": wrong_interval,
    }
    return Settings({**named, "count": count}, slots, quality, seconds, budget, dice, lock)


def _slot(name: str) -> gr.HTML:
    """Where a refusal stands that is about the control above it."""
    return gr.HTML(elem_id=f"{name}-wrong", elem_classes="slot")


def _sizes(pipeline: Pipeline, limits: Limits) -> Callable[[str], list[tuple[str, str]]]:
    defaults = pipeline.config.defaults
    sizes = sorted({(defaults.width, defaults.height), *SIZES})
    sizes = [size for size in sizes if max(size) <= limits.max_side]

    def choices(language: str) -> list[tuple[str, str]]:
        shapes = ("tall", "square", "wide")
        return [(f"{text(shapes[(w > h) - (w < h) + 1], language)} {w}×{h}", f"{w}x{h}") for w, h in sizes]

    return choices


def _qualities(language: str) -> list[tuple[str, str]]:
    named = [(text(name, language), name) for name in QUALITIES]
    return [*named, (text("in_seconds", language), TIMED), (text("own_steps", language), OWN)]


def _spacings(language: str) -> list[tuple[str, str]]:
    return [(text("spacing_own", language), ""), *((name.replace("_", " "), name) for name in SPACINGS)]


def connect_settings(
    settings: Settings,
    models: Models,
    limits: Limits,
    language: gr.Radio,
    named: dict[str, Any],
    slots: dict[str, Any],
    drawn: gr.Textbox,
) -> None:
    """The estimate follows the controls, the quality sets steps and sampler; steps of one's own are no such quality.

    `named` and `slots`: the whole tab's, with "estimate" among the slots. The line of the jobs is not one of them: an
    estimate may come late, and would wipe out what a job has said meanwhile. `drawn` changes with every picture, from
    which more is known of the machine.
    """
    controls = list(named.values())
    places = {**slots, "status": slots["estimate"]}  # for refusals that no single control is to blame for

    def estimate(language: str, *values: Any) -> dict[Any, Any]:
        chosen = dict(zip(named, values, strict=True))
        clear = dict.fromkeys(slots.values(), "")
        if not str(chosen["prompt"] or "").strip():
            del clear[slots["prompt"]]  # it may have been missed by now, and was not given since
        try:
            request = resolve(wish.to_request(chosen, models.current, limits), models.current)
            seconds, gigabytes = models.seconds(request), models.memory(request) / 1e9
        except RequestError as error:
            refusal = beside(str(error), places, language)
            return clear | {slot: words for slot, words in refusal.items() if words}
        if seconds is None:
            return clear | {slots["estimate"]: text("measuring_first", language)}
        line = text("estimate", language, seconds=duration(seconds, language), memory=decimal(gigabytes, 1, language))
        return clear | {slots["estimate"]: line}

    def choose_quality(quality: str, seconds: Any, language: str, *values: Any) -> dict[Any, Any]:
        wishes = {**dict(zip(named, values, strict=True)), "steps": 1, "interval": ""}  # are to be chosen
        try:
            request = wish.to_request(wishes, models.current, limits)
            chosen = None if quality == OWN else choose(quality, seconds, request, models)
        except RequestError as error:  # of the others it stands beside its control already
            return {settings.budget: wrong(str(error), language) if control_of(str(error)) == "seconds" else ""}
        if chosen is None:
            return {settings.budget: ""}
        return {
            steps: min(max(chosen.num_steps, 1), limits.max_steps),
            named["sampler"]: chosen.sampler or models.current.config.defaults.sampler,
            named["spacing"]: chosen.spacing or "",
            named["interval"]: interval_text(chosen.guidance_interval),
            settings.budget: _doubt(chosen, seconds, models, language) if quality == TIMED else "",
        }

    def keep_budget(quality: str, *values: Any) -> dict[Any, Any]:
        """More pictures or larger ones leave time for fewer steps."""
        return choose_quality(quality, *values) if quality == TIMED else {settings.budget: gr.skip()}

    def check_quality(quality: str, steps: Any) -> Any:
        return OWN if quality in QUALITIES and steps != _steps_of(quality, models, limits) else gr.skip()

    def check_interval(quality: str, interval: Any) -> Any:
        if quality not in QUALITIES:
            return gr.skip()
        usual = interval_text(preset_for(quality, models.current).guidance_interval)
        return OWN if (interval or "") != usual else gr.skip()

    steps, interval = named["steps"], named["interval"]
    chosen = [steps, *(named[name] for name in ("sampler", "spacing", "interval")), settings.budget]
    asked = [settings.quality, settings.seconds, language, *controls]
    settings.quality.input(choose_quality, asked, chosen, **QUIET)
    settings.quality.change(
        None, settings.quality, [settings.seconds, settings.budget], js=_ONLY_TIMED, api_visibility="private"
    )
    gr.on(
        [settings.seconds.input, *(named[name].input for name in ("guidance", "size", "count"))],
        keep_budget,
        asked,
        chosen,
        trigger_mode="always_last",
        **QUIET,
    )
    steps.input(None, None, settings.quality, js=f"() => {OWN!r}", api_visibility="private")
    steps.change(check_quality, [settings.quality, steps], settings.quality, trigger_mode="always_last", **QUIET)
    interval.change(check_interval, [settings.quality, interval], settings.quality, trigger_mode="always_last", **QUIET)
    gr.on(
        [*(control.change for control in [*controls, drawn]), language.change],
        estimate,
        [language, *controls],
        list(slots.values()),
        trigger_mode="always_last",
        **QUIET,
    )


def _steps_of(quality: str, models: Models, limits: Limits) -> int:
    return min(preset_for(quality, models.current).num_steps, limits.max_steps)


def choose(quality: str, seconds: Any, request: Request, models: Models) -> Preset | None:
    """What a preset by name, or a number of seconds, makes of a request; None as long as the machine is not known.

    No steps at all are what fits into too few seconds. Raises RequestError.
    """
    if quality != TIMED:
        return preset_for(quality, models.current) if quality in QUALITIES else None
    budget = wish.budget(seconds)
    if models.speed is None:
        return None
    left_open = replace(request, num_steps=None, sampler=None, spacing=None, guidance_interval=None)
    chosen = within(budget, left_open, models.current, models.speed)
    if chosen is None:
        return Preset(0)
    return Preset(chosen.num_steps or 0, chosen.sampler, chosen.spacing, chosen.guidance_interval)


def _doubt(chosen: Preset, seconds: float, models: Models, language: str) -> str:
    """What a picture in so little time will lack."""
    fewest = fewest_steps(models.current.config)
    if chosen.num_steps == 0:
        return remark(text("budget_short", language, number=seconds))
    if chosen.num_steps < fewest:
        return remark(text("budget_few", language, number=chosen.num_steps, fewest=fewest))
    return ""
