"""Private chats, as people have them: telegram_bot.py as a process, a strict Telegram on loopback, real HTTP."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from telegram_people import WAYS, BotProcess, Person, as_sent, button, labels, new_person, running_bot, updates_by
from telegram_server import TelegramServer
from toy import draw

from stablediff import Pipeline


@pytest.fixture(scope="module", params=WAYS)
def bot(
    request: pytest.FixtureRequest, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BotProcess]:
    options = ["--daily", "100000", "--admins", "77", *updates_by(request.param)]
    with running_bot(toy_folder, tmp_path_factory.mktemp("chat"), *options) as bot:
        yield bot
        assert bot.server.refusals == []


def a_photo(size: tuple[int, int] = (96, 64)) -> tuple[bytes, Image.Image]:
    """A JPEG with EXIF data, and what it looks like."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue(), Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


@pytest.mark.parametrize(
    ("language", "hello", "again"), [("en", "made by AI", "Again"), ("ru", "создаёт ИИ", "Ещё раз")]
)
def test_words_become_the_picture_of_the_direct_call(
    telegram: TelegramServer, model: Pipeline, language: str, hello: str, again: str
) -> None:
    person = new_person(telegram, language)
    person.say("a red fox --seed 7")
    picture = person.wait_for_pictures(1)[0]
    direct = draw(model, prompt="a red fox", seed=7)
    assert picture["image"].tobytes() == as_sent(direct)
    assert ("seed 7" if language == "en" else "зерно 7") in picture["caption"]
    assert button(picture, again)
    person.say("/start")
    person.wait_for_text(hello)
    assert person.id in telegram.activities
    person.wait_for_text("/privacy")
    assert len(person.pictures()) == 1  # the message that said the place became the picture


@pytest.mark.parametrize(
    ("language", "answers"),
    [
        ("en", {"start": "Hello", "help": "negative prompt", "queue": "Nothing of yours", "cancel": "nothing of yours",
                "history": "no pictures", "pack": "no pack yet", "privacy": "30 days", "settings": "Your settings",
                "gen": "Say what", "sticker": "Say what", "stats": "do not know", "ban": "do not know",
                "nonsense": "do not know"}),
        ("ru", {"start": "Привет", "help": "негативный", "queue": "Ничего вашего", "cancel": "Отменять нечего",
                "history": "нет", "pack": "Наборов пока нет", "privacy": "30 дн", "settings": "Ваши настройки",
                "gen": "Напишите", "sticker": "Напишите", "stats": "Такой команды нет", "ban": "Такой команды нет",
                "nonsense": "Такой команды нет"}),
    ],
)  # fmt: skip
def test_every_command_answers_in_both_languages(
    telegram: TelegramServer, language: str, answers: dict[str, str]
) -> None:
    person = new_person(telegram, language)
    for name, part in answers.items():
        sent = person.say(f"/{name}")["message_id"]
        person.wait_for_text(part, after=sent)
    telegram.wait(lambda: "ru" in telegram.commands)
    assert {command["command"] for command in telegram.commands["ru"]} <= {*answers, "delete"}


def test_flags_settings_and_the_copied_command_make_the_same_request(ann: Person, model: Pipeline) -> None:
    ann.say("/gen a red fox --steps 4 --seed 9007199254740993 --size 64x128 --guidance 3.5 --sampler euler\nfog\nrain")
    first = ann.wait_for_pictures(1)[0]
    wishes = {"num_steps": 4, "seed": 9007199254740993, "width": 64, "height": 128, "guidance_scale": 3.5}
    direct = draw(model, prompt="a red fox", negative_prompt="fog\nrain", sampler="euler", **wishes)
    assert first["image"].tobytes() == as_sent(direct)

    ann.say("/settings")
    panel = ann.wait_for_text("Your settings")
    for name, choice in [("Size", "256x256"), ("Steps", "8"), ("Pictures", "2"), ("Sampler", "Heun")]:
        ann.press(panel, name)
        ann.server.wait(lambda choice=choice: any(choice == label for label in labels(panel)))
        assert (panel["text"], labels(panel)[-1]) == (f"{name}: what shall be usual?", "Back")
        assert ("· 1 ·" if name == "Pictures" else "· as the model ·") in labels(panel)
        ann.press(panel, choice)
        ann.server.wait(lambda name=name, choice=choice: f"{name}: {choice}" in labels(panel), lambda: str(panel))
    ann.say(button(first, "Copy command")["copy_text"]["text"])  # says all, so settings change nothing
    assert ann.wait_for_pictures(2)[1]["image"].tobytes() == as_sent(direct)
    ann.say("a cat --seed 1")
    third, fourth = ann.wait_for_pictures(4)[2:]
    assert third["media_group_id"] == fourth["media_group_id"]
    direct = draw(model, prompt="a cat", seed=1, num_steps=8, width=256, height=256, sampler="heun", num_images=2)
    assert [third["image"].tobytes(), fourth["image"].tobytes()] == [as_sent(direct, 0), as_sent(direct, 1)]


