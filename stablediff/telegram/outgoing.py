"""When to try a call again. A call whose answer was lost may have worked: only harmless ones are repeated then."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
from telegram.error import BadRequest, NetworkError, RetryAfter

from stablediff.telegram.line import NotDoneError, ServerFailedError
from stablediff.telegram.pacing import seconds_of

log = logging.getLogger("stablediff.telegram")
T = TypeVar("T")
PATIENCE = 30.0  # seconds that a delivery may wait while it keeps others from theirs
_LONGEST_PAUSE = 30.0  # seconds
_NOT_DONE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, NotDoneError)


def surely_not_done(error: BaseException) -> bool:
    """Whether Telegram refused it, or never heard of it; False if only the answer may have been lost."""
    if isinstance(error, NetworkError) and not isinstance(error, BadRequest):
        return error.__cause__ is None or isinstance(error.__cause__, _NOT_DONE)
    return not isinstance(error, (TimeoutError, asyncio.CancelledError))


async def again(
    call: Callable[[], Awaitable[T]], *, harmless: bool, trusting: bool = False, patience: float = math.inf
) -> T:
    """Calls until it works, at most `patience` seconds long. Raises what cannot be helped by waiting.

    `harmless`: to be done twice. `trusting`: a server that says that it failed is believed.
    """
    pause, end = 0.5, time.monotonic() + patience
    while True:
        try:
            return await call()
        except RetryAfter as error:
            seconds = seconds_of(error)
            if time.monotonic() + seconds > end:
                raise
        except NetworkError as error:
            believed = trusting and isinstance(error.__cause__, ServerFailedError)
            if isinstance(error, BadRequest) or not (harmless or believed or surely_not_done(error)):
                raise
            if time.monotonic() + pause > end:
                raise
            seconds, pause = pause, min(2 * pause, _LONGEST_PAUSE)
        log.info("Telegram is asked again in %.1f s", seconds)
        await asyncio.sleep(seconds)


async def pause_after(error: Exception, times: int = 0) -> None:
    """As long as Telegram says, or a moment, which grows with the `times` that there was another before it."""
    moment = min(2.0**times, _LONGEST_PAUSE)
    await asyncio.sleep(seconds_of(error) if isinstance(error, RetryAfter) else moment)


async def edit(call: Callable[[], Awaitable[T]], patience: float = math.inf) -> T | None:
    """As `again`, for edits: one that changes nothing has worked before, and its answer was lost."""
    try:
        return await again(call, harmless=True, patience=patience)
    except BadRequest as error:
        if "not modified" in error.message:
            return None
        raise


def is_gone(error: BadRequest) -> bool:
    """Whether there is no such message to edit any more."""
    words = error.message.lower()
    return any(sign in words for sign in ("message to edit not found", "message can't be edited", "message_id_invalid"))
