"""Telegram brings the updates itself: one POST each, over whatever stands in front of this port (a proxy with TLS).

https://core.telegram.org/bots/api#setwebhook. Until an update is taken it comes again, and nothing after it does. The
library's own server would refuse for ever what it cannot read, and hear nothing more.
"""

import hmac
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from telegram import Bot
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from stablediff.errors import RequestError
from stablediff.telegram.desk import log
from stablediff.telegram.inbox import Inbox
from stablediff.telegram.line import read_update

_PATH = r"/telegram/?"
_HOST = "127.0.0.1"
_LARGEST = 2**20  # bytes; an update has a few thousand
_SECONDS = 30  # for a request, from whoever holds a connection


class _Door(RequestHandler):
    SUPPORTED_METHODS = ("POST",)

    def initialize(self, bot: Bot, inbox: Inbox, secret: str) -> None:
        self.bot, self.inbox, self.secret = bot, inbox, secret

    async def post(self) -> None:
        given = self.request.headers.get("X-Telegram-Bot-Api-Secret-Token", "")
        if not hmac.compare_digest(given.encode(), self.secret.encode()):
            log.info("something without the webhook's secret came to its port, and was refused")
            raise HTTPError(HTTPStatus.FORBIDDEN)
        try:
            content = json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise HTTPError(HTTPStatus.BAD_REQUEST) from None
        update = read_update(content, self.bot)
        if update is not None:
            await self.inbox.put(update)


class _Doors(Application):
    def log_request(self, handler: RequestHandler) -> None:
        """Nothing: what comes is noted where it is answered."""


def listen(bot: Bot, inbox: Inbox, port: int, secret: str) -> Callable[[], Awaitable[None]]:
    """Takes updates into the inbox. -> what ends it. Raises RequestError if another program has the port."""
    server = HTTPServer(
        _Doors([(_PATH, _Door, {"bot": bot, "inbox": inbox, "secret": secret})]),
        max_buffer_size=_LARGEST,
        body_timeout=_SECONDS,
        idle_connection_timeout=_SECONDS,
    )
    try:
        server.listen(port, address=_HOST)
    except OSError as error:
        raise RequestError(f"cannot listen at port {port} ({error.strerror}): choose another --port") from error

    async def close() -> None:
        server.stop()
        await server.close_all_connections()

    return close
