"""What is brought, by the kind of the job.

One picture comes by an edit of the status message, which can be repeated. Albums and stickers cannot come so: of those
whose answer was lost the user is told, and asked.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from telegram import InlineKeyboardMarkup, InputFile, InputMediaDocument, InputMediaPhoto
from telegram.constants import ChatAction
from telegram.error import BadRequest, NetworkError, RetryAfter, TelegramError

from stablediff.telegram import keyboards, packs
from stablediff.telegram.desk import Desk, log
from stablediff.telegram.forms import as_document, as_photo, as_sticker, is_photo
from stablediff.telegram.outgoing import PATIENCE, again, surely_not_done
from stablediff.telegram.pacing import Lane, seconds_of
from stablediff.telegram.record import as_command
from stablediff.telegram.status import MAX_CAPTION, Status, answering
from stablediff.telegram.store import Job, Picture
from stablediff.telegram.texts import shorten, text

MOST_IN_ALBUM = 10
_ALBUM_BYTES = 40 * 10**6  # of one upload

T = TypeVar("T")


class Delivery:
    def __init__(self, desk: Desk, job: Job) -> None:
        self.desk, self.job, self.store = desk, job, desk.store
        self.status = Status(desk, job)

    async def bring(self) -> bool:
        """-> whether all is brought; False if more was asked for meanwhile.

        Raises RetryAfter and NetworkError when it has to wait long.
        """
        bring = {
            "picture": self._pictures,
            "sticker": self._stickers,
            "file": self._file,
            "photo": self._photo,
            "pack": self._pack,
        }
        await bring[self.job.kind]()
        pictures = self.store.pictures(self.job.id)
        return self.job.kind not in ("picture", "sticker") or all(picture.state != "waiting" for picture in pictures)

    async def _pictures(self) -> None:
        await self._show_activity()
        pictures = self.store.pictures(self.job.id)
        albums = await asyncio.to_thread(self._albums, pictures)
        if not albums:
            await self._one_by_one(pictures)
            return
        for album in albums:
            await self._album(album)
        pictures = self.store.pictures(self.job.id)
        if any(picture.state in ("sending", "unsure") for picture in pictures):
            await self._ask("album unsure", pictures)
        else:
            words, markup = under_album(self.desk, self.job, pictures, 0)
            await self.status.tell(words, markup)

    async def _one_by_one(self, pictures: Sequence[Picture]) -> None:
        for picture in pictures:
            if picture.state == "sent":
                continue
            caption, markup = under_picture(self.desk, self.job, picture)
            media = await asyncio.to_thread(self._media, picture, caption)
            sent = await self.status.become(picture.number, media, markup)
            file_id = sent.photo[-1].file_id if sent and sent.photo else None
            self.store.set_picture(self.job.id, picture.number, state="sent", file_id=file_id)

    async def _show_activity(self) -> None:
        job = self.job
        try:
            await self.desk.bot.send_chat_action(job.chat_id, ChatAction.UPLOAD_PHOTO, message_thread_id=job.thread_id)
        except TelegramError as error:
            log.info("job %d: %s", job.id, error)

    def _albums(self, pictures: Sequence[Picture]) -> list[list[Picture]]:
        """Groups of 2 to 10 photos, the same at every attempt; [] if they cannot come so."""
        files = [self.store.picture_file(self.job.id, picture.number) for picture in pictures]
        size = sum(file.stat().st_size for file in files)
        count = max(math.ceil(len(pictures) / MOST_IN_ALBUM), math.ceil(size / _ALBUM_BYTES))
        bounds = [round(len(pictures) * part / count) for part in range(count + 1)]
        albums = [[*pictures[start:end]] for start, end in itertools.pairwise(bounds)]
        if any(len(album) < 2 for album in albums) or not all(is_photo(file) for file in files):
            return []
        return albums

    async def _album(self, album: Sequence[Picture]) -> None:
        if any(picture.state != "waiting" for picture in album):
            return
        media = [
            await asyncio.to_thread(self._media, picture, under_picture(self.desk, self.job, picture)[0])
            for picture in album
        ]
        job, bot = self.job, self.desk.bot
        sent = await self._send_once(
            album,
            lambda: bot.send_media_group(
                job.chat_id,
                media,
                message_thread_id=job.thread_id,
                reply_parameters=answering(job),
                rate_limit_args=Lane.DELIVERY,
            ),
        )
        for picture, message in zip(album, sent or (), strict=False):
            file_id = message.photo[-1].file_id if message.photo else None
            self.store.set_picture(job.id, picture.number, state="sent", file_id=file_id, message_id=message.message_id)

    async def _stickers(self) -> None:
        job, bot = self.job, self.desk.bot
        for picture in self.store.pictures(job.id):
            if picture.state != "waiting":
                continue
            data = await asyncio.to_thread(as_sticker, self.store.picture_file(job.id, picture.number))
            sent = await self._send_once(
                [picture],
                lambda data=data: bot.send_sticker(  # type: ignore[misc]
                    job.chat_id,
                    InputFile(data, filename="sticker.webp"),
                    message_thread_id=job.thread_id,
                    reply_parameters=answering(job),
                    rate_limit_args=Lane.DELIVERY,
                ),
            )
            if sent is not None:
                file_id = sent.sticker.file_id if sent.sticker else None
                self.store.set_picture(job.id, picture.number, state="sent", file_id=file_id)
        pictures = self.store.pictures(job.id)
        if any(picture.state in ("sending", "unsure") for picture in pictures):
            await self._ask("sticker unsure", pictures)
            return
        caption, markup = under_picture(self.desk, job, pictures[0])
        if len(pictures) > 1:
            caption, markup = under_album(self.desk, job, pictures, 0)
        prompt, _, details = caption.partition("\n")
        key = "sticker ready" if len(pictures) == 1 else "stickers ready"
        await self.status.tell(text(job.language, key, prompt=prompt, details=details), markup)

    async def _send_once(self, pictures: Sequence[Picture], call: Callable[[], Awaitable[T]]) -> T | None:
        """The answer, or None if it was lost. The pictures are "sending" as long as nobody knows."""

        async def attempt() -> T:
            self._mark(pictures, "sending")
            await self.store.settle()
            try:
                return await call()
            except BaseException as error:
                if surely_not_done(error):
                    self._mark(pictures, "waiting")
                raise

        try:
            return await again(attempt, harmless=False, patience=PATIENCE)
        except (NetworkError, RetryAfter) as error:
            if isinstance(error, BadRequest) or surely_not_done(error):
                raise
            log.info("job %d: whether it arrived is not known: %s", self.job.id, error)
            return None

    def _mark(self, pictures: Sequence[Picture], state: str) -> None:
        for picture in pictures:
            self.store.set_picture(self.job.id, picture.number, state=state)

    async def _ask(self, key: str, pictures: Sequence[Picture]) -> None:
        unsure = [picture for picture in pictures if picture.state in ("sending", "unsure")]
        self._mark(unsure, "unsure")  # from now on they may be asked for again
        markup = keyboards.send_again(self.job.language, self.job.id, unsure[0].number)
        await self.status.tell(text(self.job.language, key), markup)

    def _media(self, picture: Picture, caption: str, job_id: int | None = None) -> InputMediaPhoto | InputMediaDocument:
        """In a thread. A photo if Telegram takes it as one, else a file."""
        file = self.store.picture_file(job_id or self.job.id, picture.number)
        photo = as_photo(file)
        if photo is None:
            return as_document(file, picture.seed, caption)
        return InputMediaPhoto(photo, caption=caption, filename=f"{picture.seed}.png")

    # Other forms of a picture that another job has drawn

    def _source(self) -> tuple[Job, Picture, Path] | None:
        source_id, number = self.job.request["source"]
        source = self.store.job(source_id)
        file = self.store.picture_file(source_id, number)
        pictures = self.store.pictures(source_id)
        return (source, pictures[number], file) if source and number < len(pictures) and file.is_file() else None

    async def _file(self) -> None:
        found = self._source()
        if found is None:
            await self._say_gone()
            return
        _, picture, file = found
        seed = text(self.job.language, "seed", seed=picture.seed)
        await self.status.become(0, await asyncio.to_thread(as_document, file, picture.seed, seed), None)

    async def _photo(self) -> None:
        found = self._source()
        if found is None:
            await self._say_gone()
            return
        source, picture, _ = found
        caption, markup = under_picture(self.desk, source, picture)
        await self.status.become(0, await asyncio.to_thread(self._media, picture, caption, source.id), markup)

    async def _pack(self) -> None:
        found, language = self._source(), self.job.language
        if found is None:
            await self._say_gone()
            return
        data = await asyncio.to_thread(as_sticker, found[2])
        try:
            link = await packs.add(self.desk, self.job, data)
        except BadRequest as error:
            await self.status.tell(text(language, "not taken", reason=self.desk.hide(error.message)))
            return
        except (RetryAfter, NetworkError) as error:
            is_long = isinstance(error, RetryAfter) and seconds_of(error) > PATIENCE
            if is_long or time.time() - self.job.created > PATIENCE:
                await self.status.tell(text(language, "pack waits"))
            raise
        await self.status.tell(text(language, "pack done", link=link))

    async def _say_gone(self) -> None:
        await self.status.tell(text(self.job.language, "gone"))


def under_picture(desk: Desk, job: Job, picture: Picture) -> tuple[str, InlineKeyboardMarkup]:
    """Caption and buttons."""
    command = None if job.request["init"] else command_of(desk, job, picture.seed)
    larger = job.kind == "picture" and 2 * max(job.request["width"], job.request["height"]) <= desk.limits.max_side
    markup = keyboards.under_picture(job.language, job.id, picture.number, command, larger=larger)
    return _caption(job, text(job.language, "seed", seed=picture.seed)), markup


def command_of(desk: Desk, job: Job, seed: int) -> str:
    """As it can be sent in that chat: in groups it names the bot."""
    written = as_command(desk.pipeline, job.request, seed, job.kind)
    name, blank, rest = written.partition(" ")
    return f"{name}@{desk.bot.username}{blank}{rest}" if job.chat_id < 0 else written


def under_album(desk: Desk, job: Job, pictures: Sequence[Picture], chosen: int) -> tuple[str, InlineKeyboardMarkup]:
    """What is said of several pictures, and the buttons of the one that is chosen."""
    _, buttons = under_picture(desk, job, pictures[chosen])
    seeds = text(job.language, "seeds", first=pictures[0].seed, last=pictures[-1].seed, count=len(pictures))
    return _caption(job, seeds), keyboards.with_choice(buttons, job.id, len(pictures), chosen)


def _caption(job: Job, seeds: str) -> str:
    record = job.request
    details = f"{seeds} · {record['width']}x{record['height']} · {record['num_steps']} × {record['sampler']}"
    if record["init"]:
        details += f" · {text(job.language, 'strength of', strength=record['strength'])}"
    if record["negative_prompt"]:
        details += "\n" + shorten(text(job.language, "without", words=record["negative_prompt"]), 200)
    notes = shorten(f"\n{job.note}", 400) if job.note else ""
    prompt = shorten(record["prompt"], MAX_CAPTION - len(details) - len(notes) - 50)
    return f"{prompt}\n{details}{notes}"
