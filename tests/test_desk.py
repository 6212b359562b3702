"""The queue: turns, limits, and a stop that stops."""

import asyncio
import math
import random
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from machine import machine
from PIL import Image
from toy import count_calls, toy_pipeline

from stablediff import Pipeline, Request, RequestError, load
from stablediff.pace.presets import Preset
from stablediff.request import Limits
from stablediff.result import Update
from stablediff.web import desk as module
from stablediff.web.desk import Desk, Job, Work
from stablediff.web.models import Models, resolve
from stablediff.web.settings import TIMED, choose

T = TypeVar("T")


def work(steps: int = 2, **wishes: object) -> Work:
    return Work("toy", (Request(prompt="cat", num_steps=steps, seed=1, **wishes),))  # type: ignore[arg-type]


def finish(desk: Desk, job: Job) -> Job:
    async def watch() -> None:
        async for _ in desk.watch(job):
            pass

    apart(asyncio.wait_for(watch(), timeout=120))
    return job


def apart(task: Coroutine[Any, Any, T]) -> T:
    """In a thread of its own, because Playwright leaves a running event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, task).result()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Desk, threading.Event]]:
    """A desk whose worker does not begin before it is told to."""
    go = threading.Event()
    desk = Desk(
        Models(toy_pipeline(), [], lambda _name, **_options: toy_pipeline()),
        Limits(max_waiting=4, max_jobs=2, max_crowd_jobs=3),
    )
    draw = desk._draw
    monkeypatch.setattr(desk, "_draw", lambda job: (go.wait(60), draw(job)))
    yield desk, go
    go.set()


def test_jobs_wait_for_their_turn_and_nobody_takes_all_of_it(held: tuple[Desk, threading.Event]) -> None:
    desk, go = held
    first, second = desk.submit("ann", work()), desk.submit("ann", work())
    with pytest.raises(RequestError, match="you have 2 jobs"):
        desk.submit("ann", work())
    third = desk.submit("bob", work())
    assert desk.place(third) == desk.place(second) + 1
    desk.submit("cid", work())

    def crowd() -> None:
        for name in ("dan", "eve", "fay"):
            desk.submit(name, work())

    with pytest.raises(RequestError, match="queue is full"):
        crowd()
    third.stop()
    go.set()
    assert len(finish(desk, first).results) == len(finish(desk, second).results) == 1
    assert finish(desk, third).results == []
    assert desk.place(first) == 0
    assert desk.find(first.key) is first
    assert desk.find("guessed") is None


@pytest.mark.parametrize("stops", [8, pytest.param(50, marks=pytest.mark.soak)])
def test_stop_ends_the_work_within_one_step_and_the_next_job_runs(stops: int) -> None:
    pipeline = toy_pipeline()
    desk = Desk(Models(pipeline, [], lambda _name, **_options: pipeline), Limits())
    finish(desk, desk.submit("ann", work()))  # measures, too
    chance = random.Random(stops)
    for _ in range(stops):
        steps = chance.randint(1, 60)
        with count_calls(pipeline.unet) as calls:
            job = desk.submit("ann", work(1000))

            async def stop(job: Job = job, steps: int = steps) -> int:
                async for _ in desk.watch(job):
                    if job.update is not None and job.update.step >= steps and not job.stopped:
                        job.stop()
                        return len(calls)
                return -1

            at_stop = apart(stop())
            finish(desk, job)
            # Calls that are made before the flag is looked at again: the one under way, and what a slow reader missed.
            assert 0 < at_stop <= len(calls) <= at_stop + 2
            assert job.results == [] or not job.results[0].images
        assert len(finish(desk, desk.submit("ann", work())).results) == 1


def test_a_preview_is_there_until_the_next_one_comes() -> None:
    """Who watches looks seldom: mostly at an update that has none."""
    first, second, finished = (Image.new("RGB", (side, side)) for side in (1, 2, 3))
    job = Job("key", "ann", "", "", work())
    job.tell("drawing", Update("denoise", 1, 9, previews=(first,)))
    job.tell("drawing", Update("denoise", 2, 9))
    assert job.glimpse == ((), (first,))
    job.tell("drawing", Update("denoise", 5, 9, previews=(second,), images=(finished,)))
    job.tell("drawing", Update("decode", 9, 9, images=(finished, finished)))
    assert job.glimpse == ((finished,), (second,))


def test_names_can_be_made_up_but_not_addresses(held: tuple[Desk, threading.Event]) -> None:
    desk, _ = held
    for name in ("ann", "bob", "cid"):
        desk.submit(name, work(), crowd="10.0.0.1")
    with pytest.raises(RequestError, match="your network has 3 jobs"):
        desk.submit("dan", work(), crowd="10.0.0.1")
    desk.submit("dan", work(), crowd="10.0.0.2")


def test_jobs_whose_visitors_have_gone_leave_the_queue(held: tuple[Desk, threading.Event]) -> None:
    desk, go = held
    first = desk.submit("ann", work())
    gone, here = desk.submit("bob", work()), desk.submit("bob", work())
    while desk.place(first):  # until the worker has taken it
        threading.Event().wait(0.01)
    assert (desk.place(gone), desk.place(here)) == (1, 2)
    gone.watched -= 2 * module._ALONE
    assert desk.place(here) == 1
    assert gone.state == "done"
    desk.submit("bob", work())  # there is room again
    go.set()
    assert len(finish(desk, here).results) == 1
    assert gone.results == []


def test_watching_means_asking_for_more(monkeypatch: pytest.MonkeyPatch, held: tuple[Desk, threading.Event]) -> None:
    """What is not asked again, as Gradio does when a visitor has gone, does not keep a job alive."""
    monkeypatch.setattr(module, "_BREATH", 0.0)
    desk, _ = held
    desk.submit("ann", work())
    job = desk.submit("ann", work())

    async def look() -> tuple[float, float]:
        watching = desk.watch(job)
        await anext(watching)
        before = job.watched
        await asyncio.sleep(0.2)
        left = job.watched
        await anext(watching)  # though nothing has changed
        assert before == left
        return left, job.watched

    left, again = apart(look())
    assert again > left


def test_every_ended_job_is_kept_before_anybody_is_told() -> None:
    pipeline, kept = toy_pipeline(), []
    models = Models(pipeline, [], lambda _name, **_options: pipeline)
    desk = Desk(models, Limits(), lambda job: kept.append((job.owner, job.state, len(job.results))))
    finish(desk, desk.submit("ann", work(), owner="ann's browser"))
    assert kept == [("ann's browser", "drawing", 1)]


def test_loading_is_told_in_shares(toy_folder: Path) -> None:
    shares: list[float] = []
    load(toy_folder, device="cpu", progress=lambda what, share: shares.append(share) if what == "loading" else None)
    assert len(shares) > 50
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_finished_jobs_are_kept_for_a_while_and_then_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = toy_pipeline()
    desk = Desk(Models(pipeline, [], lambda _name, **_options: pipeline), Limits())
    monkeypatch.setattr(module, "_KEPT", 1)

    def draw() -> Job:
        job = desk.submit("ann", work(1))
        finish(desk, job)
        return job

    jobs = [draw() for _ in range(4)]
    assert all(desk.find(job.key) for job in jobs)
    monkeypatch.setattr(module, "_MOST_PIXELS", 2 * 64 * 64)
    jobs.append(draw())  # of the four that are there then, two have room
    assert [desk.find(job.key) is not None for job in jobs] == [False, False, True, True, True]
    monkeypatch.setattr(module, "_KEPT_FOR", 0.0)
    jobs.append(draw())
    assert [desk.find(job.key) is not None for job in jobs[-3:]] == [False, True, True]


def test_a_job_that_nobody_watches_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline: Pipeline = toy_pipeline()
    desk = Desk(Models(pipeline, [], lambda _name, **_options: pipeline), Limits())
    monkeypatch.setattr(module, "_ALONE", 0.0)
    job = desk.submit("ann", work(1000))
    job.watched -= 1
    while job.state != "done":
        threading.Event().wait(0.01)
    assert not [image for result in job.results for image in result.images]


def test_quality_is_what_the_core_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stablediff.pace.presets.has_matrix_unit", lambda: False)
    pipeline = toy_pipeline()
    models = Models(pipeline, [], lambda _name, **_options: pipeline)
    request = Request(num_steps=1, sampler="euler")
    assert choose("draft", 15, request, models) == Preset(8, "dpmpp_2m", "align_your_steps", (0.5, math.inf))
    assert choose("balanced", 15, request, models) == Preset(3)
    assert choose(TIMED, 2, request, models) is None, "nothing was measured yet"
    with machine(pipeline, monkeypatch, cell=1e-3):
        models.get(models.name, lambda _state, _share: None)
    for seconds, steps in ((0.1, 0), (2, 15), (60, 40)):  # 0.128 s a guided step, half without, as much to decode
        chosen = choose(TIMED, seconds, request, models)
        assert chosen is not None
        assert chosen.num_steps == steps


def test_the_estimate_grows_with_the_work() -> None:
    pipeline = toy_pipeline()
    models = Models(pipeline, [], lambda _name, **_options: pipeline)
    small, large = (resolve(Request(num_steps=5, width=side, height=side), pipeline) for side in (64, 128))
    assert models.seconds(small) is None  # nothing was measured yet
    models.get(models.name, lambda _state, _share: None)
    seconds = [models.seconds(request) for request in (small, large)]
    assert seconds[0] is not None
    assert seconds[1] > seconds[0]
    assert models.memory(large) > models.memory(small) > 0.4e9
    assert models.seconds(small, large) == pytest.approx(sum(seconds))
    assert models.speed is not None
    warm_up = models.speed.warm_up()
    pipeline.drawn_at, models.speed.times["first step"] = None, warm_up + 5
    assert models.seconds(small, small) == pytest.approx(2 * seconds[0] + warm_up + 5), "only the first one warms up"
    assert models.seconds(small, large) == pytest.approx(sum(seconds) + warm_up + 10), "another size is laid out anew"
    assert models.seconds(small, large, small) == pytest.approx(2 * seconds[0] + seconds[1] + 2 * warm_up + 15)
