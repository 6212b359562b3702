"""/privacy, and /delete, which leaves nothing behind."""

from telegram.error import BadRequest

from stablediff.telegram import keyboards, packs
from stablediff.telegram.desk import Desk, Talk
from stablediff.telegram.outgoing import edit


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
        forget(talk.desk, talk.user.id)
    await talk.toast()
    words = talk.text("deleted" if answer == "yes" else "kept")
    try:
        await edit(lambda: query.edit_message_text(words), patience=60)
    except BadRequest:  # the question itself is gone
        await talk.reply(words)


def forget(desk: Desk, user: int) -> None:
    """Waiting wishes, the one that is being drawn, rows and files."""
    jobs = desk.store.jobs_in("queued", user=user)
    desk.store.forget(user)  # first, because it may fail
    for job in jobs:
        desk.reporting.pop(job.id, None)
        if desk.drawing == job.id:
            desk.cancelled.add(job.id)
        desk.queue.remove(job.id)
