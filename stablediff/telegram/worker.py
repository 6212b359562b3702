"""Takes jobs, one after another, and draws them with the shared `generate` in a thread of its own."""

import asyncio
import secrets
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image
from telegram import InputMediaPhoto
from telegram.error import TelegramError

from stablediff.errors import StableDiffError
from stablediff.generate import generate
from stablediff.images import open_image, save_png
from stablediff.refusals import translate
from stablediff.result import Result, Update
from stablediff.telegram import keyboards
from stablediff.telegram.desk import Desk, log
from stablediff.telegram.disk import is_full
from stablediff.telegram.forms import as_glimpse
from stablediff.telegram.outgoing import edit
from stablediff.telegram.pacing import Lane
from stablediff.telegram.record import from_record
from stablediff.telegram.status import say_in
from stablediff.telegram.store import Job
from stablediff.telegram.texts import text
from stablediff.telegram.wishes import in_queue

MOST_ATTEMPTS = 3
PREVIEWS = 8
_PAUSE = 3.0  # seconds
_TOLD = 10  # of those who wait, so that telling them is no burden


@dataclass
class Progress:
    """How far one job is: set in the thread, told from the loop."""

    update: Update | None = None
    preview: Image.Image | None = None  # one that was not shown yet
    finished: asyncio.Event = field(default_factory=asyncio.Event)


