"""The second tab: a picture becomes another one, all of it or only where it was painted over."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image, ImageChops, ImageOps

from stablediff.errors import RequestError
from stablediff.images import fit_image, open_image, over_white
from stablediff.request import Request
from stablediff.web import lenient, wish
from stablediff.web.company import accompany
from stablediff.web.create import Create
from stablediff.web.desk import Job
from stablediff.web.editor import TRY_FILES, WHAT_IS_SHOWN, WHEN_THE_CANVAS_IS_THERE, WHEN_THE_PICTURE_IS_THERE
from stablediff.web.events import QUIET, WATCHING
from stablediff.web.runner import make_runner
from stablediff.web.shelf import Drawn, Stage, make_stage
from stablediff.web.studio import Studio
from stablediff.web.trouble import control_of, wrong

TAKEN = ("steps", "guidance", "sampler", "spacing", "seed", "count")  # from the first tab's controls
_UNREADABLE = "cannot read the picture that was sent: it must be a whole PNG, JPEG or WebP"
_TOO_LONG = "the picture is much longer in one direction than in the other: crop it"
_PAINT = "#e11d74"  # to be seen on white, on black, and on most pictures
_EDITOR_SIDE = 2048  # pixels: no model draws more


class Canvas(NamedTuple):
    """For pictures that come from elsewhere."""

    editor: gr.ImageEditor
    wrong: gr.HTML
    prompt: gr.Textbox
    strength: gr.Slider


def make_edit(studio: Studio, create: Create) -> Canvas:
    voice = studio.voice
    # At the tab's full width: inside of a narrower column the editor measures itself wrongly when the tab opens.
    editor = voice(
        gr.ImageEditor,
        {"label": "edit_picture", "placeholder": "edit_drop"},
        format="png",
        sources=["upload", "clipboard"],
        layers=False,
        transforms=(),
        brush=gr.Brush(colors=[_PAINT], color_mode="fixed", default_size=20),
        height=440,
        elem_id="editor",
    )
    wrong_picture = gr.HTML(elem_id="picture-wrong", elem_classes="slot", js_on_load=TRY_FILES)
    voice(gr.HTML, {"value": "edit_how"}, elem_classes="quiet")
    with gr.Row(elem_classes="desk"):
        with gr.Column(elem_classes="ask"):
            prompt = voice(
                gr.Textbox, {"label": "prompt", "placeholder": "edit_hint"}, lines=1, max_lines=6, elem_id="edit-prompt"
            )
            wrong_prompt = gr.HTML(elem_id="edit-prompt-wrong", elem_classes="slot")
            negative = voice(
                gr.Textbox, {"label": "negative", "placeholder": "negative_hint"}, lines=1, elem_id="edit-negative"
            )
            strength = voice(
                gr.Slider,
                {"label": "strength", "info": "strength_info"},
                minimum=0.05,
                maximum=1,
                value=studio.models.current.config.defaults.strength,
                step=0.05,
                elem_id="strength",
            )
            wrong_strength = gr.HTML(elem_id="strength-wrong", elem_classes="slot")
            runner = make_runner(voice, "edit")
        with gr.Column(elem_classes="show"):
            slider = voice(
                gr.ImageSlider, {"label": "before_after"}, format="png", interactive=False, elem_id="before-after"
            )
            stage = make_stage(voice, "edit", runner.run, runner.stop, runner.status, height=300)
    painted = lenient.Painted(visible="hidden", elem_id="painted")
    before = gr.State(None)  # the picture that was changed, at the size of what it became
    taken = {name: create.settings.named[name] for name in TAKEN}
    slots = {"picture": wrong_picture, "prompt": wrong_prompt, "strength": wrong_strength}

    async def draw(
        visitor: gr.Request,
        language: str,
        shelf: list[Drawn],
        painted: Any,
        prompt: str,
        negative: str,
        strength: float,
        *others: Any,
    ) -> AsyncIterator[dict[Any, Any]]:
        values = dict(zip(taken, others, strict=True))
        values |= {"prompt": prompt, "negative": negative, "strength": strength}

        def make() -> Request:
            image, mask = split(painted)
            try:
                request = wish.to_request(values, studio.models.current, studio.limits, image, mask)
            except RequestError as error:
                if control_of(str(error)) == "size":  # which nobody chooses here
                    raise RequestError(_TOO_LONG) from error
                raise
            wish.check_is_said(request.prompt)
            return request

        async for answer in studio.draw(visitor, stage, slots, language, shelf, make):
            yield answer

    def compare(key: str, shelf: list[Drawn], chosen: int) -> tuple[Any, Any]:
        job = studio.desk.find(key)
        if job is None or not job.images:  # those from before are another picture's
            return gr.skip(), gr.skip()
        image = over_white(fit_image(init_image(job), *shelf[0].image.size))
        return image, before_after(image, shelf, chosen)

    def lay_again(key: str) -> Any:
        job = studio.desk.find(key)
        return gr.skip() if job is None else painted_value(job) | {"layers": []}

    def paint_again(key: str) -> Any:
        job = studio.desk.find(key)
        return gr.skip() if job is None or job.work.requests[0].mask_image is None else painted_value(job)

    pressed = gr.on(
        [runner.run.click, prompt.submit], None, editor, painted, js=WHAT_IS_SHOWN, api_visibility="private"
    )
    editing = pressed.then(
        draw,
        [studio.language, stage.shelf, painted, prompt, negative, strength, *taken.values()],
        [*stage.outputs, *slots.values()],
        **WATCHING,
    )
    wrong_picture.click(lambda language: wrong(_UNREADABLE, language), studio.language, wrong_picture, **QUIET)
    wrong_picture.select(None, None, wrong_picture, js="() => ''", api_visibility="private")
    going = accompany(studio, stage, "edit", editing)
    left = studio.left["edit"]
    laid = left.change(lay_again, left, editor, js=WHEN_THE_CANVAS_IS_THERE, **QUIET)
    laid.then(paint_again, left, editor, js=WHEN_THE_PICTURE_IS_THERE, **QUIET)
    for event in (editing, going):
        event.then(compare, [stage.ticket, stage.shelf, stage.chosen], [before, slider], **QUIET)
    stage.chosen.change(before_after, [before, stage.shelf, stage.chosen], slider, **QUIET)
    studio.kept["edit"] = [prompt, negative, strength]
    return Canvas(editor, wrong_picture, prompt, strength)


def split(painted: Any) -> tuple[Image.Image, Image.Image | None]:
    """An editor's value -> the picture, and where it was painted over (None: nowhere). Raises RequestError."""
    painted = painted if isinstance(painted, Mapping) else {}
    if painted.get("background") is None:
        raise RequestError("the picture is missing: drop one onto the canvas, or choose a file")
    background = open_image(painted["background"])
    mask = Image.new("L", background.size)
    for layer in painted.get("layers") or []:
        try:
            alpha = open_image(layer).convert("RGBA").getchannel("A").resize(background.size)
        except RequestError as error:
            raise RequestError("what was painted cannot be read: paint again") from error
        mask = ImageChops.lighter(mask, alpha.point(lambda value: 255 * (value > 0)))
    opaque = background.mode == "RGBA" and background.getchannel("A").getextrema() == (255, 255)
    return background.convert("RGB") if opaque else background, mask if mask.getbbox() else None


