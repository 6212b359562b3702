"""Sees to it that finished pictures, and bad news, reach their chats, whatever fails on the way."""

import asyncio
import itertools
import secrets
import sqlite3
from contextlib import AbstractAsyncContextManager, nullcontext
from weakref import WeakValueDictionary

from telegram.error import BadRequest, ChatMigrated, Forbidden, NetworkError, RetryAfter

from stablediff.telegram.delivery import Delivery
from stablediff.telegram.desk import Desk, log
from stablediff.telegram.outgoing import pause_after
from stablediff.telegram.packs import OutOfTurnError
from stablediff.telegram.status import Status
from stablediff.telegram.store import ErasedError, Job
from stablediff.telegram.texts import text

AT_ONCE = 64  # chats: those that Telegram holds up keep their places
_PAUSE = 3.0  # seconds


class Courier:
    """A chat gets its things one after another, so that one that Telegram holds up does not hold up the others."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        desk.erased = self._drop
        self._busy: dict[int, tuple[int, asyncio.Task[None]]] = {}  # job -> its user, and who brings it
        self._lanes = asyncio.Semaphore(AT_ONCE)
        self._chats: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def run(self) -> None:
        while True:
            self.desk.wake_courier.clear()
            try:
                for job in self.desk.store.jobs_in("drawn", "telling"):
                    if job.id not in self._busy:
                        self._busy[job.id] = job.user_id, asyncio.create_task(self._deliver(job))
            except sqlite3.Error:
                log.exception("what is to be delivered cannot be read")
                self._wake_later()
            await self.desk.wake_courier.wait()

    async def stop(self, grace: float = 5.0) -> None:
        """What is not delivered by then goes on at the next start."""
        tasks = [task for _, task in self._busy.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()

    async def _deliver(self, job: Job) -> None:
        store = self.desk.store
        try:
            async with self._turn_of(job):
                if arrived := self.desk.acknowledging.get(job.id):
                    await arrived.wait()
                if reports := self.desk.reporting.pop(job.id, None):
                    await asyncio.wait([reports])  # so that no late report hides the picture
                for times in itertools.count():
                    error = await self._try(job.id)
                    if error is None:
                        break
                    await pause_after(error, times)  # out of the lane, which others may have meanwhile
        except ChatMigrated as error:
            store.move_chat(job.chat_id, error.new_chat_id)
            asyncio.get_running_loop().call_soon(self.desk.wake_courier.set)  # when it is no longer busy
        except Forbidden as error:  # the bot was thrown out
            log.warning("job %d cannot be delivered: %s", job.id, error)
            self._close(job.id, None)
        except BadRequest as error:  # the chat is gone, or Telegram does not like what it gets
            log.warning("job %d was not taken: %s", job.id, error)
            self._close(job.id, text(job.language, "not taken", reason=self.desk.hide(error.message)))
        except OutOfTurnError:  # this chat is free meanwhile, for the one that is waited for may be in it
            self._wake_later()
        except ErasedError:
            log.info("job %d was erased on its way", job.id)
        except sqlite3.Error:  # the disk is full, perhaps: what is not noted is brought again, by the same edit
            log.exception("job %d waits for another turn", job.id)
            self._wake_later()
        except Exception:
            code = secrets.token_hex(4)
            log.exception("error %s, job %d", code, job.id)
            self._close(job.id, text(job.language, "broken", code=code))
        finally:
            self._busy.pop(job.id, None)
            self.desk.glimpsed.discard(job.id)

    def _turn_of(self, job: Job) -> AbstractAsyncContextManager[object]:
        """The chat's. Packs are no part of a chat: pictures need not wait for one."""
        return nullcontext() if job.kind == "pack" else self._chats.setdefault(job.chat_id, asyncio.Lock())

    async def _try(self, job_id: int) -> RetryAfter | NetworkError | None:
        """-> why it takes longer than anybody may wait in a lane."""
        async with self._lanes:
            job = self.desk.store.job(job_id)
            try:
                if job is not None:
                    await self._hand_over(job)
            except BadRequest:
                raise
            except (RetryAfter, NetworkError) as error:
                return error
        return None

    def _drop(self, user: int) -> None:
        """What was on its way to somebody who has erased everything stays here."""
        for owner, task in self._busy.values():
            if owner == user:
                task.cancel()

    def _close(self, job_id: int, note: str | None) -> None:
        """It is given up; the note is told, if that was not what failed."""
        store = self.desk.store
        try:
            job = store.job(job_id)
            if job is None:  # erased while it was on its way
                return
            if note is None or job.state == "telling":
                store.set_job(job_id, state="closed")
                return
            store.close_job(job_id, note)
            asyncio.get_running_loop().call_soon(self.desk.wake_courier.set)
        except sqlite3.Error:
            log.exception("job %d waits for another turn", job_id)
            self._wake_later()

    def _wake_later(self) -> None:
        asyncio.get_running_loop().call_later(_PAUSE, self.desk.wake_courier.set)

    async def _hand_over(self, job: Job) -> None:
        await self.desk.store.settle()  # so that no picture comes before the number of its message is on the disk
        if job.state == "telling":
            await Status(self.desk, job).tell(job.note or "")
            self.desk.store.set_job(job.id, state="closed")
        elif job.state == "drawn":
            if await Delivery(self.desk, job).bring():
                self.desk.store.set_job(job.id, state="done")
            else:
                asyncio.get_running_loop().call_soon(self.desk.wake_courier.set)  # when it is no longer busy
