"""A wish becomes a job: read, checked, counted, written down, and its place in the queue told."""

import asyncio
import secrets
import sqlite3
from typing import Any

from PIL import Image
from telegram import Message
from telegram.error import TelegramError

from stablediff import command
from stablediff.errors import RequestError
from stablediff.images import save_png
from stablediff.request import Request, ResolvedRequest
from stablediff.telegram import keyboards, photos, settings
from stablediff.telegram.desk import Talk, log
from stablediff.telegram.pacing import Lane
from stablediff.telegram.record import resolve, to_record
from stablediff.telegram.store import Job
from stablediff.telegram.texts import shorten, text

MOST_WAITING = 1000  # jobs of all users


async def wish(talk: Talk, words: str, picture: Message | None = None, kind: str = "picture") -> None:
    """`picture`: the message whose picture is to be changed."""
    try:
        typed = command.parse(words)
        if not typed["prompt"] and picture is None:
            name = talk.in_this_chat("sticker" if kind == "sticker" else "gen")
            await talk.say("say what", command=name, example=settings.example(talk.language, talk.desk.pipeline))
            return
        if picture is None and "strength" in typed:
            raise RequestError("--strength is for pictures that start from another: send or answer one with it")
        talk.desk.limits.check_values(typed)  # before the request names bounds of its own
        init = await photos.read(talk, picture) if picture else None
        request = Request(**{**settings.usual_fields(talk.settings, sized=init is None), **typed, "init_image": init})
        resolved = resolve(talk.desk.pipeline, request)
        talk.desk.limits.check(resolved)
    except RequestError as error:
        await talk.refuse(error)
        return
    await enqueue(talk, resolved, kind)


async def enqueue(talk: Talk, request: ResolvedRequest, kind: str) -> None:
    desk = talk.desk
    fields = to_record(request, None)
    cost = desk.cost(fields)
    if desk.store.has_heard(talk.update.update_id) or await _is_too_much(talk, cost):
        return
    if request.init_image is not None:
        fields["init"] = await _keep(talk, request.init_image)
    seeds = [request.seed + index for index in range(request.num_images)]
    job = _add(talk, kind, fields, seeds, state="queued")
    if job is None:
        return
    arrived = desk.acknowledging.setdefault(job.id, asyncio.Event())
    desk.usage.add(talk.user.id, cost)
    desk.queue.put(talk.user.id, job.id)
    place = None if desk.drawing is None and len(desk.queue) == 1 else desk.queue.place(job.id)
    desk.places[job.id] = place or 0
    desk.wake_worker.set()
    try:
        says = in_queue(talk.language, place, request.prompt)
        message = await talk.reply(says, keyboards.cancel(talk.language, job.id), Lane.PLACE)
        if message is not None:
            desk.store.set_job(job.id, status_id=message.message_id)
    except (TelegramError, sqlite3.Error) as error:  # the picture will come in a message of its own
        log.warning("job %d: its place could not be told: %s", job.id, error)
    finally:
        arrived.set()
        desk.acknowledging.pop(job.id, None)
    if talk.is_new:
        try:
            await talk.say("first")
        except TelegramError as error:  # it may have arrived, and the wish is safe in any case
            log.warning("job %d: somebody new was not greeted: %s", job.id, error)
        desk.store.set_settings(talk.user.id, talk.settings)


def in_queue(language: str, place: int | None, prompt: str) -> str:
    """`place` is 1 for the next one, None for the one that is begun at once."""
    key = "begun" if place is None else "queued"
    return text(language, key, place=place, prompt=shorten(prompt, 300))


async def ask_for_delivery(talk: Talk, kind: str, source: Job, number: int) -> None:
    """Another form of a picture that is drawn: a file, a pack's sticker, or the same again."""
    if await _is_too_much(talk, 0.0):
        return
    title = talk.text("pack title", name=shorten(talk.user.first_name, 30))
    request = {"source": [source.id, number], "title": title, "prompt": source.request["prompt"], "init": None}
    if _add(talk, kind, request, [source.request["seed"] + number], state="drawn"):
        talk.desk.wake_courier.set()


def _add(talk: Talk, kind: str, request: dict[str, Any], seeds: list[int], state: str) -> Job | None:
    message = talk.message
    if message is None:
        return None
    return talk.desk.store.add_job(
        update_id=talk.update.update_id,
        user_id=talk.user.id,
        chat_id=message.chat.id,
        thread_id=message.message_thread_id if message.is_topic_message else None,
        reply_to=None if talk.is_private else message.message_id,
        kind=kind,
        language=talk.language,
        request=request,
        seeds=seeds,
        state=state,
    )


async def _is_too_much(talk: Talk, cost: float) -> bool:
    desk, options = talk.desk, talk.desk.options
    # What goes into a pack may wait for long, and nobody can cancel it.
    waiting = sum(job.kind != "pack" for job in desk.store.jobs_in("queued", "drawn", user=talk.user.id))
    used = desk.usage.of(talk.user.id)
    if len(desk.queue) >= MOST_WAITING:
        await talk.say("full")
    elif talk.is_admin:
        return False
    elif waiting >= options.pending:
        await talk.say("too many", count=waiting)
    elif used + cost > options.daily:
        costs, daily, left = (_amount(value, talk.language) for value in (cost, options.daily, options.daily - used))
        await talk.say("quota", cost=costs, daily=daily, left=left)
    else:
        return False
    return True


def _amount(pictures: float, language: str) -> str:
    pictures = max(pictures, 0)
    written = f"{pictures:,.0f}" if pictures >= 1000 else f"{pictures:.4g}"
    return written.translate(str.maketrans(",.", "\N{NO-BREAK SPACE},")) if language == "ru" else written


async def _keep(talk: Talk, image: Image.Image) -> str:
    name = f"{secrets.token_hex(16)}.png"
    await asyncio.to_thread(save_png, image, talk.desk.store.input_file(name), "")
    return name
