"""Sticker packs at Telegram. A call whose answer was lost is not repeated before the set has been read again."""

import asyncio
import secrets
from collections.abc import Awaitable
from weakref import WeakValueDictionary

from telegram import InputSticker
from telegram.error import BadRequest, NetworkError, RetryAfter

from stablediff.telegram.desk import Desk
from stablediff.telegram.emoji import emoji
from stablediff.telegram.outgoing import surely_not_done
from stablediff.telegram.store import ErasedError, Job, Pack
from stablediff.telegram.texts import shorten

_NEW, _MADE, _UNKNOWN = 0, 1, 2
_IN = "in"  # what is noted of a sticker that is there
_one_at_a_time: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
_MOST_PACKS = 5  # to try for one sticker
_SLOW = 60.0  # seconds that a call may take: what is done after we have given up would be done twice


class OutOfTurnError(Exception):
    """Another sticker is on its way, or nobody knows yet whether it is in: two could not be told apart."""


def link(name: str) -> str:
    return f"https://t.me/addstickers/{name}"


async def add(desk: Desk, job: Job, data: bytes) -> str:
    """Puts a sticker into the user's newest pack, or into a new one. -> the pack's link.

    Raises BadRequest, ErasedError if nobody wants it any more, and RetryAfter, NetworkError and OutOfTurnError if it is
    to be called again later: the job's note says how far it came.
    """
    sticker = InputSticker(data, [emoji(job.request["prompt"])], "static")
    turn = _one_at_a_time.setdefault(job.user_id, asyncio.Lock())  # from whatever chats they come
    if turn.locked():
        raise OutOfTurnError
    async with turn:
        unsure = [other.id for other in desk.store.jobs_in("drawn", user=job.user_id) if _is_unsure(other)]
        if unsure and job.id != unsure[0]:
            raise OutOfTurnError
        return await _add(desk, job, sticker)


async def _add(desk: Desk, job: Job, sticker: InputSticker) -> str:
    for _ in range(_MOST_PACKS):
        name, before = _noted(desk, job)
        if before == _IN:
            return link(name)
        packs = desk.store.packs(job.user_id)
        pack = next((pack for pack in reversed(packs) if pack.name == name or (not name and not pack.full)), None)
        if pack is None:
            start(desk, job.user_id, job.request["title"])
            desk.store.set_job(job.id, note=None)
            continue
        if pack.made == _NEW and not pack.name.endswith(_ending(desk)):  # the bot was renamed meanwhile
            start(desk, job.user_id, pack.title)
            continue
        try:
            if pack.made == _NEW or (pack.made == _UNKNOWN and await _size(desk, pack.name) is None):
                await _make(desk, job, pack, sticker)
            else:
                await _grow(desk, job, pack, sticker)
            desk.store.set_pack(pack.name, made=_MADE)
            desk.store.set_job(job.id, note=f"{pack.name}:{_IN}")
            return link(pack.name)
        except BadRequest as error:
            _noted(desk, job)  # whether it is still wanted
            reason = error.message.lower()
            if "occupied" in reason and name == pack.name:  # by the attempt whose answer was lost
                desk.store.set_pack(pack.name, made=_MADE)
                continue
            desk.store.set_job(job.id, note=None)
            if "stickers_too_much" in reason:
                desk.store.set_pack(pack.name, full=1)
            elif "stickerset_invalid" in reason or "occupied" in reason:
                desk.store.drop_pack(pack.name)  # its owner has deleted it, or it is somebody else's
                start(desk, job.user_id, pack.title)
            else:
                if pack.made != _MADE:
                    desk.store.set_pack(pack.name, made=_NEW)
                raise
    raise BadRequest("no pack takes it")


def _attempt(job: Job) -> tuple[str, str]:
    """The pack of an attempt whose end nobody saw, and how many stickers it had before. Two empty words if none was."""
    name, _, before = (job.note or "").partition(":")
    return name, before


def _is_unsure(job: Job) -> bool:
    """Whether nobody knows yet if it is in."""
    return job.kind == "pack" and _attempt(job)[1] not in ("", _IN)


def _noted(desk: Desk, job: Job) -> tuple[str, str]:
    """The attempt as it is noted now.

    Raises ErasedError if nobody wants it any more: whoever has erased everything must not get a new pack noted.
    """
    now = desk.store.job(job.id)
    if now is None:
        raise ErasedError
    return _attempt(now)


def start(desk: Desk, user: int, title: str) -> None:
    """The next sticker goes into a new pack of this title."""
    for pack in desk.store.packs(user):
        if pack.made == _NEW:
            desk.store.drop_pack(pack.name)
    desk.store.add_pack(f"s{secrets.token_hex(6)}{_ending(desk)}", user, shorten(title, 64))


def _ending(desk: Desk) -> str:
    """What Telegram wants of the names of a bot's sets."""
    return f"_by_{desk.bot.username}"


async def _make(desk: Desk, job: Job, pack: Pack, sticker: InputSticker) -> None:
    desk.store.set_pack(pack.name, made=_UNKNOWN)
    desk.store.set_job(job.id, note=f"{pack.name}:0")
    bot = desk.bot
    await _try(
        desk, job, bot.create_new_sticker_set(pack.user_id, pack.name, pack.title, [sticker], read_timeout=_SLOW)
    )


async def _grow(desk: Desk, job: Job, pack: Pack, sticker: InputSticker) -> None:
    """The number of stickers before each attempt is noted: if it is larger later, the attempt has worked."""
    size = await _size(desk, pack.name) or 0
    name, before = _noted(desk, job)
    if name and size > int(before):
        return
    desk.store.set_job(job.id, note=f"{pack.name}:{size}")
    await _try(desk, job, desk.bot.add_sticker_to_set(pack.user_id, pack.name, sticker, read_timeout=_SLOW))


async def _try(desk: Desk, job: Job, call: Awaitable[bool]) -> None:
    """What was surely not done is no longer noted as an attempt."""
    try:
        await call
    except (RetryAfter, NetworkError) as error:
        if surely_not_done(error) and not isinstance(error, BadRequest):
            desk.store.set_job(job.id, note=None)
        raise


async def _size(desk: Desk, name: str) -> int | None:
    """None if there is no such set."""
    try:
        return len((await desk.bot.get_sticker_set(name)).stickers)
    except BadRequest as error:
        if "stickerset_invalid" in error.message.lower():
            return None
        raise
