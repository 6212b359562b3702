"""When calls may go out: Telegram's limits hold, small answers pass, and no chat holds up another."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from telegram.error import RetryAfter

from stablediff.telegram.pacing import Bucket, Lane, Pacer

GROUP = -1001


class World:
    """A pacer whose time is ours, and the calls that it let go: (second, chat, what)."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pacer = Pacer(clock=lambda: self.now)
        self.gone: list[tuple[float, int, str]] = []
        self.tasks: list[asyncio.Task[object]] = []

    def ask(self, chat: int, what: str, lane: Lane, answer: Callable[[], Awaitable[object]] | None = None) -> None:
        async def call() -> object:
            self.gone.append((self.now, chat, what))
            return await answer() if answer else None

        data = {"chat_id": chat}
        work = self.pacer.process_request(call, (), {}, "sendMessage", data, lane)
        self.tasks.append(asyncio.ensure_future(work))

    async def pass_time(self, seconds: float) -> None:
        """As the pump does, but without waiting."""
        end = self.now + seconds
        while True:
            await _let_run()
            pause = self.pacer.release()
            await _let_run()
            if pause is None or self.now + pause > end:
                break
            self.now += pause + 1e-6 if pause else 0.0
        self.now = end

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _let_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(scene: Callable[[World], Awaitable[None]]) -> None:
    async def play() -> None:
        world = World()
        try:
            await scene(world)
        finally:
            await world.close()

    with ThreadPoolExecutor(1) as pool:  # Playwright leaves a running event loop in this thread
        pool.submit(asyncio.run, play()).result()


def test_a_small_answer_passes_a_hundred_and_fifty_that_wait() -> None:
    async def scene(world: World) -> None:
        for wish in range(5):
            for user in range(1, 31):
                world.ask(user, f"place {wish}", Lane.PLACE)
        await world.pass_time(0.5)
        asked = world.now
        world.ask(99, "help", Lane.ANSWER)
        await world.pass_time(0.1)
        answered = next(moment for moment, chat, _ in world.gone if chat == 99)
        assert answered - asked < 0.05
        await world.pass_time(10)
        assert len(world.gone) == 151
        in_the_first_second = sum(moment <= 1 for moment, _, _ in world.gone)
        assert 30 <= in_the_first_second <= 61  # a bucket of 30 that fills with 30 a second
        firsts = [what for _, _, what in world.gone if what != "help"][:30]
        assert firsts == ["place 0"] * 30  # every chat has its turn before any has its second

    run(scene)


def test_answers_go_before_pictures_and_pictures_before_nothing() -> None:
    async def scene(world: World) -> None:
        for user in range(100, 140):  # the bucket is empty now
            world.ask(user, "place", Lane.PLACE)
        await world.pass_time(0)
        for user in range(1, 4):
            world.ask(user, "picture", Lane.DELIVERY)
        world.ask(5, "place", Lane.PLACE)
        world.ask(6, "answer", Lane.ANSWER)
        await world.pass_time(5)
        order = [what for _, chat, what in world.gone if chat < 100]
        assert order == ["answer", "place", "picture", "picture", "picture"]

    run(scene)


def test_a_group_has_twenty_and_then_one_in_three_seconds_and_holds_up_nobody() -> None:
    async def scene(world: World) -> None:
        for _ in range(25):
            world.ask(GROUP, "group", Lane.DELIVERY)
        world.ask(7, "private", Lane.DELIVERY)
        await world.pass_time(1)
        assert sum(what == "group" for _, _, what in world.gone) == 20
        assert [what for _, _, what in world.gone if what == "private"]
        await world.pass_time(14.5)
        moments = [moment for moment, _, what in world.gone if what == "group"]
        assert len(moments) == 25
        assert moments[20:] == pytest.approx([3, 6, 9, 12, 15], abs=0.1)

    run(scene)


