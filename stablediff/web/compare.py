"""The fourth tab: two parameters side by side, from the same noise."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from stablediff.errors import RequestError
from stablediff.images import png_bytes
from stablediff.web import progress, wish
from stablediff.web.company import settle, take_up
from stablediff.web.create import Create
from stablediff.web.desk import Job, Work
from stablediff.web.events import QUIET, WATCHING
from stablediff.web.grid import AXES, NOTHING, Axis, cells, read_axis, sheet
from stablediff.web.models import resolve
from stablediff.web.progress import duration
from stablediff.web.runner import make_runner
from stablediff.web.shelf import TICK, files
from stablediff.web.studio import Studio
from stablediff.web.texts import text
from stablediff.web.trouble import wrong
from stablediff.web.voice import Words

_START = {"across": ("guidance_scale", "1, 4, 7"), "down": (NOTHING, "")}


@dataclass(frozen=True, kw_only=True)
class Comparison(Work):
    """Its requests are the cells of the grid, row by row."""

    across: Axis
    down: Axis


class AxisError(RequestError):
    """`axis` ("across" or "down") is beside which it is said."""

    def __init__(self, message: str, axis: str) -> None:
        super().__init__(message)
        self.axis = axis


def make_compare(studio: Studio, create: Create) -> None:
    voice = studio.voice
    axes: list[Any] = []
    slots: dict[str, gr.HTML] = {}
    with gr.Row(elem_classes="desk"):
        with gr.Column(elem_classes="ask"):
            voice(gr.HTML, {"value": "compare_how"}, elem_classes="quiet")
            for key in _START:
                axes += _axis(studio, key)
                slots[key] = gr.HTML(elem_id=f"{key}-wrong", elem_classes="slot")
            cost = gr.HTML(elem_id="cost", elem_classes="quiet")
            slots["all"] = gr.HTML(elem_id="compare-wrong", elem_classes="slot")
            runner = make_runner(voice, "compare")
        with gr.Column(elem_classes="show"):
            picture = voice(
                gr.Image,
                {"label": "comparison"},
                type="filepath",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                show_label=False,
                elem_id="comparison",
            )
    ticket = gr.Textbox(visible="hidden", show_label=False)
    clock = gr.Timer(TICK, active=False)
    controls = list(create.named.values())
    clear: dict[Any, Any] = dict.fromkeys(slots.values(), "")
    outputs = [runner.status, *slots.values(), picture, ticket, runner.run, runner.stop, clock]

    def switched(*, busy: bool) -> dict[Any, Any]:
        buttons = {runner.run: gr.update(interactive=not busy), runner.stop: gr.update(interactive=busy)}
        return {**buttons, clock: gr.Timer(active=busy)}

    def answer(error: RequestError, language: str) -> dict[Any, Any]:
        slot = slots[error.axis if isinstance(error, AxisError) else "all"]
        return {**clear, slot: wrong(str(error), language)}

    def estimate(language: str, *values: Any) -> dict[Any, Any]:
        try:
            plan = _plan(studio, create, values)
        except RequestError as error:
            return {cost: "", **answer(error, language)}
        seconds = studio.models.seconds(*(resolve(one, studio.models.current) for one in plan.requests))
        line = text("measuring_first", language)
        if seconds is not None:
            line = text("cost", language, count=len(plan.requests), seconds=duration(seconds, language))
        return {cost: line, **clear}

    async def compare(visitor: gr.Request, language: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        try:
            work = await asyncio.to_thread(_plan, studio, create, values, secrets.randbelow(2**32))
            job = studio.submit(visitor, work)
        except RequestError as error:
            yield {**answer(error, language), runner.status: "", **switched(busy=False)}
            return
        async for update in follow(job, language):
            yield update

    async def follow(job: Job, language: str) -> AsyncIterator[dict[Any, Any]]:
        working = {**clear, ticket: job.key, **switched(busy=True)}
        yield working
        finished = 0
        async for _ in studio.desk.watch(job):
            if job.state == "done":
                break
            line = progress.progress(studio.desk, job, language)
            update: dict[Any, Any] = {**working, runner.status: line}  # all of it, as in `Stage.follow`
            if len(job.images) == finished:
                yield update
                continue
            finished = len(job.images)
            with await asyncio.to_thread(_picture, job, language) as paths:
                yield {**update, picture: paths[0]}
        async for answer in end(job, language):
            yield answer

    async def end(job: Job, language: str) -> AsyncIterator[dict[Any, Any]]:
        last: dict[Any, Any] = {runner.status: _line(job, language), **switched(busy=False)}
        if not job.images:
            yield last
            return
        with await asyncio.to_thread(_picture, job, language) as paths:
            yield {**last, picture: paths[0]}

    gr.on(
        [
            *(axis.change for axis in axes),
            create.named["steps"].change,
            create.named["size"].change,
            studio.language.change,
        ],
        estimate,
        [studio.language, *axes, *controls],
        [cost, *slots.values()],
        trigger_mode="always_last",
        **QUIET,
    )

    def say_again(language: str, key: str) -> Any:
        job = studio.desk.find(key)
        return _line(job, language) if job is not None and job.state == "done" else gr.skip()

    studio.language.change(say_again, [studio.language, ticket], runner.status, **QUIET)
    runner.run.click(compare, [studio.language, *axes, *controls], outputs, **WATCHING)
    take_up(studio, "compare", ticket, outputs, follow)
    settle(studio, clock, ticket, runner.status, outputs, partial(switched, busy=False), end)
    studio.connect_stop(runner.stop, ticket)
    studio.kept["compare"] = axes


def _axis(studio: Studio, key: str) -> list[Any]:
    name, values = _START[key]
    words: dict[str, Words] = {"label": "axis_values", "placeholder": "axis_hint"}
    return [
        studio.voice(gr.Dropdown, {"label": f"axis_{key}", "choices": _choices}, value=name, elem_id=f"axis-{key}"),
        studio.voice(gr.Textbox, words, value=values, lines=2, max_lines=8, elem_id=f"values-{key}"),
    ]


def _choices(language: str) -> list[tuple[str, str]]:
    return [(text(f"axis_{name}", language), name) for name in (NOTHING, *AXES)]


def _plan(studio: Studio, create: Create, values: tuple[Any, ...], seed: int | None = None) -> Comparison:
    """`values`: both axes' names and words, and the first tab's controls. Raises RequestError."""
    pipeline, limits = studio.models.current, studio.limits
    wishes = dict(zip(create.named, values[4:], strict=True))
    request = wish.to_request(wishes, pipeline, limits)
    request = replace(request, seed=seed) if request.seed is None else request

    def check(axis: Axis, value: str) -> None:
        limits.check(resolve(replace(axis.apply(request, value), num_images=1), pipeline))

    read: list[Axis] = []
    for number, key in enumerate(_START):
        try:
            axis = read_axis(*values[2 * number : 2 * number + 2])
            read.append(axis)
            for value in axis.values[: limits.max_grid]:
                check(axis, value)
        except RequestError as error:
            raise AxisError(str(error), key) from error
    across, down = read
    size = len(across.values) * len(down.values)
    if size > limits.max_grid:
        raise RequestError(f"the grid has {size} pictures: choose at most {limits.max_grid} here")
    requests = cells(request, across, down)
    for one in requests:
        limits.check(resolve(one, pipeline))
    if seed is not None:  # it is to be drawn
        wish.check_is_said(request.prompt)
    return Comparison(studio.models.name, tuple(requests), across=across, down=down)


def _line(job: Job, language: str) -> str:
    job.language = language
    if job.error is not None or job.stopped or not job.results:
        return progress.closing(job)
    total = duration(sum(result.seconds["total"] for result in job.results), language)
    return progress.say(text("compared", language, seconds=total, seed=job.work.requests[0].seed))


def _picture(job: Job, language: str) -> Any:
    """The grid as far as it is drawn, as a file for as long as the block runs. The recipe in it is the first one's."""
    assert isinstance(job.work, Comparison)
    page = sheet(job.images, job.work.across, job.work.down, partial(_name, language))
    name = f"comparison-{job.work.requests[0].seed}.png"
    return files([(name, png_bytes(page, job.results[0].parameters(0)))])


def _name(language: str, axis: str) -> str:
    return text(f"axis_{axis}", language)
