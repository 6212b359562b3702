"""What happens when Telegram is slow, refuses, hangs up or goes away, and when the bot is killed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from telegram_people import ROOT, BotProcess, Person, button, new_person, running_bot
from telegram_server import TOKEN, TelegramServer
from toy import draw

from stablediff import Pipeline
from stablediff.images import over_white

LONG = "--steps 1000 --size 128x128"
# A disk that is full as long as files say so: for pictures, or for what the store notes about its jobs.
FULL_DISK = """
import errno, os, pathlib, sqlite3
from stablediff.telegram.delivery import Delivery
from stablediff.telegram.store import Store
real = os.fsync
def fsync(descriptor):
    if pathlib.Path({flag!r}).exists():
        raise OSError(errno.ENOSPC, "No space left on device")
    return real(descriptor)
os.fsync = fsync
def full(work):
    def instead(store, *args, **columns):
        if pathlib.Path({flag!r} + "-store").exists():
            raise sqlite3.OperationalError("database or disk is full")
        return work(store, *args, **columns)
    return instead
Store.set_job, Store.set_picture = full(Store.set_job), full(Store.set_picture)
stickers = Delivery._stickers
async def broken(delivery):
    if delivery.job.request["prompt"] == "breaks":
        raise ZeroDivisionError
    return await stickers(delivery)
Delivery._stickers = broken
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def bot(toy_folder: Path, folder: Path) -> Iterator[BotProcess]:
    more = ["--pending", "5", "--progress-seconds", "0.3"]
    prelude = FULL_DISK.format(flag=str(folder / "full"))
    with running_bot(toy_folder, folder / "bot", "--daily", "20000", *more, prelude=prelude, faulty=True) as bot:
        yield bot


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *(("editMessageMedia", kind) for kind in (429, 500, "slow", "drop", "hang up")),
        *(("sendMessage", kind) for kind in (429, 500, "drop")),
        ("*", "hang up"),
    ],
)
def test_a_picture_arrives_once_whatever_the_connection_does(
    ann: Person, telegram: TelegramServer, model: Pipeline, method: str, kind: str | int
) -> None:
    telegram.fail(method, kind, times=2, seconds=1)
    ann.say("a red fox --seed 7")
    picture = ann.wait_for_pictures(1)[0]
    assert picture["image"].tobytes() == over_white(draw(model, prompt="a red fox", seed=7).images[0]).tobytes()
    telegram.faults.clear()
    ann.say("/queue")
    ann.wait_for_text("Nothing of yours", after=picture["message_id"])
    assert len(ann.pictures()) == 1


@pytest.mark.parametrize("kind", [429, 500])
def test_an_answer_that_was_refused_comes_later(ann: Person, telegram: TelegramServer, kind: int) -> None:
    telegram.fail("sendMessage", kind, times=2)
    ann.say("/help")
    ann.wait_for_text("In groups")
    ann.say("/privacy")
    ann.wait_for_text("30 days")
    assert len(ann.heard()) == 2


@pytest.mark.parametrize("kind", [429, 500, "slow", "drop", "hang up"])
def test_an_album_arrives_once_or_the_user_is_asked(
    ann: Person, telegram: TelegramServer, model: Pipeline, kind: str | int
) -> None:
    telegram.fail("sendMediaGroup", kind, times=1)
    ann.say("a red fox --seed 5 --pictures 2")
    if kind in (500, "drop", "hang up"):
        asked = ann.wait_for_text("while the pictures were on their way")
        assert len(ann.pictures()) == 2 * (kind == "drop")
        ann.press(asked, "Send again")
    ann.wait_for_text("2 pictures, seeds 5–6")
    expected = [over_white(image).tobytes() for image in draw(model, prompt="a red fox", seed=5, num_images=2).images]
    assert [picture["image"].tobytes() for picture in ann.pictures()] == expected * (1 + (kind == "drop"))


@pytest.mark.parametrize("kind", [429, 500, "drop", "hang up"])
def test_a_sticker_arrives_once_or_the_user_is_asked(ann: Person, telegram: TelegramServer, kind: str | int) -> None:
    telegram.fail("sendSticker", kind)
    ann.say("/sticker fox --seed 5")

    def stickers() -> int:
        return sum("sticker" in message for message in ann.heard())

    if kind == 429:
        ann.wait_for_text("Your sticker")
        assert stickers() == 1
        return
    asked = ann.wait_for_text("The connection broke")
    assert stickers() == (kind == "drop")
    ann.press(asked, "Send again")
    ann.wait_for_text("Your sticker")
    assert stickers() == 1 + (kind == "drop")


def test_telegram_is_gone_while_a_picture_is_drawn(ann: Person, telegram: TelegramServer, bot: BotProcess) -> None:
    ann.say("patience --steps 300 --size 128x128")
    ann.wait_for_text("patience")
    telegram.close()
    ann.say("afterwards --seed 1")
    telegram.wait(lambda: "cannot be reached" in bot.said(), bot.tail)
    telegram.come_back()
    telegram.wait(lambda: "answers again" in bot.said(), bot.tail)
    said = [line for line in bot.said().splitlines() if "cannot be reached" in line]
    assert len(said) == bot.said().count("answers again")  # once, however often it was tried
    assert "goes on trying" in said[-1]
    captions = [picture["caption"] for picture in ann.wait_for_pictures(2)]
    assert {caption.split("\n")[0] for caption in captions} == {"patience", "afterwards"}
    assert len(ann.pictures()) == 2


