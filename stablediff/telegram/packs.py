"""Sticker packs at Telegram. A call whose answer was lost is not repeated before the set has been read again."""

import asyncio
import secrets
from weakref import WeakValueDictionary

from telegram import InputSticker
from telegram.error import BadRequest, NetworkError, RetryAfter

from stablediff.telegram.desk import Desk
from stablediff.telegram.emoji import emoji
from stablediff.telegram.outgoing import PATIENCE, again, pause_after, surely_not_done
from stablediff.telegram.pacing import seconds_of
from stablediff.telegram.store import ErasedError, Job, Pack
from stablediff.telegram.texts import shorten

_NEW, _MADE, _UNKNOWN = 0, 1, 2
_one_at_a_time: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
_MOST_PACKS = 5  # to try for one sticker


def link(name: str) -> str:
    return f"https://t.me/addstickers/{name}"


async def add(desk: Desk, job: Job, data: bytes) -> str:
    """Puts a sticker into the user's newest pack, or into a new one. -> the pack's link.

    Raises BadRequest, ErasedError if nobody wants it any more, RetryAfter and NetworkError if it has to wait long.
    """
    sticker = InputSticker(data, [emoji(job.request["prompt"])], "static")
    async with _one_at_a_time.setdefault(job.user_id, asyncio.Lock()):  # from whatever chats they come
        return await _add(desk, job, sticker)


async def _add(desk: Desk, job: Job, sticker: InputSticker) -> str:
    for _ in range(_MOST_PACKS):
        _check_is_wanted(desk, job)
        pack = next((pack for pack in reversed(desk.store.packs(job.user_id)) if not pack.full), None)
        if pack is None:
            start(desk, job.user_id, job.request["title"])
            continue
        try:
            await (_grow(desk, job, pack, sticker) if pack.made == _MADE else _make(desk, job, pack, sticker))
            return link(pack.name)
        except BadRequest as error:
            _check_is_wanted(desk, job)
            reason = error.message.lower()
            if "stickers_too_much" in reason:
                desk.store.set_pack(pack.name, full=1)
            elif "stickerset_invalid" in reason or "occupied" in reason:
                desk.store.drop_pack(pack.name)  # its owner has deleted it, or it is somebody else's
                start(desk, job.user_id, pack.title)
            else:
                raise
    raise BadRequest("no pack takes it")


def _check_is_wanted(desk: Desk, job: Job) -> None:
    """Whoever has erased everything must not get a new pack noted."""
    if desk.store.job(job.id) is None:
        raise ErasedError


def start(desk: Desk, user: int, title: str) -> None:
    """The next sticker goes into a new pack of this title."""
    for pack in desk.store.packs(user):
        if pack.made == _NEW:
            desk.store.drop_pack(pack.name)
    desk.store.add_pack(f"s{secrets.token_hex(6)}_by_{desk.bot.username}", user, shorten(title, 64))


async def _make(desk: Desk, job: Job, pack: Pack, sticker: InputSticker) -> None:
    tried = pack.made == _UNKNOWN
    while not (tried and await _size(desk, pack.name) is not None):
        desk.store.set_pack(pack.name, made=_UNKNOWN)
        desk.store.set_job(job.id, note=f"{pack.name}:0")
        try:
            await desk.bot.create_new_sticker_set(pack.user_id, pack.name, pack.title, [sticker])
            break
        except (RetryAfter, NetworkError) as error:
            tried = await _pause(desk, job, error)
    desk.store.set_pack(pack.name, made=_MADE)


async def _grow(desk: Desk, job: Job, pack: Pack, sticker: InputSticker) -> None:
    """The number of stickers before each attempt is kept with the job: if it is larger later, the attempt worked."""
    name, _, before = (job.note or "").partition(":")
    tried = name == pack.name
    while True:
        size = await _size(desk, pack.name) or 0
        if tried and size > int(before):
            return
        before = str(size)
        desk.store.set_job(job.id, note=f"{pack.name}:{before}")
        try:
            await desk.bot.add_sticker_to_set(pack.user_id, pack.name, sticker)
            return
        except (RetryAfter, NetworkError) as error:
            tried = await _pause(desk, job, error)


async def _pause(desk: Desk, job: Job, error: RetryAfter | NetworkError) -> bool:
    """-> whether the attempt may have worked after all. Raises a refusal, and what asks for a long pause."""
    if surely_not_done(error):
        desk.store.set_job(job.id, note=None)  # so what comes into the pack meanwhile is not this job's
    if isinstance(error, BadRequest) or (isinstance(error, RetryAfter) and seconds_of(error) > PATIENCE):
        raise error
    await pause_after(error)
    _check_is_wanted(desk, job)
    return not surely_not_done(error)


async def _size(desk: Desk, name: str) -> int | None:
    """None if there is no such set."""
    try:
        found = await again(lambda: desk.bot.get_sticker_set(name), harmless=True, patience=PATIENCE)
        return len(found.stickers)
    except BadRequest as error:
        if "stickerset_invalid" in error.message.lower():
            return None
        raise
