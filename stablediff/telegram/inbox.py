"""Updates are written down before Telegram is told that they arrived, and struck out when they are answered."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

from telegram import Update
from telegram.ext import BaseUpdateProcessor

from stablediff.telegram.desk import log
from stablediff.telegram.store import Store

AT_ONCE = 4096  # updates: most of them only wait for their turn to be answered
MOST_UNHEARD = 40  # messages of one user
GRACE = 5.0  # seconds for those that are being answered when the bot stops


class Inbox(asyncio.Queue[object]):
    """The queue between Telegram and the handlers. What comes twice is heard once.

    Whoever sends more than can be answered is not listened to for the moment, so that others are.

    `at_once`: to be put here is to be acknowledged, so it has to be on the disk then. A webhook is like that; polling
    acknowledges many together, with its next call.
    """

    def __init__(self, store: Store, *, at_once: bool) -> None:
        super().__init__()
        self._store, self._at_once = store, at_once
        self._unheard: Counter[int] = Counter()
        self.flooding: set[int] = set()  # users who are to be told that they were not listened to
        self.closing = asyncio.Event()

    async def put(self, item: object) -> None:
        if not isinstance(item, Update):  # the library's sign that it is over
            self.closing.set()
        elif self._is_too_much(item):
            return
        else:
            try:
                if not self._store.keep_update(item.update_id, item.to_json()):
                    return
                if self._at_once:
                    await self._store.settle()
            except sqlite3.Error:  # the disk is full: better answered and not kept than neither
                log.exception("update %d cannot be kept", item.update_id)
            except TypeError:  # of what the library can read, it cannot write everything down, as a pin out of sight
                log.warning("update %d is of a kind that cannot be kept", item.update_id)
            self._unheard[_user(item)] += 1
        await super().put(item)

    async def put_again(self, update: Update) -> None:
        """One that is written down already, at a start."""
        self._unheard[_user(update)] += 1
        await super().put(update)

    def _is_too_much(self, update: Update) -> bool:
        user = _user(update)
        if self._unheard[user] < MOST_UNHEARD:
            return False
        if user not in self.flooding:
            log.info("a user sends too much at once")
            self.flooding.add(user)
        return True

    def heard(self, update: Update) -> None:
        user = _user(update)
        self._unheard[user] -= 1
        if self._unheard[user] <= 0:
            del self._unheard[user]
        try:
            self._store.update_done(update.update_id)
        except sqlite3.Error:
            log.exception("update %d cannot be struck out", update.update_id)


class InOrder(BaseUpdateProcessor):
    """Users do not wait for each other; what one user sends is answered in its order.

    When the bot stops, whoever is not answered in time is answered after the next start.
    """

    __slots__ = ("_inbox", "_locks")

    def __init__(self, inbox: Inbox) -> None:
        super().__init__(AT_ONCE)
        self._inbox = inbox
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def do_process_update(self, update: object, coroutine: Awaitable[Any]) -> None:
        if not isinstance(update, Update):
            await coroutine
            return
        answer = asyncio.ensure_future(self._in_turn(update, coroutine))
        closing = asyncio.create_task(self._inbox.closing.wait())
        try:
            await asyncio.wait((answer, closing), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await asyncio.wait([answer], timeout=GRACE)
            if not answer.done():
                answer.cancel()
                log.info("update %d is answered after the next start", update.update_id)
                return
        finally:
            closing.cancel()
        answer.result()

    async def _in_turn(self, update: Update, coroutine: Awaitable[Any]) -> None:
        try:
            async with self._locks.setdefault(_user(update), asyncio.Lock()):
                await coroutine
                self._inbox.heard(update)
        finally:
            if isinstance(coroutine, Coroutine):
                coroutine.close()  # if its turn never came

    async def initialize(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass


def _user(update: Update) -> int:
    """0 for nobody."""
    return update.effective_user.id if update.effective_user else 0
