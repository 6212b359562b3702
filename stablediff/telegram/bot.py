"""The parts put together, and started: `run` returns when the bot is told to stop."""

import asyncio
import contextlib
import signal
import sqlite3
import sys
import time
from datetime import UTC, datetime
from typing import Any

from telegram import BotCommand, Update
from telegram.error import Conflict, InvalidToken, NetworkError, TelegramError
from telegram.ext import Application, ApplicationBuilder, ContextTypes, TypeHandler

from stablediff.errors import RequestError
from stablediff.pipeline import Pipeline
from stablediff.telegram.courier import Courier
from stablediff.telegram.desk import Desk, log
from stablediff.telegram.hearing import hear
from stablediff.telegram.inbox import Inbox, InOrder
from stablediff.telegram.line import Line, Reach, read_update
from stablediff.telegram.options import Options
from stablediff.telegram.outgoing import again
from stablediff.telegram.pacing import Pacer
from stablediff.telegram.store import Store
from stablediff.telegram.texts import COMMANDS, LANGUAGES
from stablediff.telegram.webhook import listen
from stablediff.telegram.worker import Worker

ALLOWED_UPDATES = ["message", "callback_query", "inline_query"]
_HOUR = 3600.0
_TURN = 0.001  # seconds that the drawing thread may keep the interpreter from the answers; Python's own is 5 times that
_CONNECTIONS = 256
App = Application[Any, Any, Any, Any, Any, Any]


def run(options: Options, pipeline: Pipeline, store: Store) -> None:
    """Raises StableDiffError if the webhook's address cannot be used, InvalidToken if Telegram knows no such bot."""
    sys.setswitchinterval(_TURN)
    asyncio.run(_run(options, pipeline, store))


async def _run(options: Options, pipeline: Pipeline, store: Store) -> None:
    _end_when_told()
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
    pipeline.config = options.limits.within(pipeline.config)
    desk = Desk(options, pipeline, store, application.bot, options.limits)

    async def on_update(update: Update, _context: ContextTypes.DEFAULT_TYPE) -> None:
        await hear(desk, inbox, update)

    application.add_handler(TypeHandler(Update, on_update))
    with contextlib.suppress(asyncio.CancelledError):
        async with contextlib.AsyncExitStack() as ends:  # what is begun last ends first
            await again(application.initialize, harmless=True)
            ends.push_async_callback(application.shutdown)
            await _take_up(desk, inbox)
            worker, courier = Worker(desk), Courier(desk)
            endless = (
                worker.run(),
                worker.tell_places(),
                courier.run(),
                _forget_in_time(desk),
                _refuse_if_revoked(reach),
            )
            tasks = [asyncio.create_task(part) for part in (*endless, _introduce(desk))]
            ends.push_async_callback(_end, worker, courier, tasks)
            await application.start()
            ends.push_async_callback(application.stop)
            listening = asyncio.create_task(_listen(application, options, inbox, ends))
            await _unless_ended(tasks[: len(endless)], listening)
            log.info("@%s is listening, %d jobs are waiting", desk.bot.username, len(desk.queue))
            await _unless_ended(tasks[: len(endless)])


async def _unless_ended(endless: list[asyncio.Task[None]], work: asyncio.Task[None] | None = None) -> None:
    """Waits for the work, if there is any. Raises what has ended one of the endless tasks."""
    tasks = [*endless, *([work] if work else [])]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def _end_when_told() -> None:
    """A signal ends the bot, in order; a second one shortens what is waited for."""
    me = asyncio.current_task()
    assert me is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows, where the process ends
            asyncio.get_running_loop().add_signal_handler(number, me.cancel)


async def _take_up(desk: Desk, inbox: Inbox) -> None:
    """What was waiting when the bot ended."""
    for job in desk.store.jobs_in("queued"):
        desk.queue.put(job.user_id, job.id)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    for job in desk.store.jobs_since(midnight):
        with contextlib.suppress(KeyError, TypeError):  # a request of another version
            desk.usage.add(job.user_id, desk.cost(job.request))
    for number, body in desk.store.unanswered():
        update = read_update(body, desk.bot)
        if update is None:
            desk.store.update_done(number)
        else:
            await inbox.put_again(update)


async def _listen(application: App, options: Options, inbox: Inbox, ends: contextlib.AsyncExitStack) -> None:
    """Raises RequestError."""
    if options.webhook_url is None:
        assert application.updater is not None
        ends.push_async_callback(_stop_polling, application)
        await application.updater.start_polling(
            bootstrap_retries=-1, allowed_updates=ALLOWED_UPDATES, error_callback=_tell
        )
        return
    ends.push_async_callback(listen(application.bot, inbox, options.port, options.webhook_secret))

    async def set_webhook() -> None:
        await application.bot.set_webhook(
            options.webhook_url or "", allowed_updates=ALLOWED_UPDATES, secret_token=options.webhook_secret
        )

    try:
        await again(set_webhook, harmless=True)
    except TelegramError as error:
        raise RequestError(f"Telegram does not take --webhook-url {options.webhook_url}: {error.message}") from error


async def _stop_polling(application: App) -> None:
    """Also where it was told to stop in the middle of its beginning."""
    if application.updater is not None and application.updater.running:
        await application.updater.stop()


async def _refuse_if_revoked(reach: Reach) -> None:
    await reach.revoked.wait()
    raise InvalidToken


async def _end(worker: Worker, courier: Courier, tasks: list[asyncio.Task[None]]) -> None:
    await worker.stop()
    await courier.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _tell(error: TelegramError) -> None:
    """What goes wrong while updates are fetched. That Telegram cannot be reached says the line itself."""
    if isinstance(error, Conflict):
        log.error("another program takes this bot's updates: stop it (%s)", error)
    elif not isinstance(error, NetworkError):
        log.error("updates cannot be fetched", exc_info=error)


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
