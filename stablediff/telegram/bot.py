"""The parts put together, and started: `run` returns when the bot is told to stop."""

import asyncio
import json
import secrets
import sqlite3
import sys
import time
from datetime import UTC, datetime
from typing import Any

from telegram import BotCommand, Update
from telegram.error import Conflict, Forbidden, InvalidToken, NetworkError, TelegramError
from telegram.ext import Application, ApplicationBuilder, ContextTypes, TypeHandler

from stablediff.pipeline import Pipeline
from stablediff.telegram.buttons import on_button
from stablediff.telegram.courier import Courier
from stablediff.telegram.desk import Desk, Talk, log
from stablediff.telegram.inbox import Inbox, InOrder
from stablediff.telegram.inline import on_inline
from stablediff.telegram.line import Line, Reach
from stablediff.telegram.messages import on_message
from stablediff.telegram.options import Options
from stablediff.telegram.outgoing import again
from stablediff.telegram.pacing import Pacer
from stablediff.telegram.store import Store, is_full
from stablediff.telegram.texts import COMMANDS, LANGUAGES
from stablediff.telegram.worker import Worker

ALLOWED_UPDATES = ["message", "callback_query", "inline_query"]
_HOUR = 3600.0
_TURN = 0.001  # seconds that the drawing thread may keep the interpreter from the answers; Python's own is 5 times that
_CONNECTIONS = 256
App = Application[Any, Any, Any, Any, Any, Any]


def run(options: Options, pipeline: Pipeline) -> None:
    """Raises StableDiffError if the data folder is in use, InvalidToken if Telegram does not know the token."""
    sys.setswitchinterval(_TURN)
    store = Store(options.data)
    try:
        _run(options, pipeline, store)
    finally:
        store.close()


def _run(options: Options, pipeline: Pipeline, store: Store) -> None:
    inbox, reach = Inbox(store, at_once=options.webhook_url is not None), Reach(options.api)
    application: App = (
        ApplicationBuilder()
        .token(options.token)
        .base_url(f"{options.api}/bot")
        .base_file_url(f"{options.api}/file/bot")
        .rate_limiter(Pacer())
        .update_queue(inbox)
        .concurrent_updates(InOrder(inbox))
        .request(Line(reach, connection_pool_size=_CONNECTIONS, read_timeout=20, media_write_timeout=60))
        .get_updates_request(Line(reach, before=store.settle))
        .build()
    )
    desk = Desk(options, pipeline, store, application.bot, options.limits)
    worker, courier = Worker(desk), Courier(desk)
    tasks: list[asyncio.Task[None]] = []

    async def on_update(update: Update, _context: ContextTypes.DEFAULT_TYPE) -> None:
        await _hear(desk, inbox, update)

    async def start(_application: App) -> None:
        for job in store.jobs_in("queued"):
            desk.queue.put(job.user_id, job.id)
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        for job in store.jobs_since(midnight):
            desk.usage.add(job.user_id, desk.cost(job.request))
        for body in store.unanswered():
            await inbox.put_again(Update.de_json(json.loads(body), application.bot))
        for part in (worker.run(), courier.run(), _introduce(desk), _forget_in_time(desk), stop_if_revoked()):
            tasks.append(asyncio.create_task(part))
        log.info("@%s is listening, %d jobs are waiting", application.bot.username, len(desk.queue))

    async def stop_if_revoked() -> None:
        await reach.revoked.wait()
        application.stop_running()

    async def stop(_application: App) -> None:
        await worker.stop()
        await courier.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    application.post_init, application.post_stop = start, stop
    application.add_handler(TypeHandler(Update, on_update))
    application.add_error_handler(_on_error)
    if options.webhook_url is None:
        application.run_polling(bootstrap_retries=-1, allowed_updates=ALLOWED_UPDATES)
    else:
        application.run_webhook(
            listen="127.0.0.1",
            port=options.port,
            url_path="telegram",
            webhook_url=options.webhook_url,
            secret_token=options.webhook_secret,
            bootstrap_retries=-1,
            allowed_updates=ALLOWED_UPDATES,
        )
    if reach.revoked.is_set():
        raise InvalidToken


async def _hear(desk: Desk, inbox: Inbox, update: Update) -> None:
    """Every update comes through here. What breaks is logged under a number that the user is told."""
    talk = Talk.begin(desk, update)
    if talk is None:
        return
    try:
        if talk.user.id in inbox.flooding:
            inbox.flooding.discard(talk.user.id)
            await talk.say("too fast")
        if desk.store.is_banned(talk.user.id) and not talk.is_admin and not _wants_to_go(talk):
            await _turn_away(talk)
        elif update.inline_query is not None:
            await on_inline(talk)
        elif update.callback_query is not None:
            await on_button(talk)
        elif update.message is not None:
            await on_message(talk)
    except Forbidden as error:
        log.info("not allowed to answer: %s", error)
    except Exception as error:
        code = secrets.token_hex(4)
        log.exception("error %s", code)
        try:
            if is_full(error):
                await talk.say("no room for more")
            else:
                await talk.say("broken", code=code)
        except TelegramError as told:
            log.warning("error %s could not be told: %s", code, told)


async def _on_error(_update: object, context: ContextTypes.DEFAULT_TYPE) -> None:
    """What goes wrong while updates are fetched. That Telegram cannot be reached says the line itself."""
    error = context.error
    if isinstance(error, Conflict):
        log.error("another program takes this bot's updates: stop it (%s)", error)
    elif not isinstance(error, NetworkError):
        log.error("updates cannot be fetched", exc_info=error)


def _wants_to_go(talk: Talk) -> bool:
    """Whoever may do nothing else may still ask what is kept of them, and have it deleted."""
    if talk.query is not None:
        return (talk.query.data or "").startswith("d:")
    words = (talk.update.message.text or "") if talk.update.message else ""
    return talk.is_private and words.partition(" ")[0].partition("@")[0].lower() in ("/delete", "/privacy")


async def _turn_away(talk: Talk) -> None:
    if talk.query is not None:
        await talk.toast("banned")
    elif talk.is_private and talk.update.inline_query is None:
        await talk.say("banned")


async def _introduce(desk: Desk) -> None:
    """The menu of commands, in each language."""
    for index, language in enumerate(LANGUAGES):
        commands = [BotCommand(name, words[index]) for name, words in COMMANDS.items()]
        code = language if index else None  # the first for everybody else
        await again(lambda c=commands, k=code: desk.bot.set_my_commands(c, language_code=k), harmless=True)  # type: ignore[misc]


async def _forget_in_time(desk: Desk) -> None:
    while True:
        try:
            desk.store.forget_older_than(time.time() - desk.options.keep_days * 24 * _HOUR)
        except (sqlite3.Error, OSError):
            log.exception("what is old will be deleted later")
        await asyncio.sleep(_HOUR)
