"""The first tab: words become pictures."""

import html
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from stablediff.errors import RequestError
from stablediff.pipeline import Pipeline
from stablediff.refusals import translate
from stablediff.request import Limits, Request
from stablediff.sticker import to_sticker, webp_bytes
from stablediff.web import wish
from stablediff.web.chips import read_prompt
from stablediff.web.company import accompany
from stablediff.web.events import QUIET, WATCHING
from stablediff.web.models import resolve
from stablediff.web.offers import MOST_EXAMPLES, examples_of, style_choices, styled
from stablediff.web.progress import say
from stablediff.web.restore import make_restorer, read_file, upscaled, variations
from stablediff.web.settings import Settings, connect_settings, make_settings
from stablediff.web.shelf import Drawn, Stage, files, make_stage, seed_of, written
from stablediff.web.studio import Studio
from stablediff.web.texts import FIRST, text
from stablediff.web.trouble import wrong
from stablediff.web.voice import Words

# The sticker of another picture than the one that is shown would only mislead.
_NO_STICKER = "() => ({ __type__: 'update', visible: false })"
_WITH_A_PICTURE = "recipe => Array(5).fill({ __type__: 'update', interactive: recipe !== '' })"


@dataclass
class Create:
    named: dict[str, Any]
    slots: dict[str, Any]
    settings: Settings
    stage: Stage
    edit: gr.Button  # takes the chosen picture to the second tab
    restore: Callable[..., Any]  # (language, recipe) -> updates for `named`, the quality and `restored`
    restored: gr.HTML
    about: gr.Markdown
    examples: list[gr.Button]
    knows: gr.Accordion
    known: gr.Markdown

    def face(self, pipeline: Pipeline, language: str) -> dict[Any, Any]:
        """What is said of this model."""
        things = pipeline.things(language)
        return {
            self.about: _about(pipeline, language),
            self.named["style"]: gr.update(choices=style_choices(pipeline, language), value=""),
            self.knows: gr.update(label=text("knows", language, count=len(things)), visible=bool(things)),
            self.known: html.escape(", ".join(things)),
            **{
                button: gr.update(value=(words := _example(pipeline, number, language)), visible=bool(words))
                for number, button in enumerate(self.examples)
            },
        }


