"""The text message of a job, which says how it stands and becomes what was asked for.

It is changed by edits only: they can be repeated until they work, and never deliver twice.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from telegram import InlineKeyboardMarkup, InputMediaDocument, InputMediaPhoto, Message, ReplyParameters
from telegram.error import BadRequest

from stablediff.telegram.desk import Desk
from stablediff.telegram.outgoing import PATIENCE, again, edit, is_gone
from stablediff.telegram.pacing import Lane
from stablediff.telegram.store import Job
from stablediff.telegram.texts import shorten, text

MAX_CAPTION, MAX_TEXT = 1024, 4096

T = TypeVar("T")


def answering(job: Job) -> ReplyParameters | None:
    return ReplyParameters(job.reply_to, allow_sending_without_reply=True) if job.reply_to else None


class Status:
    """`picture` counts a job's messages: each of its pictures can have one, the first being the status itself.

    Raises RetryAfter and NetworkError when it has to wait long.
    """

    def __init__(self, desk: Desk, job: Job) -> None:
        self.desk, self.job = desk, job

    async def become(
        self, picture: int, media: InputMediaPhoto | InputMediaDocument, markup: InlineKeyboardMarkup | None
    ) -> Message | None:
        bot, chat = self.desk.bot, self.job.chat_id
        sent = await self._edit(
            picture,
            lambda target: bot.edit_message_media(
                media, chat, target, reply_markup=markup, rate_limit_args=Lane.DELIVERY
            ),
        )
        return sent if isinstance(sent, Message) else None

    async def tell(self, words: str, markup: InlineKeyboardMarkup | None = None) -> None:
        """It says something else now."""
        await self._edit(0, lambda target: say_in(self.desk, self.job, target, words, markup, Lane.DELIVERY))

    async def _edit(self, picture: int, change: Callable[[int], Awaitable[T]]) -> T | None:
        """Changes that message, or a new one if its owner has deleted it."""
        try:
            return await edit(partial(change, await self._message(picture)), PATIENCE)
        except BadRequest as error:
            if not is_gone(error):
                raise
        return await edit(partial(change, await self._message(picture, fresh=True)), PATIENCE)

    async def _message(self, picture: int = 0, *, fresh: bool = False) -> int:
        """The number of the text message that becomes this picture."""
        job, store = self.job, self.desk.store
        known = job.status_id if picture == 0 else store.pictures(job.id)[picture].message_id
        if picture == 0 and (now := store.job(job.id)):
            known = now.status_id
        if known is not None and not fresh:
            return known
        message = await again(lambda: self._send(text(job.language, "arriving")), harmless=True, patience=PATIENCE)
        if picture == 0:
            self.desk.glimpsed.discard(job.id)
            store.set_job(job.id, status_id=message.message_id)
        store.set_picture(job.id, picture, message_id=message.message_id)
        return message.message_id

    async def _send(self, words: str) -> Message:
        job = self.job
        return await self.desk.bot.send_message(
            job.chat_id,
            words,
            message_thread_id=job.thread_id,
            reply_parameters=answering(job),
            rate_limit_args=Lane.DELIVERY,
        )


async def say_in(
    desk: Desk, job: Job, message: int, words: str, markup: InlineKeyboardMarkup | None, lane: Lane
) -> Message | bool:
    """Edits a status message, be it plain text or a glimpse with a caption by now."""
    bot, chat, words = desk.bot, job.chat_id, desk.hide(words)
    if job.id not in desk.glimpsed:
        try:
            return await bot.edit_message_text(
                shorten(words, MAX_TEXT), chat, message, reply_markup=markup, rate_limit_args=lane
            )
        except BadRequest as error:  # a glimpse from before the last start, of which nobody knows any more
            if "no text in the message" not in error.message:
                raise
    caption = shorten(words, MAX_CAPTION)
    return await bot.edit_message_caption(chat, message, caption=caption, reply_markup=markup, rate_limit_args=lane)
