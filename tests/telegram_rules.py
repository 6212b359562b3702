"""What Telegram's Bot API does with a call, and what it refuses: a strict model of the methods that the bot uses.

A refusal is raised; parameters and methods that are not here are refused as well.
"""

import io
import mimetypes
import re
from typing import Any

from PIL import Image

Json = dict[str, Any]
BOT = {"id": 42, "is_bot": True, "first_name": "Draws", "username": "draws_bot"}
_SET_NAME = re.compile(r"[a-z](?:_?[a-z0-9])*_by_([a-z0-9]+_bot)", re.IGNORECASE)


class Refused(Exception):  # noqa: N818
    def __init__(self, description: str, code: int = 400, **parameters: Any) -> None:
        super().__init__(description)
        self.code, self.parameters = code, parameters


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def check(condition: object, description: str) -> None:
    if not condition:
        raise Refused(f"Bad Request: {description}")


def check_markup(markup: Json | None) -> None:
    for row in (markup or {}).get("inline_keyboard", []):
        for button in row:
            kinds = [kind for kind in ("callback_data", "copy_text", "url") if kind in button]
            check(button.get("text") and len(kinds) == 1, "BUTTON_TYPE_INVALID")
            if kinds == ["callback_data"]:
                check(1 <= len(button["callback_data"].encode()) <= 64, "BUTTON_DATA_INVALID")
            if kinds == ["copy_text"]:
                check(1 <= units(button["copy_text"]["text"]) <= 256, "BUTTON_COPY_TEXT_INVALID")