def test_a_picture_of_its_own_is_taken_as_it_was_drawn(ann: Person, model: Pipeline) -> None:
    """Telegram compresses photos, and the copied command of a variation would draw another picture from that."""
    ann.say("a red fox --seed 1")
    picture = ann.wait_for_pictures(1)[0]
    ann.say("made of glass --seed 3 --strength 0.5", answering=picture)
    before = draw(model, prompt="a red fox", seed=1)
    direct = draw(model, prompt="made of glass", seed=3, strength=0.5, init_image=before.images[0])
    assert ann.wait_for_pictures(2)[1]["image"].tobytes() == as_sent(direct)


def test_the_language_can_be_chosen(ann: Person) -> None:
    ann.say("/settings")
    panel = ann.wait_for_text("Your settings")
    ann.press(panel, "Language")
    ann.server.wait(lambda: "Русский" in labels(panel))
    ann.press(panel, "Русский")
    ann.server.wait(lambda: "Язык: Русский" in labels(panel))
    ann.say("/queue")
    ann.wait_for_text("Ничего вашего")


def test_a_photo_with_a_caption_is_where_the_drawing_starts(bot: BotProcess, ann: Person, model: Pipeline) -> None:
    data, image = a_photo()
    sent = ann.send_photo(data, (96, 64), "made of glass --seed 3 --strength 0.5")
    picture = ann.wait_for_pictures(1)[0]
    direct = draw(model, prompt="made of glass", seed=3, strength=0.5, init_image=image)
    assert picture["image"].tobytes() == as_sent(direct)
    assert not any(b"where I live" in file.read_bytes() for file in (bot.data / "inputs").iterdir())

    ann.press(picture, "Copy command")
    ann.wait_for_text("drawn from another one")
    ann.say(ann.wait_for_text("/gen made of glass")["text"], answering=sent)
    assert ann.wait_for_pictures(2)[1]["image"].tobytes() == as_sent(direct)
    ann.press(picture, "Again")  # from the same photo
    seed = int(re.search(r"seed (\d+)", ann.wait_for_pictures(3)[2]["caption"])[1])
    again = draw(model, prompt="made of glass", seed=seed, strength=0.5, init_image=image)
    assert ann.pictures()[2]["image"].tobytes() == as_sent(again)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    ann.send_file(buffer.getvalue(), "image/png", "made of glass --seed 3 --strength 0.5")
    assert ann.wait_for_pictures(4)[3]["image"].tobytes() == as_sent(direct)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("кот --steps 5000", "число шагов: 5000. Выберите от 1 до 1000"),
        ("кот --size 65x64", "ширина: 65. Нужно кратное 8"),
        ("кот --sampler magic", "сэмплер: «magic» — такого нет"),
        ("кот --step 3", "флага --step нет"),
        ("кот --seed", "нужно значение"),
    ],
)
def test_refusals_are_in_the_language_of_the_user(telegram: TelegramServer, typed: str, answer: str) -> None:
    person = new_person(telegram, "ru")
    person.say(typed)
    assert person.wait_for_text(answer)["text"].startswith("Так не получится: ")


