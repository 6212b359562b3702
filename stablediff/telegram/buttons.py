"""What happens when a button is pressed. Whoever presses it must own the job; anybody can send any data."""

import asyncio
import io

from PIL import Image
from telegram.error import BadRequest

from stablediff.errors import RequestError
from stablediff.images import open_image
from stablediff.request import UPSCALE_STRENGTH, VARIATION_STRENGTH, ResolvedRequest
from stablediff.telegram import erase, settings
from stablediff.telegram.delivery import command_of, under_album
from stablediff.telegram.desk import Talk
from stablediff.telegram.outgoing import again, edit
from stablediff.telegram.record import from_record, resolve
from stablediff.telegram.store import Job, Picture
from stablediff.telegram.texts import text
from stablediff.telegram.wishes import ask_for_delivery, enqueue

VARIATIONS = 3
_DELIVERIES = {"f": "file", "p": "pack", "h": "photo"}


async def on_button(talk: Talk) -> None:
    action, *rest = (talk.query.data or "" if talk.query else "").split(":")
    if action == "s" and not rest:
        if talk.is_private:
            await talk.toast()
            await settings.show(talk)
        else:
            await talk.toast("in private", username=talk.desk.bot.username)
    elif action == "s" and len(rest) in (1, 2):
        await settings.press(talk, rest[0], rest[1] if len(rest) == 2 else None)
    elif action == "d" and len(rest) == 2:
        await erase.press(talk, *rest)
    elif action == "x" and len(rest) == 1:
        await _cancel(talk, rest[0])
    elif action in {"a", "v", "u", "c", "n", "r", *_DELIVERIES} and len(rest) == 2:
        await _picture_button(talk, action, *rest)
    else:
        await talk.toast("unknown button")


async def _own_job(talk: Talk, number: str, *, gone: str, foreign: str = "not yours") -> Job | None:
    """None, and the owner of the finger is told why, if it is somebody else's or no longer there."""
    job = talk.desk.store.job(int(number)) if number.isdecimal() and len(number) < 18 else None
    if job is not None and job.user_id == talk.user.id:
        return job
    await talk.toast(gone if job is None else foreign)
    return None


async def _cancel(talk: Talk, number: str) -> None:
    job = await _own_job(talk, number, gone="too late")
    if job is None:
        return
    if talk.desk.cancel(job):
        await talk.toast()
    else:
        await talk.toast("too late")


async def _picture_button(talk: Talk, action: str, job_number: str, picture_number: str) -> None:
    job = await _own_job(talk, job_number, gone="gone", foreign="not your picture")
    if job is None:
        return
    if job.kind not in ("picture", "sticker"):
        await talk.toast("gone")
        return
    number = int(picture_number) if picture_number.isdecimal() and len(picture_number) < 4 else -1
    pictures = talk.desk.store.pictures(job.id)
    if not 0 <= number < len(pictures) or job.state not in ("drawn", "done"):
        await talk.toast("gone")
        return
    await talk.toast()
    seed = pictures[number].seed
    if action == "c":
        if job.request["init"]:
            await talk.say("command note")
        await _send_command(talk, command_of(talk.desk, job, seed))
    elif action == "n":
        await _choose(talk, job, pictures, number)
    elif action == "r":
        unsure = [picture for picture in pictures if picture.state == "unsure"]
        if unsure:  # and not pressed before
            for picture in unsure:
                talk.desk.store.set_picture(job.id, picture.number, state="waiting")
            talk.desk.store.set_job(job.id, state="drawn")
            talk.desk.wake_courier.set()
    elif action in _DELIVERIES:
        await ask_for_delivery(talk, _DELIVERIES[action], job, number)
    else:
        await _draw_more(talk, action, job, number)


async def _choose(talk: Talk, job: Job, pictures: list[Picture], number: int) -> None:
    query = talk.query
    if query is not None and len(pictures) > 1:
        _, markup = under_album(talk.desk, job, pictures, number)
        await edit(lambda: query.edit_message_reply_markup(markup), patience=60)


async def _draw_more(talk: Talk, action: str, job: Job, number: int) -> None:
    store = talk.desk.store
    file = store.input_file(job.request["init"]) if job.request["init"] else None
    if action != "a":
        file = store.picture_file(job.id, number)
    try:
        picture = await asyncio.to_thread(open_image, file) if file is not None else None
        request = _changed(talk, action, job, picture)
    except RequestError as error:
        if file is not None and not file.is_file():
            await talk.say("gone")
        else:
            await talk.refuse(error)
        return
    await enqueue(talk, request, job.kind)


def _changed(talk: Talk, action: str, job: Job, picture: Image.Image | None) -> ResolvedRequest:
    """Again is the same with another seed; variations and the enlargement start from the picture itself."""
    changes: dict[str, object] = {"seed": None, "num_images": 1}
    if action == "v":
        number = min(VARIATIONS, talk.desk.limits.max_images)
        changes |= {"num_images": number, "strength": VARIATION_STRENGTH}
    elif action == "u":
        changes |= {"strength": UPSCALE_STRENGTH}
        changes |= {side: 2 * job.request[side] for side in ("width", "height")}
    request = resolve(talk.desk.pipeline, from_record(job.request, picture, **changes))
    talk.desk.limits.check(request)
    return request


async def _send_command(talk: Talk, command: str) -> None:
    message = talk.message
    if message is None:
        return
    if len(command.encode("utf-16-le")) <= 2 * 4096:
        await talk.reply(command)
        return
    try:  # longer than a message: as a file
        document = io.BytesIO(command.encode())
        bot = talk.desk.bot
        chat = message.chat.id
        thread = message.message_thread_id if message.is_topic_message else None
        await again(
            lambda: bot.send_document(chat, document.getvalue(), filename="command.txt", message_thread_id=thread),
            harmless=False,
        )
    except BadRequest as error:
        await talk.reply(text(talk.language, "not taken", reason=talk.desk.hide(error.message)))