class Rules:
    """Chats, messages, files and sticker sets. `message["image"]` and `["data"]` are what was uploaded."""

    def __init__(self) -> None:
        self.people: dict[int, Json] = {}
        self.chats: dict[int, Json] = {}
        self.blocked: set[int] = set()
        self.migrated: dict[int, int] = {}
        self.messages: dict[tuple[int, int], Json] = {}
        self.files: dict[str, bytes] = {}
        self.queries: dict[str, str] = {}  # callback and inline queries: "open", "stale", or what was answered
        self.toasts: dict[str, str] = {}
        self.sets: dict[str, Json] = {}
        self.largest_set = 120
        self.commands: dict[str, list[Json]] = {}
        self.activities: list[int] = []
        self._last_id = 100

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def keep_file(self, data: bytes) -> str:
        file_id = f"file{self.next_id()}"
        self.files[file_id] = data
        return file_id

    # Messages

    def _chat(self, chat_id: int) -> Json:
        if chat_id in self.migrated:
            raise Refused(
                "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=self.migrated[chat_id]
            )
        check(chat_id in self.chats, "chat not found")
        if chat_id in self.blocked:
            raise Refused("Forbidden: bot was blocked by the user", 403)
        return self.chats[chat_id]

    def _add(self, chat_id: int, thread: int | None, reply: Json | None, markup: Json | None, **content: Any) -> Json:
        chat = self._chat(chat_id)
        check_markup(markup)
        if reply and (chat_id, reply["message_id"]) not in self.messages:
            check(reply.get("allow_sending_without_reply"), "message to be replied not found")
        check(thread is None or chat.get("is_forum"), "message thread not found")
        number = self.next_id()
        message = {"message_id": number, "date": 1_700_000_000, "chat": chat, "from": BOT, "edits": 0, **content}
        if thread is not None:
            message |= {"message_thread_id": thread, "is_topic_message": True}
        if markup:
            message["reply_markup"] = markup
        self.messages[chat_id, number] = message
        return message

    def do_sendMessage(  # noqa: N802
        self,
        chat_id: int,
        text: str,
        reply_markup: Json | None = None,
        message_thread_id: int | None = None,
        reply_parameters: Json | None = None,
    ) -> Json:
        check(text.strip(), "message text is empty")
        check(units(text) <= 4096, "message is too long")
        return self._add(chat_id, message_thread_id, reply_parameters, reply_markup, text=text)

    def _photo(self, data: bytes) -> Json:
        check(len(data) <= 10 * 2**20, "file is too big")
        image = _decode(data)
        check(image.format in ("PNG", "JPEG", "WEBP"), "IMAGE_PROCESS_FAILED")
        width, height = image.size
        check(width + height <= 10_000 and max(width, height) <= 20 * min(width, height), "PHOTO_INVALID_DIMENSIONS")
        file_id = self.keep_file(data)
        size = {"file_id": file_id, "file_unique_id": file_id, "width": width, "height": height}
        return {"photo": [size], "image": image, "data": data}

    def _document(self, data: bytes, name: str) -> Json:
        check(len(data) <= 50 * 2**20, "file is too big")
        check(data, "file must be non-empty")
        file_id = self.keep_file(data)
        document = {"file_id": file_id, "file_unique_id": file_id, "file_name": name}
        document["mime_type"] = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return {"document": document, "data": data} | ({"image": _decode(data)} if name.endswith(".png") else {})

    def do_sendDocument(  # noqa: N802
        self, chat_id: int, document: tuple[str, bytes], caption: str = "", message_thread_id: int | None = None
    ) -> Json:
        check(units(caption) <= 1024, "message caption is too long")
        return self._add(chat_id, message_thread_id, None, None, **self._document(document[1], document[0]))

    def do_sendSticker(  # noqa: N802
        self,
        chat_id: int,
        sticker: tuple[str, bytes],
        message_thread_id: int | None = None,
        reply_parameters: Json | None = None,
    ) -> Json:
        sent = self._sticker(sticker[1])
        image = _decode(sticker[1])
        return self._add(chat_id, message_thread_id, reply_parameters, None, sticker=sent, image=image)

    def do_sendChatAction(self, chat_id: int, action: str, message_thread_id: int | None = None) -> bool:  # noqa: N802
        self._chat(chat_id)
        check(message_thread_id is None or self.chats[chat_id].get("is_forum"), "message thread not found")
        check(action in ("upload_photo", "upload_document", "typing", "choose_sticker"), "wrong parameter action")
        self.activities.append(chat_id)
        return True

    # Edits

    def _own(self, chat_id: int, message_id: int) -> Json:
        self._chat(chat_id)
        message = self.messages.get((chat_id, message_id))
        check(message is not None, "message to edit not found")
        assert message is not None
        check(message["from"] == BOT, "message can't be edited")
        return message

    def _change(self, message: Json, markup: Json | None, **content: Any) -> Json:
        check_markup(markup)
        same = (
            all(message.get(name) == value for name, value in content.items()) and message.get("reply_markup") == markup
        )
        check(
            not same,
            "message is not modified: specified new message content and reply markup are exactly the same as a current "
            "content and reply markup of the message",
        )
        message.pop("reply_markup", None)
        message.update(content | ({"reply_markup": markup} if markup else {}))
        message["edits"] += 1
        return message

    def do_editMessageText(self, chat_id: int, message_id: int, text: str, reply_markup: Json | None = None) -> Json:  # noqa: N802
        message = self._own(chat_id, message_id)
        check("text" in message, "there is no text in the message to edit")
        check(text.strip() and units(text) <= 4096, "message is too long")
        return self._change(message, reply_markup, text=text)

    def do_editMessageCaption(  # noqa: N802
        self, chat_id: int, message_id: int, caption: str = "", reply_markup: Json | None = None
    ) -> Json:
        message = self._own(chat_id, message_id)
        check("photo" in message or "document" in message, "there is no caption in the message to edit")
        check(units(caption) <= 1024, "message caption is too long")
        return self._change(message, reply_markup, caption=caption)

    def do_editMessageMedia(  # noqa: N802
        self, chat_id: int, message_id: int, media: Json, reply_markup: Json | None = None
    ) -> Json:
        message = self._own(chat_id, message_id)
        check("sticker" not in message, "message can't be edited")
        unknown = set(media) - {"type", "media", "caption", "disable_content_type_detection"}
        check(not unknown, f"unknown fields {unknown}")
        check(units(media.get("caption", "")) <= 1024, "message caption is too long")
        name, data = media["media"]
        content = self._photo(data) if media["type"] == "photo" else self._document(data, name)
        for old in ("text", "photo", "document", "caption"):
            message.pop(old, None)
        return self._change(message, reply_markup, caption=media.get("caption", ""), **content)

    def do_editMessageReplyMarkup(self, chat_id: int, message_id: int, reply_markup: Json | None = None) -> Json:  # noqa: N802
        return self._change(self._own(chat_id, message_id), reply_markup)

    def do_sendMediaGroup(  # noqa: N802
        self,
        chat_id: int,
        media: list[Json],
        message_thread_id: int | None = None,
        reply_parameters: Json | None = None,
    ) -> list[Json]:
        check(2 <= len(media) <= 10, "there must be 2-10 media in an album")
        contents = []
        for item in media:
            check(set(item) <= {"type", "media", "caption"} and item["type"] == "photo", "MEDIA_INVALID")
            check(units(item.get("caption", "")) <= 1024, "message caption is too long")
            contents.append(self._photo(item["media"][1]) | {"caption": item.get("caption", "")})
        album = f"album{self.next_id()}"
        return [
            self._add(chat_id, message_thread_id, reply_parameters, None, media_group_id=album, **content)
            for content in contents
        ]

    # Queries

    def _answer(self, query: str, answer: str) -> bool:
        if self.queries.get(query) != "open":
            raise Refused("Bad Request: query is too old and response timeout expired or query ID is invalid")
        self.queries[query] = answer
        return True

    def do_answerCallbackQuery(  # noqa: N802
        self, callback_query_id: str, text: str = "", show_alert: bool = False
    ) -> bool:
        check(units(text) <= 200, "MESSAGE_TOO_LONG")
        assert isinstance(show_alert, bool)
        self.toasts[callback_query_id] = text
        return self._answer(callback_query_id, "answered")

    def do_answerInlineQuery(  # noqa: N802
        self,
        inline_query_id: str,
        results: list[Json],
        cache_time: int = 300,
        is_personal: bool = False,
        next_offset: str = "",
        button: Json | None = None,
    ) -> bool:
        check(len(results) <= 50, "RESULTS_TOO_MUCH")
        check(len({result["id"] for result in results}) == len(results), "RESULT_ID_DUPLICATE")
        check(len(next_offset.encode()) <= 64 and cache_time >= 0, "NEXT_OFFSET_INVALID")
        check(is_personal, "one's own pictures would be cached for others")
        check(button is None or button.get("start_parameter"), "BUTTON_INVALID")
        for result in results:
            check(1 <= len(result["id"].encode()) <= 64, "RESULT_ID_INVALID")
            field = {"photo": "photo_file_id", "sticker": "sticker_file_id"}[result["type"]]
            check(result[field] in self.files, "wrong file identifier")
        self.inline_results, self.next_offset = results, next_offset
        return self._answer(inline_query_id, "answered")

    # Stickers

    def _sticker(self, data: bytes) -> Json:
        check(len(data) <= 512 * 1024, "STICKER_FILE_INVALID: too big")
        image = _decode(data)
        check(image.format in ("WEBP", "PNG"), "STICKER_PNG_NOPNG")
        check(max(image.size) == 512, "STICKER_PNG_DIMENSIONS")
        file_id = self.keep_file(data)
        kind = {"type": "regular", "is_animated": False, "is_video": False}
        width, height = image.size
        return {"file_id": file_id, "file_unique_id": file_id, "width": width, "height": height, **kind}

    def _input_sticker(self, sticker: Json) -> Json:
        check(set(sticker) == {"sticker", "emoji_list", "format"} and sticker["format"] == "static", "STICKER_INVALID")
        check(1 <= len(sticker["emoji_list"]) <= 20 and all(sticker["emoji_list"]), "STICKER_EMOJI_INVALID")
        return self._sticker(sticker["sticker"][1]) | {"emoji": sticker["emoji_list"][0]}

    def do_createNewStickerSet(self, user_id: int, name: str, title: str, stickers: list[Json]) -> bool:  # noqa: N802
        check(user_id in self.people, "USER_ID_INVALID")
        named = _SET_NAME.fullmatch(name)
        check(len(name) <= 64 and named and named[1] == BOT["username"], "invalid sticker set name is specified")
        check(1 <= units(title) <= 64, "STICKERSET_TITLE_INVALID")
        check(1 <= len(stickers) <= 50, "STICKERS_EMPTY")
        made = [self._input_sticker(sticker) for sticker in stickers]
        check(name not in self.sets, "sticker set name is already occupied")
        self.sets[name] = {"name": name, "title": title, "sticker_type": "regular", "stickers": made, "owner": user_id}
        return True

    def do_addStickerToSet(self, user_id: int, name: str, sticker: Json) -> bool:  # noqa: N802
        check(name in self.sets and self.sets[name]["owner"] == user_id, "STICKERSET_INVALID")
        made = self._input_sticker(sticker)
        check(len(self.sets[name]["stickers"]) < self.largest_set, "STICKERS_TOO_MUCH")
        self.sets[name]["stickers"].append(made)
        return True

    def do_getStickerSet(self, name: str) -> Json:  # noqa: N802
        check(name in self.sets, "STICKERSET_INVALID")
        return self.sets[name]

    # The rest

    def do_getMe(self) -> Json:  # noqa: N802
        return BOT | {"supports_inline_queries": True, "can_join_groups": True, "can_read_all_group_messages": False}

    def do_getFile(self, file_id: str) -> Json:  # noqa: N802
        check(file_id in self.files, "wrong file_id or the file is temporarily unavailable")
        size = len(self.files[file_id])
        check(size <= 20 * 2**20, "file is too big")
        return {"file_id": file_id, "file_unique_id": file_id, "file_size": size, "file_path": f"files/{file_id}"}

    def do_setMyCommands(self, commands: list[Json], language_code: str = "") -> bool:  # noqa: N802
        check(1 <= len(commands) <= 100, "BOT_COMMANDS_TOO_MUCH")
        for command in commands:
            check(re.fullmatch("[a-z0-9_]{1,32}", command["command"]), "BOT_COMMAND_INVALID")
            check(1 <= units(command["description"]) <= 256, "BOT_COMMAND_DESCRIPTION_INVALID")
        self.commands[language_code] = commands
        return True


def _decode(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except OSError as error:
        raise Refused("Bad Request: IMAGE_PROCESS_FAILED") from error
    return image
