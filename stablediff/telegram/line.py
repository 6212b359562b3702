"""The line to Telegram: answers are looked at before the library believes them, and silence is noticed.

Between the bot and Telegram stand proxies, and local servers with errors of their own. What is no answer of the Bot
API, or says that the server failed, becomes a NetworkError with a `__cause__`: nobody knows whether the call was done.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from telegram import Bot, Update
from telegram.error import NetworkError
from telegram.request import HTTPXRequest

log = logging.getLogger("stablediff.telegram")
_FAILURES = 2  # in a row: one alone is a hiccup
_UNKNOWN = 3  # times in a row that Telegram does not know the token any more
_PAUSES = (1, 3600)  # seconds that anybody may ask us to wait
_LONG = 20  # seconds of a pause that is worth a line
_UNAUTHORIZED, _NOT_FOUND, _BAD_REQUEST, _TOO_MANY = 401, 404, 400, 429


class LostAnswerError(Exception):
    """The call may have been done."""


class ServerFailedError(LostAnswerError):
    """The server says so itself: most likely it was not done."""


class NotDoneError(Exception):
    """The call was surely not done."""


class Reach:
    """Whether Telegram is there and knows us, as far as the last calls tell."""

    def __init__(self, api: str) -> None:
        self._host = urlsplit(api).netloc.rpartition("@")[2]
        self._failures = self._unknown = 0
        self._gone_since: float | None = None
        self.is_known = False
        self.revoked = asyncio.Event()  # the token, while the bot was running

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

    def knows_us(self) -> None:
        self.is_known, self._unknown = True, 0

    def is_unknown(self) -> None:
        self._unknown += 1
        if self._unknown >= _UNKNOWN:
            self.revoked.set()


class Line(HTTPXRequest):
    """The library's requests, watched. `before` is awaited ahead of each."""

    def __init__(self, reach: Reach, before: Callable[[], Awaitable[None]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._reach, self._before = reach, before

    async def do_request(self, url: str, method: str, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        if self._before is not None:
            await self._before()
        try:
            status, body = await super().do_request(url, method, *args, **kwargs)
            call = url.rpartition("/")[2]
            if method == "POST":  # else it is a file
                status, body = self._check(status, body, call)
                if call == "getUpdates" and status == _TOO_MANY:
                    status, body = await self._nothing_for(body)
            elif status >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise _lost(f"status {status}", ServerFailedError())
        except NetworkError as error:
            if not isinstance(error.__cause__, httpx.PoolTimeout | NotDoneError):  # which is our own fault
                self._reach.failed(error.message)
            raise
        self._reach.answered()
        return status, body

    async def _nothing_for(self, body: bytes) -> tuple[int, bytes]:
        """Waits as long as Telegram says. The library would, too, but deaf to being told to stop."""
        answer = json.loads(body)
        seconds = (answer.get("parameters") or {}).get("retry_after", _PAUSES[0])
        if seconds > _LONG:
            log.warning("Telegram wants to be left alone for %.0f s: nobody is heard until then", seconds)
        await asyncio.sleep(seconds)
        return httpx.codes.OK, b'{"ok": true, "result": []}'

    def _check(self, status: int, body: bytes, call: str) -> tuple[int, bytes]:
        """-> status and answer, as the library may see them. Raises NetworkError."""
        answer = _read(body)
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _lost(f"status {status}", ServerFailedError())
        if answer is None:
            raise _lost(f"an answer that is none of Telegram's, status {status}", LostAnswerError())
        if answer["ok"]:
            self._reach.knows_us()
            return (status, body) if call != "getUpdates" else (status, _readable(answer))
        if self._reach.is_known and status == _UNAUTHORIZED:  # the library would give up: it waits for `revoked`
            self._reach.is_unknown()
            raise NetworkError("Telegram does not know the token any more") from NotDoneError()
        if self._reach.is_known and status == _NOT_FOUND:  # a server that lacks this call; the library blames the token
            return _BAD_REQUEST, body
        parameters = answer.get("parameters")
        if isinstance(parameters, dict) and "retry_after" in parameters:
            parameters["retry_after"] = _pause(parameters["retry_after"])
            body = json.dumps(answer).encode()
        return status, body


def _lost(reason: str, cause: LostAnswerError) -> NetworkError:
    error = NetworkError(reason)
    error.__cause__ = cause
    return error


def _read(body: bytes) -> dict[str, Any] | None:
    """https://core.telegram.org/bots/api#making-requests; None if it is nothing of the kind."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    is_answer = isinstance(answer, dict) and isinstance(answer.get("ok"), bool)
    return answer if is_answer and ("result" in answer or not answer["ok"]) else None


def _pause(wanted: Any) -> int:
    """Whole seconds. Whoever asks for a year, or for no number, is asked again sooner."""
    low, high = _PAUSES
    try:
        seconds = float(wanted)
    except (TypeError, ValueError, OverflowError):
        return low
    return low if math.isnan(seconds) else math.ceil(min(max(seconds, low), high))


def _readable(answer: dict[str, Any]) -> bytes:
    """Updates, without the content of those that the library cannot read: they would come again for ever."""
    found = answer["result"]
    updates = [update for update in found if _has_number(update)] if isinstance(found, list) else []
    kept = [update if read_update(update, None) else {"update_id": update["update_id"]} for update in updates]
    return json.dumps({"ok": True, "result": kept}).encode()


def read_update(update: Any, bot: Bot | None) -> Update | None:
    """None, with a word in the log, if the library cannot read it."""
    if not _has_number(update):
        log.warning("something without a number came instead of an update")
        return None
    try:
        read = Update.de_json(update, bot)
        _check(read)
        return read
    except Exception as error:  # of whatever kind: it is made of what others wrote
        log.warning("update %d cannot be read (%s)", update["update_id"], type(error).__name__)
        return None


def _check(update: Update) -> None:
    """Raises ValueError for what the library reads, and Telegram does not write."""
    senders = [part.id for part in (update.effective_user, update.effective_chat) if part is not None]
    if not all(_is_number(number) for number in senders):
        raise ValueError("an id is no number")
    if update.effective_message is not None and update.effective_chat is None:
        raise ValueError("a message is in no chat")


def _has_number(update: Any) -> bool:
    return isinstance(update, dict) and _is_number(update.get("update_id"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
