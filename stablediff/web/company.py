"""What every tab that draws does besides: it stops, comes back after a refresh, ends for certain, speaks the visitor's
language, and keeps its pictures."""

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr

from stablediff.web import progress
from stablediff.web.database import SAVE, SAVE_FINISHED
from stablediff.web.desk import Job
from stablediff.web.events import QUIET, WATCHING
from stablediff.web.scripts import WITH_LANGUAGE, Allowed, recall, remember, remember_job
from stablediff.web.shelf import Stage
from stablediff.web.studio import Studio

Follow = Callable[[Job, str], AsyncIterator[dict[Any, Any]]]

_SETTLED = 2.0  # seconds after its end that a job's own last word may take


def keep_controls(page: gr.Blocks, tab: str, controls: Sequence[Any]) -> None:
    """The controls come back as the visitor left them. What they can be is taken from the controls themselves."""
    for_all = [control.change for control in controls]
    gr.on(for_all, None, list(controls), None, js=remember(tab), api_visibility="private")
    allowed = [_allowed(control) for control in controls]
    page.load(None, list(controls), list(controls), js=recall(tab, allowed), api_visibility="private")


def _allowed(control: Any) -> Allowed:
    if isinstance(control, gr.Slider):
        return {"low": control.minimum, "high": control.maximum}
    choices = getattr(control, "choices", None)
    if choices is None or getattr(control, "allow_custom_value", False):
        return None
    return {"among": [value for _, value in choices]}


def take_up(studio: Studio, tab: str, ticket: gr.Textbox, outputs: Sequence[Any], follow: Follow) -> Any:
    """A page that is opened again goes on with the job that it had left in a tab. `ticket` has the job's key. Returns
    the event."""

    async def go_on(key: str, language: str) -> AsyncIterator[dict[Any, Any]]:
        job = studio.desk.find(key)
        if job is None:  # another server's, or long ago
            yield {ticket: gr.skip()}
            return
        async for answer in follow(job, language):
            yield answer

    ticket.change(None, ticket, None, js=remember_job(tab), api_visibility="private")
    left = studio.left[tab] = gr.Textbox("", visible="hidden", show_label=False, elem_id=f"{tab}-left")
    return left.change(go_on, [left, studio.language], list(outputs), js=WITH_LANGUAGE, **WATCHING)


def settle(
    studio: Studio,
    clock: gr.Timer,
    ticket: gr.Textbox,
    status: gr.HTML,
    outputs: Sequence[Any],
    idle: Callable[[], dict[Any, Any]],
    end: Follow,
) -> None:
    """The end of a job does not hang on one message of a stream, which can break: as long as the page takes a job for a
    running one, it asks. `end` says how a job that is done is shown."""

    async def ask(key: str, language: str) -> AsyncIterator[dict[Any, Any]]:
        job = studio.desk.find(key)
        if job is None:
            yield {status: gr.skip() if key == "" else progress.lost(language), **idle()}
        elif job.since_end < _SETTLED:
            yield {status: gr.skip()}
        else:
            async for answer in end(job, language):
                yield answer

    clock.tick(ask, [ticket, studio.language], list(outputs), **QUIET)


def accompany(studio: Studio, stage: Stage, tab: str, *drawing: Any) -> Any:
    """Connects a stage. `drawing`: the events that draw on it. Returns the event that takes up the job which a
    refreshed page had left, for what else a tab does when a picture is there."""
    desk, key = studio.desk, [stage.ticket, studio.language]

    async def end(job: Job, language: str) -> AsyncIterator[dict[Any, Any]]:
        job.language = language
        with stage.ending(job) as answer:
            yield answer

    def say_again(key: str, language: str) -> str:
        job = desk.find(key)
        if job is None:
            return ""  # what stood there was of the moment
        job.speak(language)
        return progress.closing(job) if job.state == "done" else progress.progress(desk, job, language)

    studio.connect_stop(stage.stop, stage.ticket)
    studio.language.change(say_again, key, stage.status, **QUIET)
    settle(studio, stage.clock, stage.ticket, stage.status, stage.outputs, stage.idle, end)
    going = take_up(studio, tab, stage.ticket, stage.outputs, partial(stage.follow, desk))
    for event in (*drawing, going):
        event.then(None, [stage.gallery, stage.ticket], None, js=SAVE, api_visibility="private")
    finished = [stage.gallery, stage.ticket, stage.recipe]
    stage.recipe.change(None, finished, None, js=SAVE_FINISHED, api_visibility="private")  # after `settle`
    return going
