"""Answers that are none of Telegram's, tokens that were revoked, floods, and stops that must not wait."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from telegram_people import BotProcess, Person, button, labels, new_person, running_bot, updates_by
from telegram_server import TelegramServer
from toy import draw

from stablediff import Pipeline
from stablediff.images import over_white

GARBAGE = [
    (200, b"<html>It works!</html>"),
    (200, b""),
    (200, b"[]"),
    (200, b'{"ok": true}'),
    (200, b"[" * 100_000),
    (403, b"<html>Forbidden</html>"),
    (404, b"<html>Not Found</html>"),
    (502, b"<html>Bad Gateway</html>"),
    (500, b'{"ok": false, "error_code": 500, "description": "Internal"}'),
]
REFUSED = {"ok": False, "error_code": 401, "description": "Unauthorized"}


@pytest.fixture(scope="module")
def bot(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BotProcess]:
    with running_bot(toy_folder, tmp_path_factory.mktemp("hostile"), "--daily", "20000") as bot:
        yield bot


@pytest.mark.parametrize("answer", GARBAGE, ids=[f"{status} {body[:12]!r}" for status, body in GARBAGE])
def test_what_is_no_answer_of_telegrams_is_asked_again(
    ann: Person, telegram: TelegramServer, model: Pipeline, answer: tuple[int, bytes]
) -> None:
    for method in ("editMessageMedia", "getUpdates"):
        telegram.fail(method, answer)
    ann.say("a red fox --seed 5")
    picture = ann.wait_for_pictures(1)[0]
    assert picture["image"].tobytes() == over_white(draw(model, prompt="a red fox", seed=5).images[0]).tobytes()
    sent = ann.say("/help")["message_id"]
    ann.wait_for_text("prompt", after=sent)
    assert len(ann.pictures()) == 1


@pytest.mark.parametrize("pause", [10**9, 1e30, "soon", None, [], -5])
def test_an_absurd_pause_is_no_reason_to_fall_silent(pause: object) -> None:
    from stablediff.telegram.line import _pause

    assert 1 <= _pause(pause) <= 3600


def test_a_pause_that_is_no_number_loses_nothing(ann: Person, telegram: TelegramServer) -> None:
    body = {"ok": False, "error_code": 429, "description": "Too Many Requests", "parameters": {"retry_after": "soon"}}
    telegram.fail("editMessageMedia", (429, json.dumps(body).encode()))
    ann.say("a red fox")
    ann.wait_for_pictures(1)


def test_an_update_that_cannot_be_read_is_passed_over_and_not_shown(
    ann: Person, telegram: TelegramServer, bot: BotProcess
) -> None:
    stranger = {"id": 5, "is_bot": False}  # without the name that everybody has
    telegram.put("message", {"message_id": 1, "date": 1, "chat": ann.home, "from": stranger, "text": "my secret wish"})
    sent = ann.say("/help")["message_id"]
    ann.wait_for_text("prompt", after=sent)
    assert "cannot be read" in bot.said()
    assert "my secret wish" not in "\n".join(line for line in bot.said().splitlines() if "DEBUG" not in line)


def test_whoever_floods_is_told_and_does_not_shut_others_out(ann: Person, telegram: TelegramServer) -> None:
    flooders = [new_person(telegram) for _ in range(3)]
    with telegram.changed:
        for person in flooders:
            for _ in range(110):
                person.say("/help")
    began = time.monotonic()
    sent = ann.say("/help")["message_id"]
    ann.wait_for_text("prompt", after=sent)
    assert time.monotonic() - began < 20
    for person in flooders:
        person.wait_for_text("more than I can answer at once")
        assert len(person.heard()) < 60


def test_pictures_and_albums_are_understood_as_people_mean_them(ann: Person) -> None:
    ann.say("a red fox --seed 5")
    picture = ann.wait_for_pictures(1)[0]
    ann.say("made of glass --seed 6", answering=picture)  # plain words
    changed = ann.wait_for_pictures(2)[1]
    ann.press(changed, "Copy command")
    told = ann.wait_for_text("drawn from another one")
    assert "--strength" in ann.wait_for_text("/gen made of glass", after=told["message_id"])["text"]

    photo = {"file_id": "f", "file_unique_id": "f", "width": 8, "height": 8}
    for _ in range(4):
        ann.write({"photo": [photo], "media_group_id": "album"})
    last = ann.say("/nonsense")["message_id"]
    ann.wait_for_text("do not know this command", after=last)
    assert sum("with a caption" in message.get("text", "") for message in ann.heard()) == 1

    sent = ann.say("a fox --strength 0.5")["message_id"]
    ann.wait_for_text("--strength is for pictures that start from another", after=sent)
    sent = ann.say("a fox --size 64 x 72 --зерно 3\n--no fog\nrain")["message_id"]
    drawn = ann.wait_for_pictures(3)[2]
    assert "64x72" in drawn["caption"]
    assert "seed 3" in drawn["caption"]
    assert button(drawn, "Copy command")["copy_text"]["text"].endswith("--no fog, rain")


def test_a_banned_user_may_still_leave(toy_folder: Path, tmp_path: Path) -> None:
    with running_bot(toy_folder, tmp_path, "--admins", "77") as bot:
        admin, other = Person(bot.server, 77), new_person(bot.server)
        for who, answer in ((77, "Neither me nor an admin"), (0, "/ban ID"), (1_087_968_824_000_000_000, "/ban ID")):
            sent = admin.say(f"/ban {who}")["message_id"]
            admin.wait_for_text(answer, after=sent)
        other.say("a red fox")
        other.wait_for_pictures(1)
        sent = admin.say(f"/ban {other.id}")["message_id"]
        admin.wait_for_text("is banned", after=sent)
        sent = other.say("/privacy")["message_id"]
        other.wait_for_text("days", after=sent)
        other.say("/delete")
        other.press(other.wait_for_text("Forget your prompts"), "Yes")
        other.wait_for_text("nothing about you is left")
        sent = other.say("a red fox")["message_id"]
        other.wait_for_text("may not use this bot", after=sent)
        assert not list((bot.data / "pictures").iterdir())


def test_an_anonymous_administrator_is_told_why(ann: Person, telegram: TelegramServer) -> None:
    chat = {"id": -100_777, "type": "supergroup", "title": "A group"}
    telegram.chats[chat["id"]] = chat
    anonymous = {"id": 1_087_968_824, "is_bot": True, "first_name": "Group"}
    ann.write({"text": "/gen@draws_bot a fox", "from": anonymous, "sender_chat": chat}, chat)
    ann.wait_for_text("under your own name", chat=chat)
    assert "Cancel" not in str([labels(message) for message in ann.heard(chat) if "reply_markup" in message])


@pytest.mark.parametrize("way", ["polling", "webhook"])
def test_a_token_that_is_revoked_ends_the_bot_and_loses_nothing(toy_folder: Path, tmp_path: Path, way: str) -> None:
    with running_bot(toy_folder, tmp_path, *updates_by(way), faulty=True) as bot:
        ann = new_person(bot.server)
        ann.say("first --seed 1")
        ann.wait_for_pictures(1)
        bot.server.fail("*", (401, json.dumps(REFUSED).encode()), times=10**6)
        if way == "webhook":  # nobody asks Telegram before there is something to tell
            ann.say("second --seed 2")
        else:
            bot.server.put("message", {})
        assert bot.process.wait(60) == 2
        assert "does not know this token" in bot.said().splitlines()[-1]
        assert "Traceback" not in "\n".join(bot.said().splitlines()[-3:])
        bot.server.faults.clear()
        again = BotProcess(bot.server, toy_folder, tmp_path, *updates_by(way)).wait_until_up()
        ann.say("third --seed 3")
        ann.wait_for_pictures(3 if way == "webhook" else 2)
        assert again.stop() == 0


def test_a_stop_does_not_wait_for_a_telegram_that_fails(toy_folder: Path, tmp_path: Path) -> None:
    with running_bot(toy_folder, tmp_path, faulty=True) as bot:
        ann = new_person(bot.server)
        bot.server.fail("sendMessage", 500, times=10**6)
        for _ in range(5):
            ann.say("/help")
        ann.say("a red fox --seed 1")
        bot.server.wait(lambda: any(call[0] == "sendMessage" for call in bot.server.calls) or _asked(bot))
        began = time.monotonic()
        assert bot.stop() == 0
        assert time.monotonic() - began < 25
        assert "was destroyed" not in bot.said()
        bot.server.faults.clear()
        again = BotProcess(bot.server, toy_folder, tmp_path).wait_until_up()
        ann.wait_for_pictures(1)  # whoever was not answered is answered now
        assert sum("Lines below" in message.get("text", "") or "prompt" in message.get("text", "")
                   for message in ann.heard()) >= 5  # fmt: skip
        again.stop()


def _asked(bot: BotProcess) -> bool:
    return "is asked again" in bot.said()


SLOW_SAVING = """
import pathlib, time
from stablediff.telegram import worker
real = worker.save_png
def save_png(image, file, parameters):
    pathlib.Path({flag!r}).touch()
    time.sleep(2)
    real(image, file, parameters)
