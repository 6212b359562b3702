"""Pictures that people send: looked at from outside first, then decoded, and stripped of all but their pixels."""

import asyncio
import io

from PIL import Image
from telegram import Document, Message
from telegram.error import NetworkError, RetryAfter

from stablediff.errors import RequestError
from stablediff.images import FORMATS, MAX_PIXELS, has_alpha, open_image
from stablediff.request import MAX_SIZE
from stablediff.telegram.desk import Talk, log
from stablediff.telegram.outgoing import again

MAX_DOWNLOAD = 20 * 10**6  # bytes: Telegram gives bots no more
_TYPES = {f"image/{name.lower()}" for name in FORMATS}
_fetching = asyncio.Semaphore(8)  # each may be as large as Telegram lets it be
_PATIENCE = 60.0  # seconds that a picture may take to come
_decoding = asyncio.Semaphore(1)  # large ones take much memory


def has_file(message: Message | None) -> bool:
    return message is not None and bool(message.photo or message.document)


def is_picture(document: Document) -> bool:
    return document.mime_type in _TYPES


async def read(talk: Talk, message: Message) -> Image.Image:
    """The picture of a message. Raises RequestError, in the user's language where the words are ours.

    Of a picture that the bot has drawn itself, what it drew: Telegram compresses photos.
    """
    drawn = talk.desk.store.picture_in(message.chat.id, message.message_id)
    if drawn is not None:
        return await asyncio.to_thread(_decode, await asyncio.to_thread(drawn.read_bytes))
    photo, document = (message.photo or (None,))[-1], message.document
    if document is not None and not is_picture(document):
        raise RequestError(talk.text("not a picture"))
    if photo is not None and photo.width * photo.height > MAX_PIXELS:
        raise RequestError(talk.text("not a picture"))
    attachment = photo or document
    if attachment is None:
        raise RequestError(talk.text("not a picture"))
    _check_size(talk, attachment.file_size)
    try:
        async with asyncio.timeout(_PATIENCE):
            data = await _fetch(talk, attachment.file_id)
    except (TimeoutError, RetryAfter, NetworkError) as error:
        log.warning("a picture cannot be fetched: %s", error)
        raise RequestError(talk.text("not fetched")) from error
    async with _decoding:
        return await asyncio.to_thread(_decode, data)


async def _fetch(talk: Talk, file_id: str) -> bytes:
    file = await again(lambda: talk.desk.bot.get_file(file_id), harmless=True)
    _check_size(talk, file.file_size)
    async with _fetching:
        return bytes(await again(file.download_as_bytearray, harmless=True))


def _check_size(talk: Talk, size: int | None) -> None:
    if size is not None and size > MAX_DOWNLOAD:
        megabytes = f"{size / 10**6:.0f}"
        raise RequestError(talk.text("file too large", size=megabytes, limit=MAX_DOWNLOAD // 10**6))


def _decode(data: bytes) -> Image.Image:
    """Upright, no larger than what can be drawn, and without EXIF or anything else beside the pixels."""
    image = open_image(io.BytesIO(data))
    image = image.convert("RGBA" if has_alpha(image) else "RGB")
    image.thumbnail((MAX_SIZE, MAX_SIZE), Image.Resampling.LANCZOS)
    image.info.clear()
    return image