def test_a_deleted_status_message_and_a_blocked_bot(ann: Person, telegram: TelegramServer) -> None:
    ann.say("a red fox --steps 400 --size 128x128")
    place = ann.wait_for_text("a red fox")
    with telegram.changed:
        del telegram.messages[ann.id, place["message_id"]]
    ann.wait_for_pictures(1)
    ann.say("a cat --steps 400 --size 128x128")
    ann.wait_for_text("a cat")
    telegram.blocked.add(ann.id)
    other = new_person(telegram)
    other.say("a dog")
    other.wait_for_pictures(1)
    telegram.blocked.discard(ann.id)
    ann.say("a dog")
    telegram.wait(lambda: any(picture["caption"].startswith("a dog") for picture in ann.pictures()))
    ann.wait_for_pictures(2)


def test_on_a_full_disk_the_user_is_told_and_the_job_goes_on_when_there_is_room(
    ann: Person, folder: Path, model: Pipeline
) -> None:
    before = new_person(ann.server)
    before.say("a bird")
    before.wait_for_pictures(1)  # no job of others is left that would be told first
    (folder / "full").touch()  # for the pictures
    ann.say("a red fox --seed 7")
    ann.wait_for_text("The disk here is full")
    (folder / "full").unlink()
    picture = ann.wait_for_pictures(1)[0]
    assert picture["image"].tobytes() == over_white(draw(model, prompt="a red fox", seed=7).images[0]).tobytes()
    (folder / "full").touch()
    ann.say("a dog")
    told = ann.wait_for_text("The disk here is full")
    ann.press(told, "Cancel")  # whoever does not want to wait
    ann.server.wait(lambda: "Cancelled." in (told.get("text"), told.get("caption")))
    (folder / "full").unlink()
    (folder / "full-store").touch()  # for what is noted about jobs
    ann.say("a cat")
    ann.server.wait(lambda: len(ann.heard()) == 4)
    (folder / "full-store").unlink()
    ann.wait_for_pictures(2)


def test_the_store_fails_while_a_picture_is_delivered(ann: Person, folder: Path, telegram: TelegramServer) -> None:
    ann.say(f"slow {LONG}")
    ann.say(f"a red fox {LONG}")
    ann.wait_for_text("a red fox")
    (folder / "full-store").touch()
    ann.say("/cancel")
    ann.wait_for_text("could not be noted")
    (folder / "full-store").unlink()
    ann.say("/cancel")
    telegram.wait(lambda: sum("Cancelled." in str(m.get("text", m.get("caption"))) for m in ann.heard()) == 2)


def test_what_breaks_on_the_way_is_told(ann: Person, bot: BotProcess) -> None:
    ann.say("/sticker breaks")
    told = ann.wait_for_text("Something broke here")
    code = told.get("text", told.get("caption")).split()[-1].rstrip(".")
    assert f"error {code}" in bot.said()


def test_answers_come_while_a_picture_is_drawn_and_progress_is_told(ann: Person, telegram: TelegramServer) -> None:
    ann.say("long --steps 1000 --size 256x256")
    running = ann.wait_for_text("long")
    refused = len(telegram.refusals)
    telegram.wait(lambda: "Drawing, step" in running.get("caption", running.get("text", "")))
    other = new_person(telegram)
    other.say("/help")
    other.wait_for_text("In groups")
    assert ann.pictures() == []  # it came before the picture, and not after it
    telegram.wait(lambda: "image" in running and running["image"].format == "JPEG")  # a glimpse of it
    ann.press(running, "Cancel")
    telegram.wait(lambda: running.get("caption") == "Cancelled.")
    assert not any("no text in the message" in refusal for refusal in telegram.refusals[refused:])  # it knew


def test_limits_of_a_user_are_told(ann: Person, telegram: TelegramServer) -> None:
    for wish in range(5):
        ann.say(f"wish {wish} {LONG}")
    ann.wait_for_text("wish 4")
    ann.say("one more")
    ann.wait_for_text("You have 5 wishes waiting")
    ann.say("/cancel")
    ann.wait_for_text("Stopping what you wished for: 5")
    telegram.wait(lambda: sum("Cancelled." in str(m.get("text", m.get("caption"))) for m in ann.heard()) == 5)
    ann.say("much --steps 1000 --size 512x512")
    ann.wait_for_text("of your 20,000 pictures a day")