def make_create(studio: Studio) -> Create:
    voice, pipeline = studio.voice, studio.models.current

    def example(number: int) -> dict[str, Words]:
        def words(language: str) -> str:
            return _example(studio.models.current, number, language)

        return {"value": words, "visible": lambda language: bool(words(language))}

    def choices(language: str) -> list[tuple[str, str]]:
        return style_choices(studio.models.current, language)

    with gr.Row(elem_classes="desk"):
        with gr.Column(elem_classes="ask"):
            prompt = voice(
                gr.Textbox,
                {"label": "prompt", "placeholder": lambda language: text("prompt_hint", language)},
                lines=1,
                max_lines=6,
                autofocus=True,
                elem_id="prompt",
            )
            chips = gr.HTML(elem_id="chips", elem_classes="slot")
            wrong_prompt = gr.HTML(elem_id="prompt-wrong", elem_classes="slot")
            style = voice(
                gr.Radio,
                {"label": "style", "choices": choices},
                value="",
                elem_id="style",
            )
            negative = voice(
                gr.Textbox,
                {"label": "negative", "placeholder": "negative_hint"},
                lines=1,
                max_lines=4,
                elem_id="negative",
            )
            negative_chips = gr.HTML(elem_id="negative-chips", elem_classes="slot")
            wrong_negative = gr.HTML(elem_id="negative-wrong", elem_classes="slot")
            with gr.Row(elem_classes="tight"):
                run = voice(gr.Button, {"value": "draw"}, variant="primary", elem_id="draw", elem_classes="run")
                stop = voice(gr.Button, {"value": "stop"}, elem_id="stop", interactive=False)
            estimate = gr.HTML(elem_id="estimate", elem_classes="quiet")
            status = gr.HTML(elem_id="status", elem_classes="status")
            with gr.Row(elem_classes="tight"):
                voice(gr.HTML, {"value": "try"}, padding=False, elem_classes="quiet fit")
                examples = [
                    voice(gr.Button, example(number), size="sm", elem_classes="example")
                    for number in range(MOST_EXAMPLES)
                ]
        with gr.Column(elem_classes="show"):
            stage = make_stage(voice, "create", run, stop, status)
            with gr.Row(elem_classes="tight"):
                vary = voice(gr.Button, {"value": "vary"}, size="sm", interactive=False, elem_id="vary")
                upscale = voice(gr.Button, {"value": "upscale"}, size="sm", interactive=False, elem_id="upscale")
                sticker = voice(gr.Button, {"value": "sticker"}, size="sm", interactive=False, elem_id="sticker")
                edit = voice(gr.Button, {"value": "edit_it"}, size="sm", interactive=False, elem_id="edit-it")
                delete = voice(gr.Button, {"value": "delete"}, size="sm", interactive=False, elem_id="delete")
            sticker_file = voice(gr.DownloadButton, {"label": "sticker_file"}, visible=False, elem_id="sticker-file")
            with voice(gr.Accordion, {"label": "restore"}, open=False, elem_id="restore"):
                file = voice(
                    gr.File, {"label": "restore_file"}, file_types=["image"], height=150, elem_id="restore-file"
                )
            restored = gr.HTML(elem_id="restored", elem_classes="quiet")
        with gr.Column(elem_classes="tune"):
            settings = make_settings(voice, pipeline, studio.limits)

            def things(language: str) -> list[str]:
                return studio.models.current.things(language)

            knows = voice(
                gr.Accordion,
                {"label": lambda language: text("knows", language, count=len(things(language)))},
                open=False,
                visible=bool(things(FIRST)),
            )
            with knows:
                voice(gr.Markdown, {"value": "knows_more"})
                known = voice(gr.Markdown, {"value": lambda language: html.escape(", ".join(things(language)))})
            about = voice(
                gr.Markdown,
                {"value": lambda language: _about(studio.models.current, language)},
                elem_id="about",
                elem_classes="quiet",
            )
    named = {"prompt": prompt, "negative": negative, "style": style, **settings.named}
    slots = {"prompt": wrong_prompt, "negative": wrong_negative, **settings.slots}
    restore = make_restorer(named, settings.quality, restored, studio.models, studio.limits)
    language = studio.language

    _connect_chips(studio, named, chips, negative_chips)
    connect_settings(
        settings, studio.models, studio.limits, language, named, {**slots, "estimate": estimate}, stage.recipe
    )
    for button in examples:
        button.click(lambda value: value, button, prompt, **QUIET)

    async def draw(
        visitor: gr.Request, language: str, shelf: list[Drawn], *values: Any
    ) -> AsyncIterator[dict[Any, Any]]:
        wishes = dict(zip(named, values, strict=True))

        def make() -> Request:
            wish.check_is_said(wishes["prompt"])
            return wish.to_request(wishes, studio.models.current, studio.limits)

        async for answer in studio.draw(visitor, stage, slots, language, shelf, make):
            yield answer

    drawing = gr.on(
        [run.click, prompt.submit, negative.submit],
        draw,
        [language, stage.shelf, *named.values()],
        [*stage.outputs, *slots.values()],
        **WATCHING,
    )
    settings.lock.click(seed_of, stage.recipe, named["seed"], **QUIET)
    picture = [language, stage.shelf, stage.chosen]
    varying = vary.click(_again(studio, stage, variations), picture, stage.outputs, **WATCHING)
    scaling = upscale.click(_again(studio, stage, upscaled), picture, stage.outputs, **WATCHING)

    def restore_file(language: str, path: str | None) -> dict[Any, Any]:
        if not path:
            return {restored: ""}
        try:
            return restore(language, read_file(path))
        except RequestError as error:
            return {restored: wrong(str(error), language)}

    file.change(restore_file, [language, file], [*named.values(), settings.quality, restored], **QUIET)
    sticker.click(_make_sticker, [language, stage.shelf, stage.chosen], [sticker_file, stage.status], **QUIET)
    stage.recipe.change(None, None, sticker_file, js=_NO_STICKER, api_visibility="private")
    actions = [vary, upscale, sticker, edit, delete]
    stage.recipe.change(None, stage.recipe, actions, js=_WITH_A_PICTURE, api_visibility="private")
    delete.click(_delete(studio, stage), [stage.ticket, stage.shelf, stage.chosen], stage.outputs, **QUIET)
    accompany(studio, stage, "create", drawing, varying, scaling)
    return Create(named, slots, settings, stage, edit, restore, restored, about, examples, knows, known)


