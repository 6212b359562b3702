"""The third tab: how the noise became a picture, step by step and word by word."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import gradio as gr
from PIL import Image

from stablediff.insight.attention import overlay
from stablediff.insight.film import animate
from stablediff.insight.recorder import Recorder
from stablediff.request import Request
from stablediff.web import wish
from stablediff.web.company import accompany
from stablediff.web.create import Create
from stablediff.web.desk import Job
from stablediff.web.events import QUIET, WATCHING
from stablediff.web.models import resolve
from stablediff.web.player import make_player
from stablediff.web.runner import make_runner
from stablediff.web.shelf import Drawn, files, make_stage
from stablediff.web.studio import Studio
from stablediff.web.told import Film, code, explain, strip

_SIDE = 320  # pixels of a frame
# A click on a frame of the strip tells its step.
_GO = """
element.addEventListener('click', event => {
  const frame = event.target.closest('[data-step]');
  if (frame) trigger('click', { step: Number(frame.dataset.step) });
});
"""


def make_inside(studio: Studio, create: Create) -> None:
    voice = studio.voice
    with gr.Row(elem_classes="desk"):
        with gr.Column(elem_classes="ask"):
            voice(gr.HTML, {"value": "watch_how"}, elem_classes="quiet")
            runner = make_runner(voice, "watch")
            refused = gr.HTML(elem_id="watch-wrong", elem_classes="slot")
            stage = make_stage(voice, "inside", runner.run, runner.stop, runner.status, height=260)
        with gr.Column(elem_classes="show", visible=False) as shown:
            frames = gr.HTML(elem_id="strip", js_on_load=_GO)
            scrub = voice(gr.Slider, {"label": "scrub"}, minimum=1, maximum=2, step=1, value=1, elem_id="scrub")
            with gr.Row(elem_classes="tight"):
                player = make_player(voice, scrub)
                film_file = voice(gr.DownloadButton, {"label": "film_file"}, size="sm", elem_id="film-file")
            with gr.Row(elem_classes="halves"):
                seen = _picture(studio, "seen")
                believed = _picture(studio, "believed")
            explained = gr.HTML(elem_id="explained", elem_classes="explained")
            with voice(gr.Accordion, {"label": "our_code"}, open=False, elem_id="code"):
                source = gr.HTML(elem_classes="source")
            word = voice(gr.Radio, {"label": "word"}, choices=[], elem_id="word")
            heat = _picture(studio, "heat")
    film = gr.State(None)
    controls = list(create.named.values())

    async def watch(
        visitor: gr.Request, language: str, shelf: list[Drawn], *values: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        chosen = dict(zip(create.named, values, strict=True)) | {"count": 1}

        def observe(request: Request) -> Recorder:
            return Recorder(studio.models.current, resolve(request, studio.models.current).guidance_scale)

        def make() -> Request:
            request = wish.to_request(chosen, studio.models.current, studio.limits)
            wish.check_is_said(request.prompt)
            return request

        slots = dict.fromkeys(("prompt", "seed", "size", "spacing"), refused)
        async for answer in studio.draw(visitor, stage, slots, language, shelf, make, observe):
            yield answer

    def show(language: str, key: str, shelf: list[Drawn]) -> tuple[Any, ...]:
        """What the strip, the scrubber and the words stand for, once the run is over."""
        job = studio.desk.find(key)
        made = film_of(studio, job)
        if job is None or not job.images:
            return (gr.skip(),) * 10  # the run from before, which the picture is of, stays
        if made is None or not shelf:
            return (None, gr.update(visible=False), *[gr.skip()] * 8)
        steps = len(made.record.moments)
        listed = [(word.text, number) for number, word in enumerate(made.words)]
        first = 0 if listed else None
        return (
            made,
            gr.update(visible=True),
            gr.update(maximum=max(steps, 2), value=steps),
            *frame(made, steps, language),
            gr.update(choices=listed, value=first, visible=bool(listed)),
            glow(made, first, shelf),
            *read(made, language),
        )

    def keep(made: Film | None, shelf: list[Drawn]) -> Iterator[Any]:
        """The film as a file. Gradio copies it before its folder goes away."""
        if made is None or not shelf:
            return
        data = animate(made.record.moments, shelf[0].image)
        with files([(f"stablediff-{shelf[0].seed}.gif", data)]) as paths:
            yield gr.DownloadButton(value=paths[0], interactive=True)

    watching = runner.run.click(
        watch, [studio.language, stage.shelf, *controls], [*stage.outputs, *create.slots.values(), refused], **WATCHING
    )
    going = accompany(studio, stage, "inside", watching)
    outputs = [film, shown, scrub, seen, believed, explained, word, heat, frames, source]
    for event in (watching, going):
        shown_now = event.then(show, [studio.language, stage.ticket, stage.shelf], outputs, **QUIET)
        shown_now.then(keep, [film, stage.shelf], film_file, **QUIET)
    player.connect(film, lambda film: len(film.record.moments) if film else 1)
    scrubbed = [film, scrub, studio.language]
    scrub.change(frame, scrubbed, [seen, believed, explained], trigger_mode="always_last", **QUIET)
    studio.language.change(frame, scrubbed, [seen, believed, explained], **QUIET)
    studio.language.change(read, [film, studio.language], [frames, source], **QUIET)
    frames.click(go, film, scrub, **QUIET)
    word.input(glow, [film, word, stage.shelf], heat, **QUIET)


def _picture(studio: Studio, key: str) -> Any:
    return studio.voice(
        gr.Image, {"label": key}, format="png", interactive=False, height=_SIDE, buttons=["fullscreen"], elem_id=key
    )


def film_of(studio: Studio, job: Job | None) -> Film | None:
    """What a job's observer remembers, if it had one and a step was made."""
    if job is None or not job.work.observers:
        return None
    recorder = job.work.observers[0]
    if not isinstance(recorder, Recorder) or not recorder.record.moments:
        return None
    pipeline = recorder.pipeline
    if pipeline is None:  # another model has taken its place
        return None
    return Film(resolve(job.work.requests[0], pipeline), recorder.record, pipeline, studio.repository)


