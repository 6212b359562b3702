"""What all parts of the bot share, and one conversation's end of it."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from telegram import CallbackQuery, InlineKeyboardMarkup, Message, ReplyParameters, Update, User
from telegram.error import TelegramError
from telegram.ext import ExtBot

from stablediff.command import in_flags
from stablediff.errors import StableDiffError
from stablediff.pipeline import Pipeline
from stablediff.refusals import translate
from stablediff.request import Limits
from stablediff.telegram.logs import Hidden
from stablediff.telegram.options import Options
from stablediff.telegram.outgoing import again
from stablediff.telegram.pacing import Lane
from stablediff.telegram.queue import FairQueue
from stablediff.telegram.store import Job, Store
from stablediff.telegram.texts import LANGUAGES, shorten, text

log = logging.getLogger("stablediff.telegram")


class Usage:
    """Work of the day by user. In memory only, so that /delete can forget everything and still not refill it."""

    def __init__(self) -> None:
        self._day = datetime.now(UTC).date()
        self._used: defaultdict[int, float] = defaultdict(float)

    def of(self, user: int) -> float:
        today = datetime.now(UTC).date()
        if today != self._day:
            self._day = today
            self._used.clear()
        return self._used[user]

    def add(self, user: int, cost: float) -> None:
        self._used[user] = self.of(user) + cost

    def give_back(self, user: int, cost: float) -> None:
        """Of what was never begun; yesterday's is forgotten already."""
        self._used[user] = max(self.of(user) - cost, 0.0)


@dataclass
class Desk:
    options: Options
    pipeline: Pipeline
    store: Store
    bot: ExtBot[Lane]
    limits: Limits = field(default_factory=Limits)
    queue: FairQueue = field(default_factory=FairQueue)
    usage: Usage = field(default_factory=Usage)
    wake_worker: asyncio.Event = field(default_factory=asyncio.Event)
    wake_courier: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledging: dict[int, asyncio.Event] = field(default_factory=dict)  # job -> its status message is on its way
    reporting: dict[int, asyncio.Task[None]] = field(default_factory=dict)  # job -> what tells how far it is
    glimpsed: set[int] = field(default_factory=set)  # jobs whose status message is a picture with a caption by now
    places: dict[int, int] = field(default_factory=dict)  # job that waits -> the place that was told last
    erased: Callable[[int], None] = lambda _user: None  # told of whoever has erased everything
    albums: dict[int, str] = field(default_factory=dict)  # user -> the last one
    drawing: int | None = None  # the job
    cancelled: set[int] = field(default_factory=set)  # jobs that were stopped while they were drawn

    def is_new_album(self, user: int, album: str) -> bool:
        """Its photos come in messages of their own, of which one is answered."""
        known = self.albums.get(user)
        self.albums[user] = album
        return known != album

    def cost(self, fields: dict[str, Any]) -> float:
        """In pictures of the model's usual size and steps."""
        usual = self.pipeline.config.defaults
        work = fields["num_steps"] * fields["width"] * fields["height"] * fields["num_images"]
        return float(work / (usual.num_steps * usual.width * usual.height))

    def hide(self, words: str) -> str:
        """Words of others, without the token that may be in them."""
        return Hidden(self.options.token).hide(words)

    def cancel(self, job: Job) -> bool:
        """-> whether there was anything to stop. A running job stops within a step."""
        if self.drawing == job.id:
            self.cancelled.add(job.id)
            return True
        if self.queue.place(job.id) is not None:
            self.store.close_job(job.id, text(job.language, "cancelled"))  # first, because it may fail
            self.queue.remove(job.id)
            self.usage.give_back(job.user_id, self.cost(job.request))
            self.wake_courier.set()
            return True
        return False


@dataclass
class Talk:
    """Somebody wants something: who, where, and in which language."""

    desk: Desk
    update: Update
    user: User
    message: Message | None
    settings: dict[str, Any]
    is_new: bool

    @staticmethod
    def begin(desk: Desk, update: Update) -> "Talk | None":
        user, message = update.effective_user, update.effective_message
        if user is None or (user.is_bot and not _is_anonymous(message)):
            return None
        settings = desk.store.settings(user.id)
        return Talk(desk, update, user, message, settings or {}, settings is None)

    @property
    def is_anonymous(self) -> bool:
        return self.user.is_bot

    @property
    def language(self) -> str:
        chosen = self.settings.get("language")
        spoken = (self.user.language_code or "")[:2]
        return chosen if chosen in LANGUAGES else spoken if spoken in LANGUAGES else "en"

    @property
    def is_private(self) -> bool:
        return self.message is None or self.message.chat.type == "private"

    @property
    def is_admin(self) -> bool:
        return self.user.id in self.desk.options.admins

    @property
    def query(self) -> CallbackQuery | None:
        return self.update.callback_query

    def text(self, key: str, **values: object) -> str:
        return text(self.language, key, **values)

    def in_this_chat(self, command: str) -> str:
        """As it has to be written here: in groups, what does not name the bot is not for it."""
        return command if self.is_private else f"{command}@{self.desk.bot.username}"

    async def say(self, key: str, markup: InlineKeyboardMarkup | None = None, **values: object) -> Message | None:
        """A text of ours, as an answer to the message."""
        return await self.reply(self.text(key, **values), markup)

    async def refuse(self, error: StableDiffError, key: str = "refused") -> None:
        words = translate(str(error), self.language)
        await self.say(key, reason=in_flags(words) if words == str(error) else words)

    async def reply(
        self, words: str, markup: InlineKeyboardMarkup | None = None, lane: Lane = Lane.ANSWER
    ) -> Message | None:
        message, words = self.message, self.desk.hide(words)
        if message is None:
            return None
        answering = None if self.is_private else ReplyParameters(message.message_id, allow_sending_without_reply=True)
        return await again(
            lambda: self.desk.bot.send_message(
                message.chat.id,
                shorten(words, 4096),
                message_thread_id=message.message_thread_id if message.is_topic_message else None,
                reply_parameters=answering,
                reply_markup=markup,
                rate_limit_args=lane,
            ),
            harmless=False,
            trusting=True,
            patience=120,
        )

    async def toast(self, key: str | None = None, **values: object) -> None:
        """The answer to a pressed button, which its owner's phone waits for."""
        if self.query is None:
            return
        try:
            await self.query.answer(self.text(key, **values)[:200] if key else None, show_alert=key is not None)
        except TelegramError as error:  # pressed long ago, while the bot was away: the work is done all the same
            log.info("a button's answer was not taken: %s", error)


def _is_anonymous(message: Message | None) -> bool:
    """Whether somebody writes in the name of a group or a channel: all of them look like the same bot."""
    return message is not None and message.sender_chat is not None
