"""Another model: loaded by the worker in its turn, and the controls set to what it is used to."""

import html
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from stablediff.errors import RequestError
from stablediff.web import progress
from stablediff.web.create import Create, style_choices
from stablediff.web.desk import Work
from stablediff.web.scripts import WITH_LANGUAGE
from stablediff.web.studio import QUIET, WATCHING, Studio
from stablediff.web.trouble import wrong


def connect_switch(studio: Studio, create: Create, model: gr.Dropdown, page: gr.Blocks) -> None:
    named, status, models = create.named, create.stage.status, studio.models
    first = models.name

    def face(language: str) -> dict[Any, Any]:
        """What the page says of the model that is there."""
        return {
            model: models.name,
            create.about: html.escape(models.current.describe()),
            named["style"]: gr.update(choices=style_choices(models.current, language), value=""),
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
        defaults = models.current.config.defaults
        yield {
            **ticket,
            **face(job.language),
            status: progress.closing(job),
            create.settings.quality: "balanced",
            named["steps"]: min(defaults.num_steps, studio.limits.max_steps),
            named["guidance"]: max(defaults.guidance_scale, 1),
            named["sampler"]: defaults.sampler,
            named["spacing"]: "",
            named["size"]: f"{defaults.width}x{defaults.height}",
        }

    def catch_up(_name: str, language: str) -> dict[Any, Any]:
        """The page was made for the first model, and somebody may have chosen another one since."""
        return {model: gr.skip()} if models.name == first else face(language)

    said = [model, create.about, named["style"]]
    changed = [named[name] for name in ("steps", "guidance", "sampler", "spacing", "size")]
    outputs = [*said, status, create.stage.ticket, create.settings.quality, *changed]
    model.input(switch, [studio.language, model], outputs, **WATCHING)
    if len(models.names) > 1:
        page.load(catch_up, [model, studio.language], said, js=WITH_LANGUAGE, **QUIET)
