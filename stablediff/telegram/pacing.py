"""When a call may go out: Telegram takes so many messages a second, and the small answers go before the large.

Telegram's limits: https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this
"""

import asyncio
import contextlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any

from telegram.error import RetryAfter
from telegram.ext import BaseRateLimiter

_FREE = {"sendChatAction"}  # no messages, although they name a chat
_FORGOTTEN = 1000  # chats: more of them are looked through for those that rest
Chat = int | str


class Lane(IntEnum):
    """The first that waits goes first; within a lane the chats take turns."""

    ANSWER = 0  # somebody looks at the screen
    PLACE = 1  # a wish's place in the queue
    DELIVERY = 2  # a picture
    PROGRESS = 3  # of no use later: goes at once, or not at all


class Bucket:
    """Fills with `rate` tokens a second up to `size`. A call takes what it costs, and may leave a debt."""

    def __init__(self, size: float, rate: float, now: float) -> None:
        self.size, self.rate = size, rate
        self._level, self._at = size, now

    def level(self, now: float) -> float:
        self._level = min(self.size, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def take(self, tokens: float, now: float) -> None:
        self._level = self.level(now) - tokens

    def wait(self, tokens: float, now: float) -> float:
        """Seconds until there are so many."""
        return max(0.0, (tokens - self.level(now)) / self.rate)

    def close(self, seconds: float, now: float) -> None:
        """Nothing for so long."""
        self._level = min(self.level(now), 1 - seconds * self.rate)


class Pacer(BaseRateLimiter[Lane]):
    """30 messages a second in all; a chat gets 20 at once and then one a second, a group one in 3 seconds."""

    OVERALL, CHAT, GROUP = (30, 30.0), (20, 1.0), (20, 1 / 3)  # (size, tokens a second)
    KEPT = 4  # tokens that only answers may take
    PATIENCE = 120.0  # seconds: whoever waits for an answer has gone by then
    LONG = 30.0  # seconds that a picture may wait for its chat here
    AT_ONCE = 16  # calls on their way, beside answers: a burst of them would keep this very process busy

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._overall = Bucket(*self.OVERALL, clock())
        self._chats: dict[Chat, Bucket] = {}
        self._waiting: dict[Lane, OrderedDict[Chat, deque[tuple[int, asyncio.Future[None]]]]]
        self._waiting = {lane: OrderedDict() for lane in Lane}
        self._news = asyncio.Event()
        self._flying = 0  # calls, answers not among them
        self._pump: asyncio.Task[None] | None = None

    async def initialize(self) -> None:
        if self._pump is None:  # the library does this more than once
            self._pump = asyncio.create_task(self._run())

    async def shutdown(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])

    async def process_request(
        self,
        callback: Callable[..., Coroutine[Any, Any, Any]],
        args: Any,
        kwargs: dict[str, Any],
        endpoint: str,
        data: dict[str, Any],
        rate_limit_args: Lane | None,
    ) -> Any:
        """Raises RetryAfter, without a call, for progress that would wait, and for what would wait too long."""
        chat, lane = data.get("chat_id"), rate_limit_args or Lane.ANSWER
        if chat is None or endpoint in _FREE:
            return await callback(*args, **kwargs)
        media = data.get("media")
        await self._turn(chat, lane, len(media) if isinstance(media, list | tuple) else 1)
        try:
            return await callback(*args, **kwargs)
        except RetryAfter as error:
            self._bucket(chat).close(seconds_of(error), self._clock())
            for _, turn in self._waiting[Lane.DELIVERY].pop(chat, ()):
                if not turn.done():
                    turn.set_exception(error)
            raise
        finally:
            self._land(lane)

    async def _turn(self, chat: Chat, lane: Lane, tokens: int) -> None:
        if lane is Lane.PROGRESS:
            now = self._clock()
            pause = self._pause(chat, lane, now)
            if pause > 0 or self._is_full(lane) or any(chat in chats for chats in self._waiting.values()):
                raise RetryAfter(math.ceil(pause) or 1)
            self._go(chat, lane, tokens, now)
            return
        if lane is Lane.DELIVERY:
            self._send_back_if_long(chat)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[lane].setdefault(chat, deque()).append((tokens, turn))
        self._news.set()
        try:
            async with asyncio.timeout(self.PATIENCE if lane in (Lane.ANSWER, Lane.PLACE) else None):
                await turn
        except TimeoutError:
            self._undo(turn, lane)
            raise RetryAfter(math.ceil(self._pause(chat, lane, self._clock())) or 1) from None
        except asyncio.CancelledError:
            self._undo(turn, lane)
            raise

    def _undo(self, turn: "asyncio.Future[None]", lane: Lane) -> None:
        """Of who leaves in the very moment in which it is let go."""
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self._land(lane)

    def _send_back_if_long(self, chat: Chat) -> None:
        """Raises RetryAfter if this chat is closed for so long that others had better be served meanwhile."""
        pause = self._bucket(chat).wait(1, self._clock())
        if pause > self.LONG:
            raise RetryAfter(math.ceil(pause))

    async def _run(self) -> None:
        while True:
            self._news.clear()
            pause = self.release()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)

    def release(self) -> float | None:
        """Lets go whatever may go now. -> seconds until something else may, None if nothing waits."""
        soonest: float | None = None
        now = self._clock()
        for lane, chats in self._waiting.items():
            for chat in list(chats):
                if self._is_full(lane):  # whatever comes back calls again
                    break
                while chat in chats and (pause := self._pause(chat, lane, now)) == 0:
                    tokens, turn = chats[chat].popleft()
                    if chats[chat]:
                        chats.move_to_end(chat)
                    else:
                        del chats[chat]
                    if not turn.done():  # else whoever waited has left
                        self._go(chat, lane, tokens, now)
                        turn.set_result(None)
                        break
                if chat in chats:
                    pause = self._pause(chat, lane, now)
                    soonest = pause if soonest is None else min(soonest, pause)
        return soonest

    def _pause(self, chat: Chat, lane: Lane, now: float) -> float:
        bucket = self._bucket(chat)
        ours = 1 if lane is Lane.ANSWER else 1 + self.KEPT
        theirs = bucket.size / 2 if lane is Lane.PROGRESS else 1
        return max(self._overall.wait(ours, now), bucket.wait(theirs, now))

    def _is_full(self, lane: Lane) -> bool:
        return lane is not Lane.ANSWER and self._flying >= self.AT_ONCE

    def _land(self, lane: Lane) -> None:
        self._flying -= lane is not Lane.ANSWER
        self._news.set()

    def _go(self, chat: Chat, lane: Lane, tokens: int, now: float) -> None:
        self._flying += lane is not Lane.ANSWER
        self._overall.take(tokens, now)
        self._bucket(chat).take(tokens, now)

    def _bucket(self, chat: Chat) -> Bucket:
        now = self._clock()
        if chat not in self._chats:
            if len(self._chats) > _FORGOTTEN:
                self._chats = {k: bucket for k, bucket in self._chats.items() if bucket.level(now) < bucket.size}
            is_group = isinstance(chat, str) or chat < 0
            self._chats[chat] = Bucket(*(self.GROUP if is_group else self.CHAT), now)
        return self._chats[chat]


def seconds_of(error: RetryAfter) -> float:
    wait = error.retry_after
    return wait if isinstance(wait, int | float) else wait.total_seconds()
