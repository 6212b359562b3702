"""The line to Telegram. The log says once that nobody answers there, and once that somebody does again."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from telegram.error import NetworkError
from telegram.request import HTTPXRequest

log = logging.getLogger("stablediff.telegram")
_FAILURES = 2  # in a row: one alone is a hiccup


class Reach:
    """Whether Telegram is there, as far as the last calls tell."""

    def __init__(self, api: str) -> None:
        self._host = urlsplit(api).netloc.rpartition("@")[2]
        self._failures = 0
        self._gone_since: float | None = None

    def failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures >= _FAILURES and self._gone_since is None:
            self._gone_since = time.monotonic()
            log.warning(
                "Telegram (%s) cannot be reached (%s): the bot goes on trying, and keeps what waits", self._host, reason
            )

    def answered(self) -> None:
        self._failures = 0
        if self._gone_since is not None:
            log.warning("Telegram (%s) answers again, after %.0f s", self._host, time.monotonic() - self._gone_since)
            self._gone_since = None


class Line(HTTPXRequest):
    """The library's requests, watched. `before` is awaited ahead of each."""

    def __init__(self, reach: Reach, before: Callable[[], Awaitable[None]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._reach, self._before = reach, before

    async def do_request(self, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        if self._before is not None:
            await self._before()
        try:
            status, answer = await super().do_request(*args, **kwargs)
        except NetworkError as error:
            if not isinstance(error.__cause__, httpx.PoolTimeout):  # which is our own fault
                self._reach.failed(error.message)
            raise
        if status >= 500:
            self._reach.failed(f"status {status}")
        else:
            self._reach.answered()
        return status, answer