def _again(studio: Studio, stage: Stage, make: Callable[[Drawn, Limits], Request]) -> Any:
    """Draws from the chosen picture. No control is to blame for what is refused, so that it is told in the status."""

    async def again(
        visitor: gr.Request, language: str, shelf: list[Drawn], chosen: int
    ) -> AsyncIterator[dict[Any, Any]]:
        def wanted() -> Request:
            if not shelf:
                raise RequestError("there is no picture yet: draw one first")
            request = make(shelf[min(chosen, len(shelf) - 1)], studio.limits)
            studio.limits.check(resolve(request, studio.models.current))
            return request

        async for answer in studio.draw(visitor, stage, {}, language, shelf, wanted):
            yield answer

    return again


def _connect_chips(studio: Studio, named: dict[str, Any], chips: gr.HTML, negative_chips: gr.HTML) -> None:
    def read(prompt: str, style: str, language: str) -> str:
        pipeline = studio.models.current
        return read_prompt(pipeline, styled(prompt, style, pipeline), language)

    gr.on(
        [named["prompt"].change, named["style"].change, studio.language.change],
        read,
        [named["prompt"], named["style"], studio.language],
        chips,
        trigger_mode="always_last",
        **QUIET,
    )
    gr.on(
        [named["negative"].change, studio.language.change],
        lambda prompt, language: read_prompt(studio.models.current, prompt, language),
        [named["negative"], studio.language],
        negative_chips,
        trigger_mode="always_last",
        **QUIET,
    )


def _make_sticker(language: str, shelf: list[Drawn], chosen: int) -> Iterator[tuple[Any, str]]:
    """Offers the chosen picture as a sticker; its button stands until the next one is made."""
    try:
        if not shelf:
            raise RequestError("there is no picture yet: draw one first")
        picture = shelf[min(chosen, len(shelf) - 1)]
        data = webp_bytes(to_sticker(picture.image))
    except RequestError as error:
        yield gr.skip(), wrong(str(error), language)
        return
    with files([(f"sticker-{picture.seed}.webp", data)]) as paths:
        yield gr.DownloadButton(value=paths[0], visible=True), say(text("sticker_ready", language))


def _delete(studio: Studio, stage: Stage) -> Any:
    def delete(key: str, shelf: list[Drawn], chosen: int) -> Iterator[dict[Any, Any]]:
        gone = [picture for index, picture in enumerate(shelf) if index == chosen]
        left = [picture for index, picture in enumerate(shelf) if index != chosen]
        job = studio.desk.find(key)
        if job is not None:  # a refresh does not bring it back
            job.gone |= {picture.seed for picture in gone}
        with written(left) as paths:
            yield stage.show(left, paths, min(chosen, max(len(left) - 1, 0)))

    return delete


def _example(pipeline: Pipeline, number: int, language: str) -> str:
    """Empty if there are fewer."""
    words = examples_of(pipeline, language)
    return words[number] if number < len(words) else ""


def _about(pipeline: Pipeline, language: str) -> str:
    """What is loaded, and where it computes."""
    return html.escape(" · ".join(translate(part, language) for part in pipeline.describe().split(" · ")))