def init_image(job: Job) -> Image.Image:
    image = job.work.requests[0].init_image
    assert image is not None
    return image


def before_after(before: Image.Image | None, shelf: list[Drawn], chosen: int) -> Any:
    if before is None or not shelf:
        return gr.skip()
    return before, over_white(shelf[min(chosen, len(shelf) - 1)].image)


def painted_value(job: Job) -> dict[str, Any]:
    """The editor as it was when the job began."""
    request, image = job.work.requests[0], init_image(job)
    image = ImageOps.contain(image, (min(image.width, _EDITOR_SIDE), min(image.height, _EDITOR_SIDE)))
    layers = []
    if request.mask_image is not None:
        paint = Image.new("RGBA", image.size, _PAINT)
        paint.putalpha(request.mask_image.convert("L").resize(image.size))
        layers = [paint]
    return {"background": image, "layers": layers, "composite": image}


def editor_value(picture: Drawn) -> dict[str, Any]:
    image = picture.image
    image.load()
    return {"background": image, "layers": [], "composite": image}


def connect_edit_it(button: gr.Button, source: Stage, canvas: Canvas, tabs: gr.Tabs) -> None:
    """Takes the chosen picture over to this tab."""

    def take(shelf: list[Drawn], chosen: int) -> Any:
        if not shelf:
            return (gr.skip(),) * 4
        picture = shelf[min(chosen, len(shelf) - 1)]
        words = picture.recipe.partition("\n")[0]
        return editor_value(picture), "", words, gr.Tabs(selected="edit")

    button.click(take, [source.shelf, source.chosen], [canvas.editor, canvas.wrong, canvas.prompt, tabs], **QUIET)
