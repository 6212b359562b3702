"""/privacy, and /delete, which leaves nothing behind."""

import asyncio

from telegram.error import BadRequest

from stablediff.telegram import keyboards, packs
from stablediff.telegram.desk import Desk, Talk
from stablediff.telegram.outgoing import edit
from stablediff.telegram.pacing import Lane
from stablediff.telegram.status import say_in
from stablediff.telegram.store import Job
from stablediff.telegram.texts import text


async def privacy(talk: Talk) -> None:
    await talk.say("privacy", days=f"{talk.desk.options.keep_days:g}")


async def ask(talk: Talk) -> None:
    links = [packs.link(pack.name) for pack in talk.desk.store.packs(talk.user.id) if pack.made]
    kept = talk.text("delete packs", links="\n".join(links)) if links else ""
    await talk.say("delete?", keyboards.delete(talk.language, talk.user.id), packs=kept)


async def press(talk: Talk, user: str, answer: str) -> None:
    query = talk.query
    if query is None or user != str(talk.user.id) or answer not in ("yes", "no"):
        await talk.toast("not yours")
        return
    if answer == "yes":
        talk.desk.store.update_done(talk.update.update_id)  # this very button press is a trace, too
        waiting = forget(talk.desk, talk.user.id)
        await asyncio.gather(*(_close(talk.desk, job) for job in waiting), return_exceptions=True)
    await talk.toast()
    words = talk.text("deleted" if answer == "yes" else "kept")
    try:
        await edit(lambda: query.edit_message_text(words), patience=60)
    except BadRequest:  # the question itself is gone
        await talk.reply(words)


async def _close(desk: Desk, job: Job) -> None:
    """Its message no longer promises a picture."""
    if job.status_id is not None:
        await say_in(desk, job, job.status_id, text(job.language, "cancelled"), None, Lane.ANSWER)


def forget(desk: Desk, user: int) -> list[Job]:
    """Waiting wishes, the one that is being drawn, rows and files. -> what was waiting."""
    jobs = desk.store.jobs_in("queued", user=user)
    desk.store.forget(user)  # first, because it may fail
    for job in jobs:
        desk.reporting.pop(job.id, None)
        if desk.drawing == job.id:
            desk.cancelled.add(job.id)
        desk.queue.remove(job.id)
    desk.erased(user)
    return jobs