def frame(film: Film | None, step: Any, language: str) -> tuple[Any, Any, Any]:
    """What was seen and believed at a step, and the step explained."""
    if film is None:
        return gr.skip(), gr.skip(), gr.skip()
    moment = film.record.moments[_index(film, step)]
    return (
        _enlarge(moment.seen, Image.Resampling.NEAREST),
        _enlarge(moment.believed, Image.Resampling.BICUBIC),
        explain(film, moment.index, language),
    )


def read(film: Film | None, language: str) -> tuple[Any, Any]:
    """The strip and the source."""
    return (gr.skip(), gr.skip()) if film is None else (strip(film, language), code(film, language))


def go(film: Film | None, event: gr.EventData) -> Any:
    return gr.skip() if film is None else _index(film, event._data.get("step")) + 1


def _index(film: Film, step: Any) -> int:
    """A step as the browser says it -> an index that there is."""
    number = int(step) if isinstance(step, (int, float)) and abs(step) < 10**6 else 1
    return min(max(number, 1), len(film.record.moments)) - 1


def glow(film: Film | None, number: Any, shelf: list[Drawn]) -> Any:
    """The finished picture, bright where the word was read."""
    if film is None or not isinstance(number, int) or not 0 <= number < len(film.words) or not shelf:
        return None
    maps = film.record.attention
    if maps.total is None:
        return None
    shown = overlay(shelf[0].image, maps.of(film.words[number]))
    return shown if max(shown.size) >= _SIDE else _enlarge(shown, Image.Resampling.NEAREST)


def _enlarge(frame: Image.Image, how: Image.Resampling) -> Image.Image:
    scale = _SIDE / max(frame.size)
    return frame.convert("RGBA").resize((round(frame.width * scale), round(frame.height * scale)), how)
