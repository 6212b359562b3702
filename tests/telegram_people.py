"""People who write to the bot, and the bot itself as a process."""

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from telegram_rules import BOT, Json
from telegram_server import TOKEN, TelegramServer

from stablediff import Result
from stablediff.images import over_white

ROOT = Path(__file__).parent.parent
_LIMITS = {"STEPS": "1000", "SIDE": "2048", "IMAGES": "64"}  # so that jobs can be long
_NUMBERS = itertools.count(7_345_000_001)


class BotProcess:
    """telegram_bot.py, started as a user would. Its output goes to a file that the tests read."""

    def __init__(
        self, server: TelegramServer, model: Path | str, folder: Path, *options: str, prelude: str = ""
    ) -> None:
        self.server, self.folder = server, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.log = folder / "log.txt"
        script = ["telegram_bot.py"]
        if prelude:
            script = ["-c", f"{prelude}\nimport runpy\nrunpy.run_path('telegram_bot.py', run_name='__main__')"]
        command = [sys.executable, *script, "--model", str(model), "--data", str(self.data), "--api", server.url]
        command += ["--device", "cpu", "--dtype", "float32", "--log-level", "DEBUG", *options]
        environment = {**os.environ, "TELEGRAM_BOT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment |= {f"STABLEDIFF_MAX_{name}": value for name, value in _LIMITS.items()}
        self._said_before = len(self.said()) if self.log.exists() else 0
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)

    def wait_until_up(self) -> "BotProcess":
        self.server.wait(lambda: self._alive() and "is listening" in self.said()[self._said_before :], self.tail)
        return self

    def _alive(self) -> bool:
        assert self.process.poll() is None, f"the bot ended with {self.process.returncode}:\n{self.tail()}"
        return True

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        interesting = [line for line in self.said().splitlines() if "DEBUG" not in line]
        return "\n".join(interesting[-40:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Politely. -> the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Person:
    def __init__(self, server: TelegramServer, number: int, language: str = "en", name: str = "Ann") -> None:
        self.server, self.id = server, number
        self.user = {"id": number, "is_bot": False, "first_name": name, "language_code": language}
        self.home = {"id": number, "type": "private", "first_name": name}
        server.people[number] = self.user
        server.chats[number] = self.home

    def write(self, content: Json, chat: Json | None = None, answering: Json | None = None) -> Json:
        """Sends a message. -> it."""
        where = chat or self.home
        with self.server.changed:
            number = self.server.next_id()
            message = {"message_id": number, "date": 1_700_000_000, "chat": where, "from": self.user, **content}
            if answering:
                hidden = ("image", "data", "edits", "reply_to_message")
                message["reply_to_message"] = {name: value for name, value in answering.items() if name not in hidden}
            self.server.messages[where["id"], number] = message
        self.server.put("message", message)
        return message

    def say(self, text: str, chat: Json | None = None, answering: Json | None = None) -> Json:
        return self.write({"text": text}, chat, answering)

    def send_photo(self, data: bytes, size: tuple[int, int], caption: str = "", chat: Json | None = None) -> Json:
        file_id = self.server.keep_file(data)
        photo = {"file_id": file_id, "file_unique_id": file_id, "width": size[0], "height": size[1]}
        photo["file_size"] = len(data)
        return self.write({"photo": [photo]} | ({"caption": caption} if caption else {}), chat)

    def send_file(self, data: bytes, kind: str, caption: str = "", size: int | None = None) -> Json:
        file_id = self.server.keep_file(data)
        document = {"file_id": file_id, "file_unique_id": file_id, "mime_type": kind, "file_size": size or len(data)}
        return self.write({"document": document} | ({"caption": caption} if caption else {}))

    def press(self, message: Json, label: str) -> str:
        """-> the number of the query."""
        return self.send_data(message, button(message, label)["callback_data"])

    def send_data(self, message: Json, data: str, *, stale: bool = False) -> str:
        with self.server.changed:
            query = f"query{self.server.next_id()}"
            self.server.queries[query] = "stale" if stale else "open"
            shown = {name: value for name, value in message.items() if name not in ("image", "data", "edits")}
        self.server.put(
            "callback_query", {"id": query, "from": self.user, "chat_instance": "1", "data": data, "message": shown}
        )
        return query

    def search(self, words: str, offset: str = "") -> list[Json]:
        """An inline query. -> its results."""
        query = f"inline{self.server.next_id()}"
        self.server.queries[query] = "open"
        self.server.put("inline_query", {"id": query, "from": self.user, "query": words, "offset": offset})
        self.server.wait(lambda: self.server.queries[query] != "open")
        return list(self.server.inline_results)

    def toast(self, query: str) -> str:
        self.server.wait(lambda: query in self.server.toasts)
        return self.server.toasts[query]

    def heard(self, chat: Json | None = None) -> list[Json]:
        """What the bot has sent, in order."""
        where = (chat or self.home)["id"]
        return [m for (chat_id, _), m in sorted(self.server.messages.items()) if chat_id == where and m["from"] == BOT]

    def pictures(self, chat: Json | None = None) -> list[Json]:
        """Finished ones: with buttons or files, and no progress in the caption."""
        return [m for m in self.heard(chat) if "image" in m and "sticker" not in m and _is_final(m)]

    def wait_for_text(self, part: str, after: int = 0, chat: Json | None = None) -> Json:
        """-> the first message since that number with this in it."""

        def found() -> Json | None:
            for message in self.heard(chat):
                words = message.get("text", message.get("caption", ""))
                if message["message_id"] > after and part in words:
                    return message
            return None

        return self.server.wait(found, lambda: f"no {part!r} among {[_words(m) for m in self.heard(chat)]}")

    def wait_for_pictures(self, count: int, chat: Json | None = None) -> list[Json]:
        return self.server.wait(
            lambda: len(self.pictures(chat)) >= count and self.pictures(chat),
            lambda: f"{len(self.pictures(chat))} of {count} pictures; {[_words(m) for m in self.heard(chat)]}",
        )


@contextmanager
def running_bot(
    model: Path | str, folder: Path, *options: str, prelude: str = "", faulty: bool = False
) -> Iterator[BotProcess]:
    """A bot with a Telegram of its own. Whatever it did, its log must not have the token."""
    server = TelegramServer()
    bot = BotProcess(server, model, folder, *options, prelude=prelude)
    try:
        yield bot.wait_until_up()
        bot.stop()
        assert not any(secret in bot.said() for secret in (TOKEN, TOKEN.partition(":")[2]))
        assert faulty or "Traceback" not in bot.said(), bot.tail()
    finally:
        bot.kill()
        server.close()


WAYS = ("polling", "webhook")


def updates_by(way: str) -> list[str]:
    """The options with which updates come so."""
    if way == "polling":
        return []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ["--webhook-url", f"http://127.0.0.1:{port}/telegram", "--port", str(port)]


def new_person(server: TelegramServer, language: str = "en") -> "Person":
    return Person(server, next(_NUMBERS), language)


def _is_final(message: Json) -> bool:
    return not any(
        "callback_data" in button and button["callback_data"].startswith("x:")
        for row in message.get("reply_markup", {}).get("inline_keyboard", [])
        for button in row
    )


def _words(message: Json) -> str:
    return str(message.get("text", message.get("caption", "a sticker")))


def button(message: Json, label: str) -> dict[str, Any]:
    rows = message.get("reply_markup", {}).get("inline_keyboard", [])
    found = [button for row in rows for button in row if button["text"].startswith(label)]
    assert found, f"no button {label!r} among {rows}"
    return found[0]


def labels(message: Json) -> list[str]:
    """What its buttons say."""
    return [button["text"] for row in message["reply_markup"]["inline_keyboard"] for button in row]


def as_sent(result: Result, index: int = 0) -> bytes:
    """The pixels of a photo that shows this picture."""
    return over_white(result.images[index]).tobytes()


def group(server: TelegramServer, number: int, **more: Any) -> Json:
    chat = {"id": number, "type": "supergroup", "title": "A group", **more}
    server.chats[number] = chat
    return chat
