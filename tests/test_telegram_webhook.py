"""What only a webhook can suffer: updates that block the next ones, an address that is refused, a port in use."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from telegram_people import BotProcess, new_person, running_bot, updates_by
from telegram_server import TelegramServer


@pytest.fixture
def server() -> Iterator[TelegramServer]:
    server = TelegramServer()
    yield server
    server.close()


def test_an_update_that_cannot_be_read_does_not_hold_up_the_next(toy_folder: Path, tmp_path: Path) -> None:
    with running_bot(toy_folder, tmp_path, *updates_by("webhook")) as bot:
        ann = new_person(bot.server)
        stranger = {"id": 5, "is_bot": False}  # without the name that everybody has
        for message in (
            {"message_id": 1, "date": 1, "chat": ann.home, "from": stranger, "text": "my secret wish"},
            {"message_id": 2, "date": "soon", "chat": [], "text": {}},
            "nothing that Telegram writes",
        ):
            bot.server.put("message", message)
        with bot.server.changed:
            bot.server.updates.append({"no": "number"})
        sent = ann.say("/help")["message_id"]
        ann.wait_for_text("prompt", after=sent)
        assert bot.said().count("cannot be read") == 3
        assert "something without a number" in bot.said()
        assert "my secret wish" not in bot.said()


def test_an_address_that_telegram_refuses_is_told(toy_folder: Path, tmp_path: Path, server: TelegramServer) -> None:
    server.fail("setWebhook", (400, b'{"ok": false, "error_code": 400, "description": "Bad Request: bad webhook: Ho"}'))
    bot = BotProcess(server, toy_folder, tmp_path, *updates_by("webhook"))
    assert bot.process.wait(60) == 2
    assert "does not take --webhook-url http://127.0.0.1" in bot.said().splitlines()[-1]
    assert "Traceback" not in bot.said()


def test_a_port_that_is_taken_is_told(toy_folder: Path, tmp_path: Path, server: TelegramServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        bot = BotProcess(
            server, toy_folder, tmp_path, "--webhook-url", f"http://127.0.0.1:{port}/telegram", "--port", str(port)
        )
        assert bot.process.wait(60) == 2
    assert bot.said().splitlines()[-1].endswith("choose another --port")
    assert "Traceback" not in bot.said()
