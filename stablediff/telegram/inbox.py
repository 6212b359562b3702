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
MOST_UNHEARD = 100  # messages of one user


class Inbox(asyncio.Queue[object]):
    """The queue between Telegram and the handlers. What comes twice is heard once.

    `at_once`: to be put here is to be acknowledged, so it has to be on the disk then. A webhook is like that; polling
    acknowledges many together, with its next call.
    """

    def __init__(self, store: Store, *, at_once: bool) -> None:
        super().__init__()
        self._store, self._at_once = store, at_once

    async def put(self, item: object) -> None:
        if isinstance(item, Update):
            try:
                if not self._store.keep_update(item.update_id, item.to_json()):
                    return
                if self._at_once:
                    await self._store.settle()
            except sqlite3.Error:  # the disk is full: better answered and not kept than neither
                log.exception("update %d cannot be kept", item.update_id)
            except TypeError:  # of what the library can read, it cannot write everything down, as a pin out of sight
                log.warning("update %d is of a kind that cannot be kept", item.update_id)
        await super().put(item)

    async def put_again(self, update: Update) -> None:
        """One that is written down already, at a start."""
        await super().put(update)


class InOrder(BaseUpdateProcessor):
    """Users do not wait for each other; what one user sends is answered in its order.

    Whoever sends more than can be answered is not listened to for the moment.
    """

    __slots__ = ("_locks", "_store", "_unheard")

    def __init__(self, store: Store) -> None:
        super().__init__(AT_ONCE)
        self._store = store
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._unheard: Counter[int] = Counter()

    async def do_process_update(self, update: object, coroutine: Awaitable[Any]) -> None:
        person = update.effective_user if isinstance(update, Update) else None
        user = person.id if person else 0
        if self._unheard[user] < MOST_UNHEARD:
            await self._in_turn(user, coroutine)
        else:
            log.info("a user sends too much at once")
            if isinstance(coroutine, Coroutine):
                coroutine.close()
        if isinstance(update, Update):
            try:
                self._store.update_done(update.update_id)
            except sqlite3.Error:
                log.exception("update %d cannot be struck out", update.update_id)

    async def _in_turn(self, user: int, coroutine: Awaitable[Any]) -> None:
        self._unheard[user] += 1
        try:
            async with self._locks.setdefault(user, asyncio.Lock()):
                await coroutine
        finally:
            self._unheard[user] -= 1
            if not self._unheard[user]:
                del self._unheard[user]

    async def initialize(self) -> None:
        pass

    async def shutdown(self) -> None:
        pass
