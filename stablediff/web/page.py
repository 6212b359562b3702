"""The page: what there is to see, and which function answers which button."""

import html
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from stablediff.checkpoints.locate import BUNDLED
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.errors import RequestError, StableDiffError
from stablediff.generate import Result, Update, generate
from stablediff.images import over_white, save_png
from stablediff.pipeline import Pipeline
from stablediff.request import MAX_GUIDANCE, MAX_STEPS, Request, parse_size

PREVIEWS_A_PICTURE = 8
PREVIEW_SIDE = 384  # pixels of the longer side
MOST_IMAGES = 4
SIZES = ("512x512", "512x768", "768x512", "768x768", "1024x1024")
EXAMPLES = (
    "panda, soft style",
    "sunflower, soft style",
    "avocado, glossy style",
    "rainbow, soft style",
    "fox, flat style",
)

CSS = """
#page { max-width: 1120px; margin: 0 auto; }
#studio { display: grid; grid-template: "ask show" auto "tune show" 1fr / 2fr 3fr; }
#ask { grid-area: ask; } #show { grid-area: show; } #tune { grid-area: tune; }
@media (max-width: 760px) { #studio { grid-template: "ask" "show" "tune" / 1fr; } }
#about { opacity: .7; font-size: .85em; }
#status { min-height: 3rem; }
#status progress { width: 100%; height: .5rem; appearance: none; border: 0; border-radius: .25rem; overflow: hidden; }
#status progress, #status progress::-webkit-progress-bar { background: var(--border-color-primary); }
#status progress::-webkit-progress-value { background: var(--color-accent); }
#status progress::-moz-progress-bar { background: var(--color-accent); }
#gallery .preview { background: var(--block-background-fill); backdrop-filter: none; }
#status .wrong { color: var(--error-text-color, #b91c1c); }
"""


def build_page(pipeline: Pipeline) -> gr.Blocks:
    """A page that draws with this pipeline, one picture after another for all visitors."""
    defaults = pipeline.config.defaults
    things = known_things(pipeline)
    size = f"{defaults.width}x{defaults.height}"

    with gr.Blocks(title="stablediff", analytics_enabled=False, delete_cache=(3600, 3600), elem_id="page") as page:
        gr.Markdown("# stablediff")
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="ask"):
                prompt = gr.Textbox(
                    label="Prompt",
                    lines=1,
                    max_lines=6,
                    autofocus=True,
                    placeholder=EXAMPLES[0] if things else "What to draw",
                    elem_id="prompt",
                )
                negative = gr.Textbox("", label="Negative prompt", lines=1, placeholder="What to steer away from")
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", elem_id="draw")
                    stop = gr.Button("Stop", elem_id="stop")
                status = gr.HTML(elem_id="status")
                if things:
                    gr.Examples([[example] for example in EXAMPLES], inputs=[prompt], cache_examples=False)
            with gr.Column(elem_id="show"):
                gallery = gr.Gallery(
                    label="Pictures",
                    columns=2,
                    height=540,
                    object_fit="contain",
                    preview=True,
                    interactive=False,
                    elem_id="gallery",
                    buttons=["download", "fullscreen"],
                )
                download = gr.DownloadButton("Download with its recipe", interactive=False, elem_id="download")
                recipe = gr.Textbox(label="Recipe", lines=3, interactive=False, buttons=["copy"], elem_id="recipe")
            with gr.Column(elem_id="tune"):
                steps = gr.Slider(1, 100, defaults.num_steps, step=1, label="Steps")
                guidance = gr.Slider(
                    1, MAX_GUIDANCE / 5, max(defaults.guidance_scale, 1), step=0.1, label="Guidance (1 is none)"
                )
                with gr.Row():
                    labels = [(entry.label, name) for name, entry in SAMPLERS.items()]
                    sampler = gr.Dropdown(labels, value=defaults.sampler, label="Sampler")
                    sizes = sorted({size, *SIZES})
                    dimensions = gr.Dropdown(sizes, value=size, label="Size", allow_custom_value=True)
                with gr.Row():
                    seed = gr.Textbox("", label="Seed", placeholder="random", max_lines=1, elem_id="seed")
                    count = gr.Slider(1, MOST_IMAGES, 1, step=1, label="Pictures")
                if things:
                    with gr.Accordion(f"The {len(things)} things that this model knows", open=False):
                        gr.Markdown(html.escape(", ".join(things)))
                gr.Markdown(html.escape(pipeline.describe()), elem_id="about")

        recipes = gr.State([])  # of the pictures in the gallery
        inputs = [prompt, negative, steps, guidance, sampler, dimensions, seed, count]
        outputs = [status, gallery, recipes, download, recipe]

        # The parameters' names are the API's, too.
        def draw_pictures(
            prompt: str,
            negative_prompt: str = "",
            steps: float = defaults.num_steps,
            guidance: float = defaults.guidance_scale,
            sampler: str = defaults.sampler,
            size: str = size,
            seed: str = "",
            pictures: float = 1,
        ) -> Iterator[tuple[Any, ...]]:
            wish = Wish(prompt, negative_prompt, steps, guidance, sampler, size, seed, pictures)
            yield from fulfil(pipeline, wish)

        drawing = gr.on(
            [draw.click, prompt.submit],
            draw_pictures,
            inputs,
            outputs,
            api_name="generate",
            concurrency_limit=1,
            concurrency_id="engine",
            show_progress="hidden",
        )
        stop.click(lambda: say("Stopped."), None, status, cancels=[drawing], queue=False, api_visibility="private")
        gallery.select(choose, recipes, [download, recipe], queue=False, api_visibility="private")
    return page


