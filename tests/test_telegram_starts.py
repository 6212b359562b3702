"""How the bot starts and ends when something is wrong: it says so in a line, or goes on, and loses nothing."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from telegram_people import WAYS, BotProcess, Person, new_person, running_bot, updates_by
from telegram_server import TOKEN, TelegramServer

REFUSED = {"ok": False, "error_code": 401, "description": "Unauthorized"}
# What is begun when updates are to come.
FIRST_CALL = {"polling": "deleteWebhook", "webhook": "setWebhook"}
NO_ROOM = """
import errno
from stablediff.telegram import worker
def save_png(*_): raise OSError(errno.ENOSPC, "no space left on device")
worker.save_png = save_png
"""


@pytest.fixture
def server() -> Iterator[TelegramServer]:
    server = TelegramServer()
    yield server
    server.close()


@pytest.mark.parametrize("way", WAYS)
def test_it_can_be_stopped_while_it_begins(toy_folder: Path, tmp_path: Path, server: TelegramServer, way: str) -> None:
    server.fail(FIRST_CALL[way], 500, times=10**6)
    bot = BotProcess(server, toy_folder, tmp_path, *updates_by(way))
    server.wait(lambda: "Application started" in bot.said() and server.faults[0].times < 10**6, bot.tail)
    assert bot.stop() == 0
    assert "Traceback" not in bot.said()


@pytest.mark.parametrize("way", WAYS)
def test_a_token_that_is_revoked_while_it_begins_ends_it(
    toy_folder: Path, tmp_path: Path, server: TelegramServer, way: str
) -> None:
    server.fail(FIRST_CALL[way], (401, json.dumps(REFUSED).encode()), times=10**6)
    bot = BotProcess(server, toy_folder, tmp_path, *updates_by(way))
    assert bot.process.wait(60) == 2
    assert "does not know this token" in bot.said().splitlines()[-1]


def test_it_can_be_stopped_while_telegram_wants_to_be_left_alone(toy_folder: Path, tmp_path: Path) -> None:
    with running_bot(toy_folder, tmp_path, faulty=True) as bot:
        bot.server.fail("getUpdates", 429, seconds=600)
        new_person(bot.server).say("a red fox")
        bot.server.wait(lambda: "left alone for 600 s" in bot.said())
        began = time.monotonic()
        assert bot.stop() == 0
        assert time.monotonic() - began < 20


def served_before(bot: BotProcess) -> Person:
    """Somebody who has a picture of a bot that is stopped now."""
    ann = new_person(bot.server)
    ann.say("a red fox --seed 1")
    ann.wait_for_pictures(1)
    bot.stop()
    return ann


@pytest.mark.parametrize("settings", ["{bad", "[1]"])
def test_whose_settings_are_damaged_is_served_with_the_usual_ones(
    toy_folder: Path, tmp_path: Path, settings: str
) -> None:
    with running_bot(toy_folder, tmp_path) as bot:
        ann = served_before(bot)
        with closing(sqlite3.connect(bot.data / "bot.sqlite3")) as database:
            database.execute("UPDATE users SET settings = ?", (settings,))
            database.commit()
        again = BotProcess(bot.server, toy_folder, tmp_path).wait_until_up()
        ann.say("a blue fox --seed 2")
        ann.wait_for_pictures(2)
        assert again.stop() == 0


def test_a_store_that_is_taken_away_is_told_to_the_operator(toy_folder: Path, tmp_path: Path) -> None:
    with running_bot(toy_folder, tmp_path) as bot:
        ann = new_person(bot.server)
        for part in bot.data.glob("bot.sqlite3*"):
            part.unlink()
        ann.say("a red fox --seed 1")
        ann.wait_for_pictures(1)
        assert bot.said().count("somebody has taken") == 1


def test_rows_that_cannot_be_read_are_passed_over(toy_folder: Path, tmp_path: Path) -> None:
    with running_bot(toy_folder, tmp_path) as bot:
        ann = served_before(bot)
        with closing(sqlite3.connect(bot.data / "bot.sqlite3")) as database:
            database.execute("UPDATE jobs SET request = json_remove(request, '$.num_steps')")
            rows = [(10**9, "no JSON"), (10**9 + 1, '{"update_id": 7, "message": {"text": "my secret wish"}}')]
            database.executemany("INSERT INTO inbox VALUES (?, ?)", rows)
            database.commit()
        again = BotProcess(bot.server, toy_folder, tmp_path).wait_until_up()
        ann.say("a blue fox --seed 2")
        ann.wait_for_pictures(2)
        assert "my secret wish" not in again.tail()
        assert again.stop() == 0


@pytest.mark.parametrize("sender", [{"id": [5]}, {"id": 2**63}, {"id": True}])
def test_senders_that_are_no_numbers_do_not_make_it_deaf(toy_folder: Path, tmp_path: Path, sender: dict) -> None:
    with running_bot(toy_folder, tmp_path) as bot:
        ann = new_person(bot.server)
        stranger = {"is_bot": False, "first_name": "Eve", **sender}
        content = {"message_id": 1, "date": 1, "text": "hello"}
        bot.server.put("message", {**content, "chat": ann.home, "from": stranger})
        bot.server.put("message", {**content, "chat": None, "from": ann.user})
        ann.say("a red fox")
        ann.wait_for_pictures(1)


def test_stops_on_a_full_disk_are_no_attempts(toy_folder: Path, tmp_path: Path, server: TelegramServer) -> None:
    ann = new_person(server)
    for number in range(4):
        bot = BotProcess(server, toy_folder, tmp_path, prelude=NO_ROOM).wait_until_up()
        if number == 0:
            ann.say("a red fox --seed 1")
        said = len(bot.said())
        server.wait(lambda bot=bot, said=said: "cannot be kept" in bot.said()[said:], bot.tail)
        assert bot.stop() == 0
    bot = BotProcess(server, toy_folder, tmp_path).wait_until_up()
    ann.wait_for_pictures(1)
    assert bot.stop() == 0


def test_a_token_in_an_answer_is_hidden_in_whatever_letters(toy_folder: Path, tmp_path: Path) -> None:
    with running_bot(toy_folder, tmp_path, faulty=True) as bot:
        ann = new_person(bot.server)
        told = {"ok": False, "error_code": 400, "description": f"Bad Request: see https://host/bot{TOKEN}/x"}
        bot.server.fail("editMessageMedia", (400, json.dumps(told).encode()))
        ann.say("a red fox")
        words = ann.wait_for_text("Telegram did not take it")["text"]
        assert "<token>" in words
        for text in (words, bot.said()):
            assert TOKEN.lower() not in text.lower()
            assert TOKEN.partition(":")[2].lower() not in text.lower()