def test_progress_that_would_have_to_wait_is_not_sent_at_all() -> None:
    async def scene(world: World) -> None:
        for _ in range(30):
            world.ask(GROUP, "progress", Lane.PROGRESS)
        await world.pass_time(0)
        assert len(world.gone) <= 11  # the other half of the bucket is for what matters
        refused = [task.exception() for task in world.tasks if task.done() and task.exception()]
        assert len(refused) == 30 - len(world.gone)
        assert all(isinstance(error, RetryAfter) for error in refused)
        world.ask(GROUP, "picture", Lane.DELIVERY)
        await world.pass_time(0)
        assert world.gone[-1][2] == "picture"

    run(scene)


def test_a_chat_that_telegram_refuses_rests_and_the_others_go_on() -> None:
    async def flood() -> object:
        raise RetryAfter(30)

    async def scene(world: World) -> None:
        world.ask(1, "refused", Lane.ANSWER, flood)
        await world.pass_time(0)
        world.ask(1, "later", Lane.ANSWER)
        world.ask(2, "at once", Lane.ANSWER)
        await world.pass_time(29)
        assert [what for _, _, what in world.gone] == ["refused", "at once"]
        await world.pass_time(2)
        assert world.gone[-1][2] == "later"

    run(scene)


def test_who_left_the_line_costs_nothing() -> None:
    async def scene(world: World) -> None:
        for _ in range(20):
            world.ask(GROUP, "first", Lane.DELIVERY)
        await world.pass_time(0)
        world.ask(GROUP, "gone", Lane.DELIVERY)
        world.ask(GROUP, "stays", Lane.DELIVERY)
        await world.pass_time(0)
        world.tasks[-2].cancel()
        await world.pass_time(3.1)
        assert [what for _, _, what in world.gone[20:]] == ["stays"]

    run(scene)


def test_who_leaves_when_it_is_let_go_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: World) -> None:
        pacer = world.pacer
        monkeypatch.setattr(pacer, "PATIENCE", 0.01)
        for _ in range(20):
            world.ask(GROUP, "first", Lane.DELIVERY)
        await world.pass_time(0)
        flying = pacer._flying
        world.ask(GROUP, "late", Lane.PLACE)
        await _let_run()
        (_, turn), *_ = pacer._waiting[Lane.PLACE][GROUP]
        time.sleep(0.02)  # so that its patience ends in the very round in which it may go
        world.now = 1000.0
        pacer.release()
        assert turn.done()
        await asyncio.sleep(0.02)
        await _let_run()
        assert pacer._flying == flying

    run(scene)


def test_calls_that_hang_leave_room_for_answers() -> None:
    async def hang() -> object:
        return await asyncio.Event().wait()

    async def scene(world: World) -> None:
        for chat in range(1, 26):
            world.ask(chat, "place", Lane.PLACE, hang)
        await world.pass_time(5)
        assert len(world.gone) == Pacer.AT_ONCE
        world.ask(99, "answer", Lane.ANSWER)
        world.ask(98, "progress", Lane.PROGRESS)
        await world.pass_time(0)
        assert world.gone[-1][2] == "answer"
        for task in world.tasks[:20]:  # some of them in the moment when they are let go
            task.cancel()
        await world.pass_time(5)
        assert len(world.gone) == 1 + 25 - 4
        for task in world.tasks:
            task.cancel()
        await world.pass_time(1)
        assert world.pacer._flying == 0

    run(scene)


def test_an_album_costs_as_many_as_it_has_pictures() -> None:
    async def scene(world: World) -> None:
        async def call() -> None:
            world.gone.append((world.now, GROUP, "album"))

        for _ in range(4):
            data = {"chat_id": GROUP, "media": [None] * 10}
            work = world.pacer.process_request(call, (), {}, "sendMediaGroup", data, Lane.DELIVERY)
            world.tasks.append(asyncio.ensure_future(work))
        await world.pass_time(1)
        assert len(world.gone) == 2
        await world.pass_time(59)
        assert len(world.gone) == 4

    run(scene)


def test_a_bucket_fills_to_its_size_and_pays_its_debt() -> None:
    bucket = Bucket(10, 2.0, now=0)
    bucket.take(14, now=0)
    assert bucket.level(1) == -2
    assert bucket.wait(1, now=1) == pytest.approx(1.5)
    assert bucket.level(100) == 10