def test_files_that_are_no_pictures_are_refused_before_they_are_decoded(ann: Person) -> None:
    bombs = [io.BytesIO(), io.BytesIO()]  # 80 and 200 million pixels in a few kilobytes
    for bomb, width in zip(bombs, (8_000, 20_000), strict=True):
        Image.new("1", (width, 10_000)).save(bomb, "PNG")
    photo, _ = a_photo()
    for send, answer in [
        (lambda: ann.send_photo(photo, (96, 64)), "with a caption"),
        (lambda: ann.send_file(bombs[0].getvalue(), "image/png", "a cat"), "scale it down"),
        (lambda: ann.send_file(bombs[1].getvalue(), "image/png", "a cat"), "far too many pixels"),
        (lambda: ann.send_file(b"%PDF-1.7", "application/pdf", "a cat"), "I read pictures only"),
        (lambda: ann.send_file(b"%PDF-1.7", "application/pdf"), "I read pictures only"),
        (lambda: ann.send_file(b"%PDF-1.7", "image/png", "a cat"), "must be a whole PNG"),
        (lambda: ann.send_file(photo[: len(photo) // 2], "image/jpeg", "a cat"), "must be a whole PNG"),
        (lambda: ann.send_file(b"", "image/gif", "a cat"), "I read pictures only"),
        (lambda: ann.send_file(photo, "image/jpeg", "a cat", size=30_000_000), "at most 20"),
        (lambda: ann.send_photo(photo, (20_000, 10_000), "a cat"), "I read pictures only"),
        (
            lambda: ann.write({"voice": {"file_id": "v", "file_unique_id": "v", "duration": 1}}),
            "I read words and pictures",
        ),
        (lambda: ann.say("a cat --steps 100000"), "--steps is 100000: choose 1 to 1000"),
        (lambda: ann.say("a cat --size 63x64"), "--size: width is 63"),
        (lambda: ann.say("a cat --sampler magic"), "is not known"),
    ]:
        ann.wait_for_text(answer, after=send()["message_id"])
    assert ann.pictures() == []


def test_a_running_and_a_waiting_job_can_be_cancelled_by_their_owner_only(
    ann: Person, telegram: TelegramServer
) -> None:
    ann.say("long --steps 1000 --size 256x256")
    running = ann.wait_for_text("long")
    ann.say("waiting --seed 1")
    waiting = ann.wait_for_text("waiting")
    stranger = new_person(telegram)
    for data in (button(running, "Cancel")["callback_data"], "x:1", "x:999999", "x:-1", "x:a", "x:1:2", "x"):
        assert stranger.toast(stranger.send_data(running, data)) in (
            "This is somebody else's.", "This button is no longer in use.",
            "It is too late to cancel this one.")  # fmt: skip
    ann.say("/queue")
    assert "waiting" in ann.wait_for_text("in the queue:")["text"]
    ann.press(waiting, "Cancel")
    telegram.wait(lambda: waiting["text"] == "Cancelled.")
    ann.press(running, "Cancel")
    telegram.wait(lambda: "Cancelled." in (running.get("text"), running.get("caption")))
    ann.say("long --steps 1000 --size 256x256")
    sent = ann.say("/cancel")["message_id"]
    ann.wait_for_text("Stopping what you wished for: 1", after=sent)
    ann.wait_for_text("Cancelled.", after=sent - 2)
    assert ann.pictures() == []


def test_those_who_wait_see_that_they_come_nearer(ann: Person, telegram: TelegramServer) -> None:
    people = [ann, *(new_person(telegram) for _ in range(3))]
    shown = []
    for person in people:
        person.say("patience --steps 1000 --size 256x256")
        shown.append(person.wait_for_text("patience"))
    telegram.wait(lambda: "place 3" in shown[3].get("text", ""))
    people[1].say("/cancel")
    telegram.wait(lambda: "place 2" in shown[3].get("text", ""))
    for person in people:
        person.say("/cancel")


def test_what_cannot_be_enlarged_is_not_offered_to_be(ann: Person) -> None:
    ann.say("wide --size 1088x64 --steps 1")
    ann.say("small --steps 1")
    wide, small = ann.wait_for_pictures(2)
    assert "Upscale" in labels(small)
    assert "Upscale" not in labels(wide)
    ann.press(small, "Lossless file")
    file = ann.wait_for_pictures(3)[2]
    ann.say("made of glass --strength 0.5", answering=file)
    assert "strength 0.5" in ann.wait_for_pictures(4)[3]["caption"]


def test_strangers_and_made_up_data_are_refused(ann: Person, telegram: TelegramServer, bot: BotProcess) -> None:
    ann.say("mine --seed 1")
    picture = ann.wait_for_pictures(1)[0]
    stranger = new_person(telegram)
    job = button(picture, "Again")["callback_data"].split(":")[1]
    for data in [f"{action}:{job}:0" for action in "avufpchr"] + [f"d:{ann.id}:yes", "s:size:512x512"]:
        assert stranger.toast(stranger.send_data(picture, data)).startswith("This is somebody else's.")
    for data in ["", "q", "a", f"a:{job}", f"a:{job}:1", f"a:{job}:-1", f"a:{job}:{10**30}", f"a:{10**30}:0", "a:x:0",
                 "s:size:1x1", "s:x:y", "s:language:xx", "d:1:yes", "d::", "é" * 32, "::::"]:  # fmt: skip
        assert ann.toast(ann.send_data(picture, data)) != ""
    assert len(ann.pictures()) == 1
    assert stranger.heard() == []
    assert "Traceback" not in bot.said(), bot.tail()


def test_delete_leaves_nothing_behind(ann: Person, bot: BotProcess) -> None:
    data, _ = a_photo()
    ann.send_photo(data, (96, 64), "unmistakable zebra")
    picture = ann.wait_for_pictures(1)[0]
    ann.say("/pack Secret title")
    ann.press(picture, "Add to my sticker pack")
    ann.wait_for_text("It is in your pack")
    job = button(picture, "Again")["callback_data"].split(":")[1]
    ann.say("unmistakable zebra --steps 1000 --size 256x256")
    ann.say("unmistakable zebra, waiting")
    ann.wait_for_text("zebra, waiting")
    inputs = {file.name for file in (bot.data / "inputs").iterdir()}

    ann.say("/delete")
    question = ann.wait_for_text("Forget your prompts")
    assert "addstickers" in question["text"]  # the packs stay with Telegram, and it says which
    ann.press(question, "No")
    ann.wait_for_text("Nothing was deleted")
    ann.say("/delete")
    question = ann.wait_for_text("Forget your prompts", after=question["message_id"])
    ann.press(question, "Yes")
    ann.wait_for_text("nothing about you is left")
    for secret in (b"zebra", b"Secret title", json.dumps(ann.id).encode()):
        for file in bot.data.iterdir():
            assert file.is_dir() or secret not in file.read_bytes(), (secret, file)
    assert not list((bot.data / "pictures").glob(f"{job}-*"))
    assert not {file.name for file in (bot.data / "inputs").iterdir()} >= inputs
    assert ann.search("zebra") == []
    sent = ann.say("/queue")["message_id"]
    ann.wait_for_text("Nothing of yours", after=sent)
    assert ann.toast(ann.press(picture, "Again")) == "This picture is no longer kept."
    ann.say("a new start --seed 1")
    ann.server.wait(lambda: any("a new start" in m.get("caption", "") for m in ann.pictures()))
    assert len(ann.pictures()) == 2


def test_the_operator_sees_figures_and_bans(telegram: TelegramServer) -> None:
    admin, other = Person(telegram, 77), new_person(telegram)
    sent = admin.say("/stats")["message_id"]
    assert re.search(r"Users \d+ · jobs \d+", admin.wait_for_text("Users", after=sent)["text"])
    admin.say("/ban")
    admin.wait_for_text("/ban ID")
    admin.say(f"/ban {other.id}")
    admin.wait_for_text(f"{other.id} is banned")
    other.say("a cat")
    other.wait_for_text("You may not")
    assert other.toast(other.send_data(other.heard()[0], "s")) == "You may not use this bot."
    admin.say(f"/ban {other.id}")
    admin.wait_for_text("is free again")
    other.say("a cat")
    other.wait_for_pictures(1)