def test_thirty_people_are_served_in_turn(telegram: TelegramServer) -> None:
    people = [new_person(telegram) for _ in range(30)]
    blocker = new_person(telegram)
    blocker.say("first --steps 1000 --size 256x256")
    running = blocker.wait_for_text("first")
    for wish in range(2):
        for person in people:
            person.say(f"wish {wish}")
    for person in people:
        telegram.wait(lambda person=person: len(person.heard()) >= 3)  # and what somebody new is told
    before = len(telegram.calls)
    blocker.press(running, "Cancel")
    for person in people:
        person.wait_for_pictures(2)
    calls = [p["media"]["caption"].split("\n")[0] for name, p in telegram.calls[before:] if name == "editMessageMedia"]
    firsts = [place for place, caption in enumerate(calls) if caption == "wish 0"]
    seconds = [place for place, caption in enumerate(calls) if caption == "wish 1"]
    assert len(firsts) == len(seconds) == 30
    assert sum(second < first for first in firsts for second in seconds) < 90  # of 900: deliveries overlap a little


def test_a_bot_that_is_killed_goes_on_where_it_was(toy_folder: Path, tmp_path: Path, model: Pipeline) -> None:
    server = TelegramServer()
    ann = new_person(server)
    bot = BotProcess(server, toy_folder, tmp_path, "--progress-seconds", "0.05", "--daily", "5000").wait_until_up()
    try:
        ann.say("long --steps 250 --size 128x128 --seed 7")
        running = ann.wait_for_text("long")
        ann.say("waiting --seed 8")
        ann.wait_for_text("waiting")
        server.wait(lambda: "Drawing, step" in running.get("caption", running.get("text", "")))
        bot.kill()
        ann.say("while it was away --seed 9")
        bot = BotProcess(server, toy_folder, tmp_path, "--daily", "5000").wait_until_up()
        ann.wait_for_pictures(3)
        found = {picture["caption"].split("\n")[0]: picture["image"].tobytes() for picture in ann.pictures()}
        wishes = {"num_steps": 250, "width": 128, "height": 128}
        assert found["long"] == over_white(draw(model, prompt="long", seed=7, **wishes).images[0]).tobytes()
        assert found["waiting"] == over_white(draw(model, prompt="waiting", seed=8).images[0]).tobytes()

        second = BotProcess(server, toy_folder, tmp_path)  # on the same folder
        assert second.process.wait(120) == 2
        assert "stop the other bot" in second.said()

        ann.say("polite --steps 250 --size 128x128")
        running = ann.wait_for_text("polite")
        assert bot.stop() == 0
        bot = BotProcess(server, toy_folder, tmp_path, "--daily", "5000").wait_until_up()
        ann.wait_for_pictures(4)
        assert len(ann.pictures()) == 4
        assert bot.stop() == 0
        assert server.refusals == []
        assert TOKEN.partition(":")[2] not in bot.said()
    finally:
        bot.kill()
        server.close()


@pytest.mark.parametrize(("token", "answer"), [(None, "https://t.me/BotFather"), ("1:" + "x" * 35, "does not know")])
def test_without_a_good_token_it_ends_with_advice(
    toy_folder: Path, tmp_path: Path, token: str | None, answer: str
) -> None:
    server = TelegramServer()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TELEGRAM_")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"TELEGRAM_BOT_TOKEN": token} if token else {})
    command = [
        sys.executable,
        "telegram_bot.py",
        "--api",
        server.url,
        "--data",
        str(tmp_path),
        "--model",
        str(toy_folder),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    server.close()
    assert done.returncode == 2
    assert answer in done.stderr
    assert "x" * 35 not in done.stdout + done.stderr
    assert re.search("Traceback", done.stderr) is None or token


def test_the_bundled_model_draws_in_a_chat_what_it_draws_everywhere(sticker: Pipeline, tmp_path: Path) -> None:
    with running_bot("sticker", tmp_path) as bot:
        ann = new_person(bot.server)
        ann.say("/gen red apple, flat style --seed 5 --steps 2 --size 96x64")
        picture = ann.wait_for_pictures(1)[0]
        direct = draw(sticker, prompt="red apple, flat style", seed=5, num_steps=2, width=96, height=64)
        assert picture["image"].tobytes() == over_white(direct.images[0]).tobytes()
        ann.press(picture, "Lossless file")
        file = ann.wait_for_pictures(2)[1]
        assert file["image"].tobytes() == direct.images[0].tobytes()
        assert button(picture, "Copy command")["copy_text"]["text"].endswith("--pictures 1")


FEW_LANES = "from stablediff.telegram import courier; courier.AT_ONCE = 2"


@pytest.mark.parametrize("method", ["editMessageMedia", "sendMessage"])
def test_chats_that_telegram_holds_up_do_not_hold_up_the_others(toy_folder: Path, tmp_path: Path, method: str) -> None:
    with running_bot(toy_folder, tmp_path, prelude=FEW_LANES) as bot:
        held_up = [new_person(bot.server) for _ in range(3)]
        bot.server.fail(method, 429, times=3, seconds=600)
        for person in held_up:
            person.say("a red fox --seed 1")
        bot.server.wait(lambda: not any(fault.times for fault in bot.server.faults))
        ann = new_person(bot.server)
        ann.say("a blue fox --seed 2")
        ann.wait_for_pictures(1)
        assert not any(person.pictures() for person in held_up)