worker.save_png = save_png
"""


def test_delete_catches_pictures_that_are_just_being_saved(toy_folder: Path, tmp_path: Path) -> None:
    flag = tmp_path / "saving"
    with running_bot(toy_folder, tmp_path, prelude=SLOW_SAVING.format(flag=str(flag))) as bot:
        ann = new_person(bot.server)
        ann.say("/delete")
        question = ann.wait_for_text("Forget your prompts")
        ann.say("a red fox --pictures 3")
        bot.server.wait(flag.exists)
        ann.press(question, "Yes")
        ann.wait_for_text("nothing about you is left")
        other = new_person(bot.server)
        other.say("a blue fox")
        other.wait_for_pictures(1)
        assert len(list((bot.data / "pictures").iterdir())) == 1
        assert ann.pictures() == []


def test_a_pack_that_is_on_its_way_is_not_noted_after_a_delete(
    ann: Person, telegram: TelegramServer, bot: BotProcess
) -> None:
    ann.say("a red fox")
    picture = ann.wait_for_pictures(1)[0]
    telegram.fail("createNewStickerSet", 500, times=3)
    ann.press(picture, "Add to my sticker pack")
    telegram.wait(lambda: not telegram.faults or telegram.faults[0].times < 3)
    ann.say("/delete")
    ann.press(ann.wait_for_text("Forget your prompts"), "Yes")
    ann.wait_for_text("nothing about you is left")
    time.sleep(3)  # longer than the bot waits before it tries again
    for file in bot.data.iterdir():
        assert file.is_dir() or str(ann.id).encode() not in file.read_bytes()
    sent = ann.say("/pack")["message_id"]
    ann.wait_for_text("no pack yet", after=sent)


def test_nothing_arrives_after_a_delete(ann: Person, telegram: TelegramServer) -> None:
    for method, words in (("editMessageMedia", "a fox"), ("sendSticker", "/sticker fox")):
        telegram.fail(method, 429, seconds=3)
        ann.say(words)
        telegram.wait(lambda: not any(fault.times for fault in telegram.faults))
        sent = ann.say("/delete")["message_id"]
        ann.press(ann.wait_for_text("Forget your prompts", after=sent), "Yes")
        ann.wait_for_text("nothing about you is left", after=sent)
    time.sleep(4)  # longer than the pause
    assert ann.pictures() == []
    assert not any("sticker" in message for message in ann.heard())


def test_two_chats_add_to_a_pack_one_after_another(ann: Person, telegram: TelegramServer) -> None:
    ann.say("a red fox")
    picture = ann.wait_for_pictures(1)[0]
    chat = {"id": -100_888, "type": "supergroup", "title": "A group"}
    telegram.chats[chat["id"]] = chat
    ann.say("/gen@draws_bot a blue fox", chat)
    other = ann.wait_for_pictures(1, chat)[0]
    telegram.fail("createNewStickerSet", "slow", seconds=2)
    ann.press(picture, "Add to my sticker pack")
    ann.press(other, "Add to my sticker pack")
    name = ann.wait_for_text("It is in your pack")["text"].rpartition("/")[2]
    ann.wait_for_text("It is in your pack", chat=chat)
    assert len(telegram.sets[name]["stickers"]) == 2


def test_a_ban_and_a_wish_are_not_heard_twice_after_a_kill(toy_folder: Path, tmp_path: Path) -> None:
    options = ["--admins", "77", "--pending", "1"]
    with running_bot(toy_folder, tmp_path, *options, faulty=True) as bot:
        admin, ann = Person(bot.server, 77), new_person(bot.server)
        photo = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(photo, "PNG")
        bot.server.fail("sendMessage", "slow", times=4, seconds=3)
        admin.say("/ban 4242")
        ann.send_file(photo.getvalue(), "image/png", "a red fox --steps 400")
        bot.server.wait(lambda: any((bot.data / "inputs").iterdir()))
        time.sleep(1)
        bot.kill()
        bot.server.faults.clear()
        again = BotProcess(bot.server, toy_folder, tmp_path, *options).wait_until_up()
        ann.wait_for_pictures(1)
        sent = admin.say("/ban 4242")["message_id"]
        admin.wait_for_text("4242 is free again", after=sent)  # so it was banned until now
        assert not any("waiting already" in message.get("text", "") for message in ann.heard())
        assert len(list((bot.data / "inputs").iterdir())) == 1
        sent = ann.say("/delete")["message_id"]
        ann.press(ann.wait_for_text("Forget your prompts", after=sent), "Yes")
        ann.wait_for_text("nothing about you is left", after=sent)
        assert not list((bot.data / "inputs").iterdir())
        again.stop()


def test_mistyped_commands_are_not_drawn(ann: Person) -> None:
    for words in ("/gen2 a fox", "/start1", "/помощь", "/стикер лиса"):
        sent = ann.say(words)["message_id"]
        ann.wait_for_text("do not know this command", after=sent)
    assert ann.pictures() == []


def test_a_picture_that_does_not_come_is_asked_for_again(toy_folder: Path, tmp_path: Path) -> None:
    hasty = "from stablediff.telegram import photos; photos._PATIENCE = 1.0"
    with running_bot(toy_folder, tmp_path, prelude=hasty) as bot:
        ann, data = new_person(bot.server), io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(data, "PNG")
        bot.server.fail("file", "slow", seconds=3)
        ann.send_photo(data.getvalue(), (64, 64), "a fox --seed 1")
        ann.wait_for_text("does not hand over your picture")
        ann.send_photo(data.getvalue(), (64, 64), "a fox --seed 1")
        ann.wait_for_pictures(1)
