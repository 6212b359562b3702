"""What only the operator may ask."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from stablediff.telegram.desk import Talk
from stablediff.telegram.texts import text


async def stats(talk: Talk, _rest: str) -> None:
    if not talk.is_admin:
        await talk.say("unknown command")
        return
    desk = talk.desk
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    size = await asyncio.to_thread(_size, desk.store.folder)
    await talk.say(
        "stats",
        users=desk.store.count_users(),
        jobs=desk.store.count_jobs(),
        today=desk.store.count_jobs(midnight),
        waiting=len(desk.queue),
        drawing=int(desk.drawing is not None),
        megabytes=f"{size / 10**6:.1f}",
    )


def _size(folder: Path) -> int:
    """Bytes. Files that go meanwhile do not count."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            size += file.stat().st_size
    return size


async def ban(talk: Talk, rest: str) -> None:
    """By number, or by an answer to one of their messages. What they have waiting is cancelled."""
    if not talk.is_admin:
        await talk.say("unknown command")
        return
    answered = talk.message.reply_to_message if talk.message else None
    user = int(rest) if rest.isdecimal() and len(rest) < 18 else None
    if user is None and answered is not None and answered.from_user is not None:
        user = answered.from_user.id
    if not user:
        await talk.say("ban how")
        return
    if user == talk.desk.bot.id or user in talk.desk.options.admins:
        await talk.say("ban not")
        return
    store = talk.desk.store
    banned = not store.is_banned(user)
    store.set_ban(user, banned=banned)
    store.update_done(talk.update.update_id)  # heard again after a stop, it would lift the ban
    for job in store.jobs_in("queued", user=user) if banned else []:
        talk.desk.cancel(job)
    await talk.reply(text(talk.language, "ban on" if banned else "ban off", user=user))