def known_things(pipeline: Pipeline) -> list[str]:
    """What the bundled model can draw; empty for models that were not asked to keep a list."""
    path = pipeline.report.path / "known.txt"
    return path.read_text(encoding="utf-8").splitlines() if pipeline.name in BUNDLED and path.is_file() else []


class Wish(NamedTuple):
    """The controls' values, as the browser sends them."""

    prompt: str
    negative_prompt: str
    steps: float
    guidance: float
    sampler: str
    size: str
    seed: str
    pictures: float

    def to_request(self) -> Request:
        """Raises RequestError."""
        width, height = parse_size(self.size)
        steps = _whole("steps", self.steps)
        return Request(
            prompt=self.prompt.strip(),
            negative_prompt=self.negative_prompt,
            num_steps=steps,
            guidance_scale=self.guidance,
            sampler=self.sampler,
            width=width,
            height=height,
            seed=_whole("seed", self.seed) if str(self.seed or "").strip() else None,
            num_images=_whole("pictures", self.pictures),
            preview_every=min(max(1, steps // PREVIEWS_A_PICTURE), MAX_STEPS),
        )


def _whole(name: str, value: str | float) -> int:
    """Seeds come as text, because a browser's numbers lose the digits of large ones."""
    try:
        return int(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise RequestError(f"{name} is {str(value)[:30]!r}: write a whole number") from error


def fulfil(pipeline: Pipeline, wish: Wish) -> Iterator[tuple[Any, ...]]:
    """Yields what to show: status, gallery, its recipes, and the picture to download with its recipe.

    A wish that cannot be fulfilled is answered in the status line. Closing this generator stops the drawing.
    """
    nothing = gr.DownloadButton(value=None, interactive=False), ""
    try:
        previews: list[Image.Image] = []
        for event in generate(pipeline, wish.to_request()):
            if isinstance(event, Update):
                previews = [_enlarge(image) for image in event.previews] or previews
                shown = [*event.images, *previews]
                newest = len(event.images) if previews else None
                yield progress(event), gr.Gallery(value=shown, selected_index=newest), [], *nothing
            else:
                yield from _show(event)
    except StableDiffError as error:
        yield say(str(error), wrong=True), gr.skip(), gr.skip(), gr.skip(), gr.skip()


def _show(result: Result) -> Iterator[tuple[Any, ...]]:
    """The finished pictures, as files that carry their recipes. Gradio copies them before the folder goes away."""
    with tempfile.TemporaryDirectory(prefix="stablediff-") as folder:
        finished = []
        for index, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
            path, recipe = Path(folder) / f"stablediff-{seed}.png", result.parameters(index)
            save_png(image, path, recipe)
            finished.append((str(path), recipe))
        last = f" to {result.seeds[-1]}" if len(result.seeds) > 1 else ""
        done = f"Drawn in {result.seconds['total']:.1f} s with seed {result.request.seed}{last}."
        first_path, first_recipe = finished[0]
        download = gr.DownloadButton(value=first_path, interactive=True)
        paths = [path for path, _ in finished]
        recipes = [recipe for _, recipe in finished]
        yield (
            say(" ".join([done, *result.notes])),
            gr.Gallery(value=paths, selected_index=0),
            recipes,
            download,
            first_recipe,
        )


def choose(recipes: list[str], event: gr.SelectData) -> tuple[Any, Any]:
    """The picture that was clicked becomes the one to download."""
    value = event.value if isinstance(event.value, dict) else {}
    image = value.get("image")
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(event.index, int) or not 0 <= event.index < len(recipes) or not isinstance(path, str):
        return gr.skip(), gr.skip()
    return gr.DownloadButton(value=path, interactive=True), recipes[event.index]


def progress(update: Update) -> str:
    """A bar, and where the work stands."""
    doing = {"encode": "Reading the prompt", "denoise": "Drawing", "decode": "Developing the picture"}[update.stage]
    left = f" · about {update.seconds_left:.0f} s left" if update.seconds_left is not None else ""
    bar = f'<progress max="{update.total}" value="{update.step}" aria-label="progress"></progress>'
    return f"{bar}<div>{doing}: step {update.step} of {update.total}{left}</div>"


def say(text: str, *, wrong: bool = False) -> str:
    """A line for the status, with nothing in it that could be markup."""
    return f'<div role="status"{" class=wrong" if wrong else ""}>{html.escape(text)}</div>'


def _enlarge(preview: Image.Image) -> Image.Image:
    scale = PREVIEW_SIDE / max(preview.size)
    size = (round(preview.width * scale), round(preview.height * scale))
    return over_white(preview).resize(size, Image.Resampling.BICUBIC)
