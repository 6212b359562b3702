"""A Space that lends GPUs, played by a decorator that pickles all that goes there and comes back."""

import contextlib
import pickle
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from test_desk import finish
from toy import toy_pipeline

from stablediff import Request, RequestError, Result, StableDiffError, Update, generate
from stablediff.errors import NumericalError
from stablediff.insight.recorder import Recorder
from stablediff.pace.plan import Call
from stablediff.request import Limits
from stablediff.web import lent
from stablediff.web.desk import Desk, Work
from stablediff.web.models import Models, measure


class Space:
    """The package `spaces`. `asked`: the seconds of every loan; `closed`: how many were given back early."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.closed = 0

    def GPU(self, *, duration: Callable[..., float]) -> Any:  # noqa: N802 (its name)
        def borrow(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def there(*arguments: Any) -> Iterator[Any]:
                self.asked.append(duration(*arguments))
                with contextlib.closing(task(*pickle.loads(pickle.dumps(arguments)))) as events:  # type: ignore[type-var]
                    try:
                        for event in events:
                            yield pickle.loads(pickle.dumps(event))
                    except GeneratorExit:
                        self.closed += 1
                        raise

            return there

        return borrow


@pytest.fixture
def space() -> Space:
    return Space()


@pytest.fixture
def loan(space: Space) -> lent.Loan:
    return lent.Loan(space.GPU)


def test_a_lent_gpu_draws_the_same_pictures_and_is_asked_for_as_long_as_it_takes(space: Space, loan: lent.Loan) -> None:
    pipeline = toy_pipeline()
    request = Request(prompt="a red cat", num_steps=3, seed=7, num_images=2, init_image=Image.new("RGB", (64, 64)))
    *updates, result = loan.generate(pipeline, request)
    *_, expected = generate(pipeline, request)
    assert isinstance(result, Result)
    assert isinstance(expected, Result)
    assert [image.tobytes() for image in result.images] == [image.tobytes() for image in expected.images]
    assert all(isinstance(update, Update) for update in updates)
    list(loan.generate(pipeline, request))
    assert space.asked == [60, 15]
    assert space.closed == 0


def test_what_was_seen_there_is_known_here(loan: lent.Loan) -> None:
    pipeline = toy_pipeline()
    there, here = Recorder(pipeline, 7.5), Recorder(pipeline, 7.5)
    request = Request(prompt="cat", num_steps=4, seed=1)
    *_, result = loan.generate(pipeline, request, observer=there)
    list(generate(pipeline, request, observer=here))
    assert isinstance(result, Result)
    assert there.record.sigmas == here.record.sigmas
    assert [moment.eps for moment in there.record.moments] == [moment.eps for moment in here.record.moments]
    assert there.record.attention.total is not None
    assert there.record.attention.total.equal(here.record.attention.total)  # type: ignore[arg-type]


def test_stop_gives_the_gpu_back_and_keeps_what_is_finished(space: Space, loan: lent.Loan) -> None:
    pipeline = toy_pipeline()
    request = Request(prompt="cat", num_steps=4, seed=1, num_images=3, width=512, height=512)
    events: list[Update | Result] = []

    def one_is_finished() -> bool:
        return any(event.images for event in events)

    for event in loan.generate(pipeline, request, one_is_finished):
        events.append(event)
    result = events[-1]
    assert isinstance(result, Result)
    assert (result.stopped, len(result.images), result.seeds, space.closed) == (True, 1, (1,), 1)
    *_, whole = generate(pipeline, Request(prompt="cat", num_steps=4, seed=1, width=512, height=512))
    assert result.images[0].tobytes() == whole.images[0].tobytes()
    assert "Seed: 1," in result.parameters(0)


def test_what_goes_wrong_there_is_told_here(loan: lent.Loan, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Iterator[Any]:
        yield Update("encode", 0, 1)
        raise NumericalError("the picture is not finite")

    monkeypatch.setattr(lent, "generate_here", fail)
    with pytest.raises(StableDiffError, match="not finite"):
        list(loan.generate(toy_pipeline(), Request(prompt="cat")))
    with pytest.raises(RequestError):
        list(loan.generate(toy_pipeline(), Request(num_steps=0)))


def test_a_quota_that_is_used_up_is_told() -> None:
    def lend(*, duration: Callable[..., float]) -> Any:  # noqa: ARG001 (as the package names it)
        def refuse(*_: Any) -> Iterator[Any]:
            raise gr.Error("You have exceeded your GPU quota")
            yield

        return lambda _task: refuse

    with pytest.raises(StableDiffError, match="exceeded your GPU quota"):
        list(lent.Loan(lend).generate(toy_pipeline(), Request(prompt="cat")))


def test_the_page_draws_there_where_a_space_lends_gpus(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=space.GPU))
    monkeypatch.setattr("stablediff.web.desk.generate", lent._choose())
    pipeline = toy_pipeline()
    assert measure(pipeline).unet((8, 8), Call(2)) is None  # no GPU is borrowed for this
    desk = Desk(Models(pipeline, (), lambda _name, **_options: pipeline), Limits())
    recorder = Recorder(pipeline, 7.5)
    request = Request(prompt="cat", num_steps=3, seed=1)
    job = desk.submit("ann", Work(pipeline.name, (request,), (recorder,)))
    finish(desk, job)
    assert job.error is None
    assert len(job.results) == 1
    assert len(recorder.record.moments) == 3
    assert space.asked == [60]
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert lent._choose() is generate
