"""Another model: loaded by the worker in its turn, and the controls set to what it is used to."""

import html
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from stablediff.errors import RequestError
from stablediff.web import progress
from stablediff.web.create import Create
from stablediff.web.desk import Work
from stablediff.web.events import QUIET, WATCHING
from stablediff.web.scripts import WITH_LANGUAGE
from stablediff.web.studio import Studio
from stablediff.web.texts import text
from stablediff.web.trouble import wrong

_GLANCE = 5.0  # seconds between two looks at which model is there


def connect_switch(studio: Studio, create: Create, strength: gr.Slider, model: gr.Dropdown, page: gr.Blocks) -> None:
    named, status, models = create.named, create.stage.status, studio.models
    told = gr.State(models.name)  # the model that the page speaks of
    clock = gr.Timer(_GLANCE, active=len(models.names) > 1)

    def face(language: str) -> dict[Any, Any]:
        """What the page says of the model that is there."""
        return {
            told: models.name,
            model: models.name,
            **create.face(models.current, language),
        }

    def habits() -> dict[Any, Any]:
        """The controls as the model is used to them."""
        defaults = models.current.config.defaults
        return {
            create.settings.quality: "balanced",
            named["steps"]: min(defaults.num_steps, studio.limits.max_steps),
            named["guidance"]: max(defaults.guidance_scale, 1),
            named["interval"]: "",
            named["sampler"]: defaults.sampler,
            named["spacing"]: "",
            named["size"]: f"{defaults.width}x{defaults.height}",
            strength: defaults.strength,
        }

    async def switch(visitor: gr.Request, language: str, name: str) -> AsyncIterator[dict[Any, Any]]:
        if name not in models.names or name == models.name:  # whatever is sent, no other name is ever loaded
            yield {model: models.name}
            return
        try:
            job = studio.submit(visitor, Work(name, ()))
        except RequestError as error:
            yield {status: wrong(str(error), language), model: models.name}
            return
        job.language = language
        ticket = {create.stage.ticket: job.key}  # after which a change of the language asks
        async for _ in studio.desk.watch(job):
            if job.state != "done":
                yield {**ticket, status: progress.progress(studio.desk, job, job.language)}
        if job.error is not None:
            yield {**ticket, status: progress.closing(job), model: models.name}
            return
        yield {**ticket, **face(job.language), **habits(), status: progress.closing(job)}

    def open_page(_told: str, language: str) -> dict[Any, Any]:
        """The page was made for the first model, and somebody may have chosen another one since."""
        return {told: gr.skip()} if models.name == models.names[0] else face(language)

    def look(told_name: str, key: str, language: str) -> dict[Any, Any]:
        """What another visitor chooses changes this page, too, which would else promise one model and show another."""
        job = studio.desk.find(key)
        own = job is not None and job.state != "done" and not job.work.requests  # `switch` will tell
        if own or told_name == models.name:
            return {told: gr.skip()}
        line = text("model_switched", language, model=html.escape(models.name))
        return {**face(language), **habits(), create.restored: line}

    said = [told, model, create.about, named["style"], create.knows, create.known, *create.examples]
    habitual = ("steps", "guidance", "interval", "sampler", "spacing", "size")
    changed = [create.settings.quality, strength, *(named[name] for name in habitual)]
    outputs = [*said, status, create.stage.ticket, *changed]
    model.input(switch, [studio.language, model], outputs, **WATCHING)
    if len(models.names) > 1:
        page.load(open_page, [told, studio.language], said, js=WITH_LANGUAGE, **QUIET)
        clock.tick(look, [told, create.stage.ticket, studio.language], [*said, create.restored, *changed], **QUIET)