class Worker:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="draw")

    async def run(self) -> None:
        desk = self.desk
        told: set[int] = set()  # the jobs whose owners know that the disk is full
        while not self.stopping:
            job_id = desk.queue.take()
            if job_id is None:
                desk.wake_worker.clear()
                await desk.wake_worker.wait()
                continue
            job = desk.store.job(job_id)
            if job is None or job.state != "queued":
                continue
            desk.drawing, broken = job_id, False
            try:
                await self._draw(job)
            except Exception as error:  # the store itself, most likely: its disk is full
                log.exception("job %d waits for another turn", job_id)
                broken = True
                if is_full(error) and job_id not in told:
                    told |= {job_id} if await self._say_no_room(job) else set()
            finally:
                desk.drawing = None
                desk.cancelled.discard(job_id)
                desk.wake_courier.set()
            if broken:
                desk.queue.put(job.user_id, job_id)
                await asyncio.sleep(_PAUSE)
            else:
                told.discard(job_id)

    async def stop(self) -> None:
        """Ends within a step. The job stays queued for the next start."""
        self.stopping = True
        self.desk.wake_worker.set()
        await asyncio.to_thread(self._thread.shutdown)
        for report in self.desk.reporting.values():
            report.cancel()
        await asyncio.gather(*self.desk.reporting.values(), return_exceptions=True)

    async def _draw(self, job: Job) -> None:
        store = self.desk.store
        if job.attempts >= MOST_ATTEMPTS:
            store.close_job(job.id, text(job.language, "gave up", count=job.attempts))
            return
        # Counted beforehand, for a job at which the program dies; a stop in between is no attempt.
        store.set_job(job.id, attempts=job.attempts + 1)
        closed = False
        try:
            result, note = await self._draw_in_thread(job)
            if not (self.stopping and note is None and (result is None or result.stopped)):
                closed = await self._close(job, result, note)
        finally:
            if not closed and self.stopping:
                store.set_job(job.id, attempts=job.attempts)

    async def _draw_in_thread(self, job: Job) -> tuple[Result | None, str | None]:
        """-> what was finished, and what to say of what went wrong. It is told how far it is meanwhile."""
        progress, before = Progress(), self.desk.reporting.get(job.id)
        self.desk.reporting[job.id] = asyncio.create_task(self._report(job, progress, before))
        try:
            result, failure = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._generate, job, progress
            )
        except Exception:
            code = secrets.token_hex(4)
            log.exception("error %s, job %d", code, job.id)
            return None, text(job.language, "broken", code=code)
        finally:
            progress.finished.set()  # the last report may still be on its way: the courier waits for it
        if failure is None:
            return result, None
        return result, text(job.language, "failed", reason=translate(self.desk.hide(str(failure)), job.language))

    def _generate(self, job: Job, progress: Progress) -> tuple[Result | None, StableDiffError | None]:
        """In the thread. -> what was finished, and what went wrong."""
        store, record = self.desk.store, job.request
        result: Result | None = None
        # Only one picture takes the place of its glimpses: albums and stickers come in messages of their own.
        every = max(1, record["num_steps"] // PREVIEWS) if job.kind == "picture" and record["num_images"] == 1 else 0
        try:
            init = open_image(store.input_file(record["init"])) if record["init"] else None
            request = from_record(record, init, preview_every=every)
            for event in generate(self.desk.pipeline, request, lambda: self.stopping or job.id in self.desk.cancelled):
                if isinstance(event, Update):
                    progress.update = event
                    progress.preview = event.previews[0] if event.previews else progress.preview
                else:
                    result = event
        except StableDiffError as error:
            return result, error
        return result, None

    async def _close(self, job: Job, result: Result | None, note: str | None) -> bool:
        """Writes down what became of it. While the disk is full, the user is told, and it is tried again and again.

        -> False if the bot was stopped before it could be.
        """
        store, told = self.desk.store, False
        while store.job(job.id) is not None:  # else its owner has erased everything
            try:
                await self._note(job, result, note)
                return True
            except (OSError, sqlite3.Error) as error:
                log.error("job %d: its pictures cannot be kept: %s", job.id, error)
            told = told or await self._say_no_room(job)
            await asyncio.sleep(_PAUSE)
            if self.stopping:
                return False
            if job.id in self.desk.cancelled:
                result = None
        return True

    async def _note(self, job: Job, result: Result | None, note: str | None) -> None:
        store, language = self.desk.store, job.language
        images = result.images if result else ()
        if result is None or not images:
            store.close_job(job.id, note or text(language, "cancelled"))
            return
        for index, image in enumerate(images):
            file = store.picture_file(job.id, index)
            await asyncio.to_thread(save_png, image, file, result.parameters(index))
            if store.job(job.id) is None:  # its owner has erased everything in this very moment
                file.unlink(missing_ok=True)
                return
        notes = [translate(remark, language) for remark in result.notes] + ([note] if note else [])
        if result.stopped and note is None:
            notes.append(text(language, "stopped", done=len(images), count=job.request["num_images"]))
        store.drop_pictures_from(job.id, len(images))
        store.set_job(job.id, state="drawn", note="\n".join(notes) or None)

    async def _say_no_room(self, job: Job) -> bool:
        """-> whether the user was told."""
        current = self.desk.store.job(job.id)
        if current is None or current.status_id is None:
            return False
        words, markup = text(job.language, "no room"), keyboards.cancel(job.language, job.id)
        message = current.status_id
        try:
            await edit(lambda: say_in(self.desk, job, message, words, markup, Lane.DELIVERY), patience=60)
        except TelegramError as error:
            log.info("job %d: that the disk is full was not told: %s", job.id, error)
            return False
        return True

    async def tell_places(self) -> None:
        """Those who wait see, from time to time, that they come nearer. What cannot be said now is not said later."""
        desk = self.desk
        while True:
            await asyncio.sleep(desk.options.progress_seconds)
            order = list(desk.queue.order())
            desk.places = {job: desk.places.get(job, 0) for job in order}
            for place, job in enumerate(order[:_TOLD], 1):
                if desk.places[job] != place and job not in desk.acknowledging and job not in desk.reporting:
                    desk.places[job] = place
                    desk.reporting[job] = asyncio.create_task(self._tell_place(job, place))

    async def _tell_place(self, job_id: int, place: int) -> None:
        try:
            job = self.desk.store.job(job_id)
            if job is not None and job.status_id is not None:
                words, markup = (
                    in_queue(job.language, place, job.request["prompt"]),
                    keyboards.cancel(job.language, job_id),
                )
                await say_in(self.desk, job, job.status_id, words, markup, Lane.PROGRESS)
        except (TelegramError, sqlite3.Error) as error:
            log.info("job %d: its place was not told: %s", job_id, error)
        finally:
            if self.desk.reporting.get(job_id) is asyncio.current_task():
                del self.desk.reporting[job_id]

    async def _report(self, job: Job, progress: Progress, before: asyncio.Task[None] | None) -> None:
        """Says from time to time how far it is. What cannot be said now is not said later. `before`: another report."""
        if before is not None:
            await asyncio.wait([before])
        options = self.desk.options
        seconds = options.progress_seconds if job.chat_id == job.user_id else options.group_progress_seconds
        said = None
        while True:
            try:
                await asyncio.wait_for(progress.finished.wait(), seconds)
                return
            except TimeoutError:
                update, current = progress.update, self.desk.store.job(job.id)
            if update is None or current is None or current.status_id is None:
                continue
            left = update.seconds_left
            words = text(
                job.language,
                "drawing",
                step=update.step,
                total=update.total,
                left=text(job.language, "seconds left", seconds=f"{left:.0f}") if left and left >= 1 else "",
            )
            if words == said:
                continue
            preview, progress.preview = progress.preview, None
            try:
                await self._show(job, current.status_id, words, preview)
                said = words
            except TelegramError as error:
                progress.preview = progress.preview or preview  # it was in nobody's sight yet
                log.info("job %d: progress was not told: %s", job.id, error)

    async def _show(self, job: Job, message: int, words: str, preview: Image.Image | None) -> None:
        bot, markup = self.desk.bot, keyboards.cancel(job.language, job.id)
        if preview is None:
            await say_in(self.desk, job, message, words, markup, Lane.PROGRESS)
            return
        media = InputMediaPhoto(await asyncio.to_thread(as_glimpse, preview), caption=words)
        await bot.edit_message_media(media, job.chat_id, message, reply_markup=markup, rate_limit_args=Lane.PROGRESS)
        self.desk.glimpsed.add(job.id)
