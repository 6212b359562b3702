"""Finished pictures as PNG files that carry their recipes, and the panel that shows them."""

import io
import re
import tempfile
from collections.abc import AsyncIterator, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from stablediff.images import over_white, png_bytes
from stablediff.result import Result
from stablediff.web import progress
from stablediff.web.desk import Desk, Job
from stablediff.web.events import QUIET
from stablediff.web.voice import Voice

PREVIEW_SIDE = 384  # pixels of the longer side
TICK = 3.0  # seconds between two questions after a job


@dataclass(frozen=True)
class Drawn:
    """A finished picture."""

    png: bytes
    recipe: str
    seed: int

    @property
    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.png))

    @property
    def file_name(self) -> str:
        return f"stablediff-{self.seed}.png"


def drawn(results: Iterable[Result], without: Container[int] = ()) -> list[Drawn]:
    """The finished pictures, but for those of these seeds."""
    pictures = []
    for result in results:
        for index, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
            if seed not in without:
                recipe = result.parameters(index)
                pictures.append(Drawn(png_bytes(image, recipe), recipe, seed))
    return pictures


@dataclass
class Stage:
    """Where a job is shown: its line, its pictures, and what can be done with the one that is chosen."""

    status: gr.HTML
    gallery: gr.Gallery
    shelf: gr.State  # list[Drawn], those in the gallery
    chosen: gr.State  # the index of the one that is looked at
    ticket: gr.Textbox  # the key of the job
    download: gr.DownloadButton
    recipe: gr.Textbox
    run: gr.Button
    stop: gr.Button
    clock: gr.Timer  # ticks while the page takes the job for a running one

    @property
    def outputs(self) -> list[Any]:
        picture = [self.gallery, self.shelf, self.chosen, self.download, self.recipe]
        return [self.status, *picture, self.ticket, self.run, self.stop, self.clock]

    def idle(self) -> dict[Any, Any]:
        return {
            self.run: gr.update(interactive=True),
            self.stop: gr.update(interactive=False),
            self.clock: gr.Timer(active=False),
        }

    def busy(self) -> dict[Any, Any]:
        return {
            self.run: gr.update(interactive=False),
            self.stop: gr.update(interactive=True),
            self.clock: gr.Timer(active=True),
        }

    async def follow(
        self, desk: Desk, job: Job, language: str, before: Sequence[Drawn] = ()
    ) -> AsyncIterator[dict[Any, Any]]:
        """What to show while a job runs, and its pictures when it is done; those from before if it has none."""
        job.language = language
        # Every update says all of this: Gradio's client rewrites an update in place when the next one comes before it
        # was shown, so that what only the first one says may be lost.
        nothing_yet = {self.shelf: [], self.recipe: "", self.download: gr.DownloadButton(interactive=False)}
        working = {self.ticket: job.key, **nothing_yet, **self.busy()}
        yield working
        shown: tuple[Any, ...] = ()
        async for _ in desk.watch(job):
            if job.state == "done":
                break
            answer: dict[Any, Any] = {**working, self.status: progress.progress(desk, job, job.language)}
            finished, previews = job.glimpse
            if previews and previews is not shown:
                shown = previews
                pictures = [*finished, *(_enlarge(image) for image in previews)]
                answer[self.gallery] = gr.Gallery(value=pictures, selected_index=len(finished))
            yield answer
        with self.ending(job, before) as answer:
            yield answer

    @contextmanager
    def ending(self, job: Job, before: Sequence[Drawn] = ()) -> Iterator[dict[Any, Any]]:
        """What to show of a job that is done. Its files are there as long as the block runs."""
        pictures = drawn(job.results, without=job.gone) or list(before)
        line = {self.status: progress.closing(job), self.ticket: job.key, **self.idle()}
        with written(pictures) as paths:
            yield {**line, **self.show(pictures, paths)}

    def show(self, pictures: list[Drawn], paths: list[str], index: int = 0) -> dict[Any, Any]:
        """Fills the panel. Gradio copies the files before their folder goes away."""
        if not pictures:
            nothing = gr.DownloadButton(value=None, interactive=False)
            return {self.gallery: [], self.shelf: [], self.chosen: 0, self.download: nothing, self.recipe: ""}
        return {
            self.gallery: gr.Gallery(value=paths, selected_index=index),
            self.shelf: pictures,
            self.chosen: index,
            self.download: gr.DownloadButton(value=paths[index], interactive=True),
            self.recipe: pictures[index].recipe,
        }


@contextmanager
def files(contents: Sequence[tuple[str, bytes]]) -> Iterator[list[str]]:
    """Files with these names in a folder of their own, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="stablediff-") as folder:
        paths = []
        for index, (name, data) in enumerate(contents):
            inside = Path(folder) / str(index)  # two may have one name
            inside.mkdir()
            (inside / name).write_bytes(data)
            paths.append(str(inside / name))
        yield paths


def written(pictures: Sequence[Drawn]) -> AbstractContextManager[list[str]]:
    return files([(picture.file_name, picture.png) for picture in pictures])


def make_stage(voice: Voice, prefix: str, run: gr.Button, stop: gr.Button, status: gr.HTML, height: int = 520) -> Stage:
    """The panel with the pictures; the rest of the stage stands elsewhere."""
    gallery = voice(
        gr.Gallery,
        {"label": "pictures"},
        columns=2,
        height=height,
        object_fit="contain",
        preview=True,
        interactive=False,
        elem_id=f"{prefix}-gallery",
        elem_classes="gallery",
        buttons=["download", "fullscreen"],
    )
    download = voice(gr.DownloadButton, {"label": "download"}, interactive=False, elem_id=f"{prefix}-download")
    recipe = voice(
        gr.Textbox, {"label": "recipe"}, lines=3, interactive=False, buttons=["copy"], elem_id=f"{prefix}-recipe"
    )
    ticket = gr.Textbox(visible="hidden", elem_id=f"{prefix}-ticket", show_label=False)
    clock = gr.Timer(TICK, active=False)
    stage = Stage(status, gallery, gr.State([]), gr.State(0), ticket, download, recipe, run, stop, clock)
    gallery.select(
        _choose,
        stage.shelf,
        [stage.chosen, download, recipe],
        **QUIET,
    )
    return stage


def _choose(shelf: list[Drawn], event: gr.SelectData) -> Iterator[tuple[Any, Any, Any]]:
    """The picture that was clicked becomes the one to download. Only its place is taken from the browser."""
    if not isinstance(event.index, int) or not 0 <= event.index < len(shelf):
        yield gr.skip(), gr.skip(), gr.skip()
        return
    with written([shelf[event.index]]) as paths:
        yield event.index, gr.DownloadButton(value=paths[0], interactive=True), shelf[event.index].recipe


def seed_of(recipe: str) -> str:
    match = re.search(r"\bSeed: (\d+)", recipe.rpartition("\n")[2])
    return match[1] if match else ""


def _enlarge(preview: Image.Image) -> Image.Image:
    scale = PREVIEW_SIDE / max(preview.size)
    size = (round(preview.width * scale), round(preview.height * scale))
    return over_white(preview).resize(size, Image.Resampling.BICUBIC)
