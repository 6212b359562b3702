"""Where a picture is drawn: here, or in a process that has a GPU for as long as it draws.

On a Hugging Face Space with ZeroGPU the package `spaces` lends GPUs: it starts a copy of this process that has one, and
what goes there and comes back is pickled. The copy has the model already, which must be loaded before the page is
served. Everywhere else, `generate` here is `stablediff.generate.generate`.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from stablediff.errors import StableDiffError
from stablediff.generate import generate as generate_here
from stablediff.insight.recorder import Record, Recorder
from stablediff.observer import Observer
from stablediff.pace.speed import Speed
from stablediff.pipeline import Pipeline
from stablediff.request import Request, ResolvedRequest
from stablediff.result import Result, Update

_FIRST = 60.0  # seconds that are asked for before anything was measured
_SPARE, _LEAST, _MOST = 2.0, 15.0, 120.0  # how much more than was measured; seconds


def is_lent(environment: Any = os.environ) -> bool:
    """Whether this is a Space with ZeroGPU."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


class Loan:
    """Draws with one pipeline on a GPU that `borrow` (the decorator `spaces.GPU`) lends."""

    def __init__(self, borrow: Callable[..., Any]) -> None:
        self.pipeline: Pipeline | None = None
        self.pace: float | None = None  # seconds for a pixel and a step
        self._draw = borrow(duration=self.duration)(self._draw_there)

    def generate(
        self,
        pipeline: Pipeline,
        request: Request,
        should_stop: Callable[[], bool] = lambda: False,
        observer: Observer | None = None,
        _speed: Speed | None = None,  # is of this machine, which does not draw
    ) -> Iterator[Update | Result]:
        """As `stablediff.generate.generate`; a run that is stopped keeps the pictures that were finished."""
        self.pipeline = pipeline
        resolved = request.resolve(pipeline.config.defaults, pipeline.config.schedule.spacing)
        finished: tuple[Any, ...] = ()
        there = self._draw(resolved, observer.guidance_scale if isinstance(observer, Recorder) else None)
        for event in _told(there):
            if isinstance(event, StableDiffError):
                raise event
            if isinstance(event, Record) and isinstance(observer, Recorder):
                observer.record = event
                continue
            if isinstance(event, Result):
                self.pace = event.seconds["total"] / _work(resolved)
            elif isinstance(event, Update):
                finished = event.images
            yield event
            if should_stop() and isinstance(event, Update):
                there.close()
                seeds = tuple(resolved.seed + number for number in range(len(finished)))
                loras, precision = pipeline.loras, pipeline.compute.name
                yield Result(finished, seeds, resolved, pipeline.name, {}, (), True, loras, precision)
                return

    def _draw_there(self, request: ResolvedRequest, watched: float | None) -> Iterator[Any]:
        """Runs in the process that has the GPU. `watched`: the guidance scale, for a run that is looked into."""
        assert self.pipeline is not None
        recorder = None if watched is None else Recorder(self.pipeline, watched)
        try:
            for event in generate_here(self.pipeline, request, observer=recorder):
                if isinstance(event, Result) and recorder is not None:
                    yield recorder.record
                yield event
        except StableDiffError as error:  # of an exception only the name would come back
            yield error

    def duration(self, request: ResolvedRequest, _watched: float | None) -> int:
        """Seconds to ask for: who asks for less is served sooner."""
        if self.pace is None:
            return round(_FIRST)
        return round(min(max(self.pace * _work(request) * _SPARE, _LEAST), _MOST))


def _told(events: Iterator[Any]) -> Iterator[Any]:
    """The same, with what the lender says (a quota that is used up, most of all) as an error of ours."""
    try:
        yield from events
    except gr.Error as error:
        raise StableDiffError(str(error.message)) from error


def _work(request: ResolvedRequest) -> int:
    return request.width * request.height * request.num_steps * request.num_images


def _choose() -> Callable[..., Iterator[Update | Result]]:
    if not is_lent():
        return generate_here
    import spaces  # must come before anything asks for CUDA, and be told of the function before the page is served

    return Loan(spaces.GPU).generate


generate = _choose()
