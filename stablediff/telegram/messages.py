"""Commands, plain words and photos."""

import re
from collections.abc import Awaitable, Callable

from telegram import Message

from stablediff.telegram import admin, erase, keyboards, packs, photos, settings
from stablediff.telegram.desk import Talk
from stablediff.telegram.texts import shorten
from stablediff.telegram.wishes import wish

_COMMAND = re.compile(r"/(\w{1,32})(?:@(\w+))?(?:\s+|$)")
_SHOWN = 10  # pictures of the history


async def on_message(talk: Talk) -> None:
    message = talk.message
    if message is None:
        return
    words = (message.text or message.caption or "").strip()
    command = _COMMAND.match(words)
    username = talk.desk.bot.username
    if command and (command[2] or "").lower() not in ("", username.lower()):
        return  # another bot's
    if talk.is_private:
        await _listen(talk, message, words, command)
        return
    mention = re.compile(rf"@{username}\b", re.IGNORECASE)
    answered = message.reply_to_message
    is_answer = answered is not None and answered.from_user is not None and answered.from_user.id == talk.desk.bot.id
    if not (is_answer or (command[2] if command else mention.search(words))):
        return  # people talking with each other, or with another bot
    allowed = talk.desk.options.groups
    if allowed and message.chat.id not in allowed:
        await talk.say("group not listed", chat=message.chat.id)
        return
    if talk.is_anonymous:
        await talk.say("anonymous")
        return
    await _listen(talk, message, words if command else mention.sub("", words).strip(), command)


async def _listen(talk: Talk, message: Message, words: str, command: re.Match[str] | None) -> None:
    name = command[1].lower() if command else None
    rest = words[command.end() :] if command else words
    if name is None or name in ("gen", "sticker"):
        await _draw(talk, message, rest, name)
    elif name in _COMMANDS:
        private_only, answer = _COMMANDS[name]
        if private_only and not talk.is_private:
            await talk.say("in private", username=talk.desk.bot.username)
        else:
            await answer(talk, rest)
    else:
        await talk.say("unknown command")


async def _draw(talk: Talk, message: Message, words: str, command: str | None) -> None:
    picture = message if photos.has_file(message) else None
    answered = message.reply_to_message
    if (command or (words and talk.is_private)) and picture is None and photos.has_file(answered):
        picture = answered
    kind = "sticker" if command == "sticker" else "picture"
    if message.media_group_id is not None and words:
        talk.desk.is_new_album(talk.user.id, message.media_group_id)  # whose other photos are not spoken of
    if picture is message and not words:
        document = message.document
        if message.media_group_id is None or talk.desk.is_new_album(talk.user.id, message.media_group_id):
            readable = document is None or photos.is_picture(document)
            if readable:
                await talk.say("photo needs caption")
            else:
                await talk.say("refused", reason=talk.text("not a picture"))
    elif command or words:
        await wish(talk, words, picture, kind)
    elif talk.is_private:  # a voice message, a place, somebody else's sticker
        await talk.say("not for me")
    else:
        await talk.say(
            "say what", command=talk.in_this_chat("gen"), example=settings.example(talk.language, talk.desk.pipeline)
        )


async def _start(talk: Talk, _rest: str) -> None:
    pipeline = talk.desk.pipeline
    example = settings.example(talk.language, pipeline)
    example = example if talk.is_private else f"/{talk.in_this_chat('gen')} {example}"
    hello = talk.text("hello", model=pipeline.name, example=example)
    await talk.reply(hello + (talk.text("english only") if settings.is_foreign(talk.language, pipeline) else ""))
    talk.desk.store.set_settings(talk.user.id, talk.settings)


async def _help(talk: Talk, _rest: str) -> None:
    pipeline = talk.desk.pipeline
    names = {"gen": talk.in_this_chat("gen"), "username": talk.desk.bot.username}
    words = talk.text("help", example=settings.example(talk.language, pipeline), **names)
    await talk.reply(words + (talk.text("english only") if settings.is_foreign(talk.language, pipeline) else ""))


async def _settings(talk: Talk, _rest: str) -> None:
    await settings.show(talk)


async def _queue(talk: Talk, _rest: str) -> None:
    desk = talk.desk
    mine = {job.id: job for job in desk.store.jobs_in("queued", user=talk.user.id)}
    lines = [talk.text("queue line", place=place, prompt=_line(mine[job].request["prompt"]))
             for place, job in enumerate(desk.queue.order(), 1) if job in mine]  # fmt: skip
    if desk.drawing in mine:
        lines.insert(0, talk.text("queue now", prompt=_line(mine[desk.drawing].request["prompt"])))
    if not lines:
        await talk.say("empty queue")
        return
    await talk.reply("\n".join([talk.text("queue", count=len(desk.queue) + (desk.drawing is not None)), *lines]))


async def _cancel(talk: Talk, _rest: str) -> None:
    stopped = [job for job in talk.desk.store.jobs_in("queued", user=talk.user.id) if talk.desk.cancel(job)]
    if stopped:
        await talk.say("cancelling", count=len(stopped))
    else:
        await talk.say("nothing to cancel")


async def _history(talk: Talk, _rest: str) -> None:
    lines: list[str] = []
    buttons: list[tuple[int, int]] = []
    for job in talk.desk.store.finished_jobs(talk.user.id, _SHOWN):
        for picture in talk.desk.store.pictures(job.id):
            if len(buttons) < _SHOWN:
                buttons.append((job.id, picture.number))
                seed = talk.text("seed", seed=picture.seed)
                lines.append(f"{len(buttons)}. {_line(job.request['prompt'])} · {seed}")
    if lines:
        await talk.reply("\n".join([talk.text("history"), *lines]), keyboards.history(buttons))
    else:
        await talk.say("no history")


async def _pack(talk: Talk, rest: str) -> None:
    title = shorten(" ".join(rest.split()), 64)
    if title:
        packs.start(talk.desk, talk.user.id, title)
        await talk.say("pack named", title=title)
        return
    links = [f"{pack.title}: {packs.link(pack.name)}" for pack in talk.desk.store.packs(talk.user.id) if pack.made]
    if links:
        await talk.say("packs", links="\n".join(links))
    else:
        await talk.say("no packs")


async def _privacy(talk: Talk, _rest: str) -> None:
    await erase.privacy(talk)


async def _delete(talk: Talk, _rest: str) -> None:
    await erase.ask(talk)


def _line(prompt: str) -> str:
    return shorten(" ".join(prompt.split()), 80)


# Name -> whether it is for private chats only, and what answers it.
_COMMANDS: dict[str, tuple[bool, Callable[[Talk, str], Awaitable[None]]]] = {
    "start": (False, _start),
    "help": (False, _help),
    "settings": (True, _settings),
    "queue": (False, _queue),
    "cancel": (False, _cancel),
    "history": (True, _history),
    "pack": (True, _pack),
    "privacy": (False, _privacy),
    "delete": (True, _delete),
    "stats": (False, admin.stats),
    "ban": (False, admin.ban),
}
