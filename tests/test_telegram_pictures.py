"""What comes of a wish: pictures, albums, files, stickers and packs, and what the buttons under them do."""

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from telegram_people import WAYS, BotProcess, Person, as_sent, button, labels, new_person, running_bot, updates_by
from telegram_server import TelegramServer
from toy import draw

from stablediff import Pipeline, command
from stablediff.images import over_white, read_parameters
from stablediff.request import UPSCALE_STRENGTH, VARIATION_STRENGTH
from stablediff.sticker import to_sticker


@pytest.fixture(scope="module", params=WAYS)
def bot(
    request: pytest.FixtureRequest, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BotProcess]:
    options = ["--daily", "100000", *updates_by(request.param)]
    with running_bot(toy_folder, tmp_path_factory.mktemp("pictures"), *options) as bot:
        yield bot
        assert bot.server.refusals == []


@pytest.mark.parametrize(("language", "said", "label"), [("en", "3 pictures, seeds 7–9", "Lossless"),
                                                          ("ru", "Картинок: 3, зерно 7–9", "Файл")])  # fmt: skip
def test_several_pictures_come_as_an_album_with_one_set_of_buttons(
    telegram: TelegramServer, model: Pipeline, language: str, said: str, label: str
) -> None:
    person = new_person(telegram, language)
    person.say("a red fox --seed 7 --pictures 3")
    summary = person.wait_for_text(said)
    album = person.wait_for_pictures(3)
    direct = draw(model, prompt="a red fox", seed=7, num_images=3)
    assert [picture["image"].tobytes() for picture in album] == [as_sent(direct, index) for index in range(3)]
    assert len({picture["media_group_id"] for picture in album}) == 1
    assert [re.search(r"(?:seed|зерно) (\d)", picture["caption"])[1] for picture in album] == ["7", "8", "9"]
    assert "reply_markup" not in album[0]  # Telegram has no buttons under albums
    assert [label for label in labels(summary) if label.strip("· ").isdigit()] == ["· 1 ·", "2", "3"]

    person.press(summary, "3")
    telegram.wait(lambda: "· 3 ·" in labels(summary))
    person.press(summary, "· 3 ·")  # once more changes nothing, and breaks nothing
    person.press(summary, label)
    assert person.wait_for_pictures(4)[3]["image"].tobytes() == direct.images[2].tobytes()
    copied = next(b for row in summary["reply_markup"]["inline_keyboard"] for b in row if "copy_text" in b)
    assert "--seed 9 " in copied["copy_text"]["text"]
    telegram.refusals[:] = [refusal for refusal in telegram.refusals if "not modified" not in refusal]


def test_twelve_pictures_are_two_albums(ann: Person, model: Pipeline) -> None:
    ann.say("a red fox --seed 7 --pictures 12")
    pictures = ann.wait_for_pictures(12)
    assert [*Counter(picture["media_group_id"] for picture in pictures).values()] == [6, 6]
    direct = draw(model, prompt="a red fox", seed=7, num_images=12)
    assert [picture["image"].tobytes() for picture in pictures] == [as_sent(direct, index) for index in range(12)]


LABELS = {
    "en": ("Lossless file", "Again", "Upscale", "Variations", "Settings", "Your settings", "Your last pictures"),
    "ru": ("Файл без потерь", "Ещё раз", "Увеличить", "Вариации", "Настройки", "Ваши настройки", "Ваши последние"),
}


@pytest.mark.parametrize("language", LABELS)
def test_the_buttons_under_a_picture(telegram: TelegramServer, model: Pipeline, language: str) -> None:
    ann = new_person(telegram, language)
    lossless, again, upscale, variations, settings, panel, history = LABELS[language]
    ann.say("a red fox --seed 7")
    picture = ann.wait_for_pictures(1)[0]
    direct = draw(model, prompt="a red fox", seed=7)

    ann.press(picture, lossless)
    file = ann.wait_for_pictures(2)[1]
    assert file["image"].tobytes() == direct.images[0].tobytes()
    assert read_parameters(io.BytesIO(file["data"])) == direct.parameters(0)
    assert b"trainedAlgorithmicMedia" in file["data"]

    ann.press(picture, again)
    seed = int(re.search(r"(?:seed|зерно) (\d+)", ann.wait_for_pictures(3)[2]["caption"])[1])
    assert seed != 7
    assert ann.pictures()[2]["image"].tobytes() == as_sent(draw(model, prompt="a red fox", seed=seed))

    ann.press(picture, upscale)
    large = ann.wait_for_pictures(4)[3]
    seed = int(re.search(r"(?:seed|зерно) (\d+)", large["caption"])[1])
    wishes = {"init_image": direct.images[0], "strength": UPSCALE_STRENGTH, "width": 128, "height": 128}
    assert large["image"].tobytes() == as_sent(draw(model, prompt="a red fox", seed=seed, **wishes))

    ann.press(picture, variations)
    near = ann.wait_for_pictures(7)[4:]
    seed = int(re.search(r"(?:seed|зерно) (\d+)", near[0]["caption"])[1])
    wishes = {
        "init_image": direct.images[0],
        "strength": VARIATION_STRENGTH,
        "width": 64,
        "height": 64,
        "num_images": 3,
    }
    drawn = draw(model, prompt="a red fox", seed=seed, **wishes)
    assert [near[i]["image"].tobytes() for i in range(3)] == [as_sent(drawn, i) for i in range(3)]

    ann.press(picture, settings)
    ann.wait_for_text(panel)
    ann.say("/history")
    shown = ann.wait_for_text(history)
    assert shown["text"].count("a red fox") == 6
    ann.press(shown, "6")
    assert ann.wait_for_pictures(8)[7]["image"].tobytes() == as_sent(direct)


def test_a_picture_that_is_no_photo_to_telegram_comes_as_a_file(ann: Person, model: Pipeline) -> None:
    ann.say("a horizon --size 1344x64 --seed 2")  # wider than twenty times its height
    picture = ann.wait_for_pictures(1)[0]
    assert "document" in picture
    direct = draw(model, prompt="a horizon", width=1344, height=64, seed=2)
    assert picture["image"].tobytes() == direct.images[0].tobytes()
    ann.say("/history")
    ann.press(ann.wait_for_text("Your last pictures"), "1")
    assert ann.wait_for_pictures(2)[1]["image"].tobytes() == direct.images[0].tobytes()


def test_stickers_and_packs(ann: Person, telegram: TelegramServer, model: Pipeline) -> None:
    ann.say("/sticker fox --seed 5")
    ready = ann.wait_for_text("Your sticker: fox")
    sticker = next(message for message in ann.heard() if "sticker" in message)
    assert sticker["image"].format == "WEBP"
    direct = to_sticker(draw(model, prompt="fox", seed=5).images[0])
    assert over_white(sticker["image"]).tobytes() == over_white(direct).tobytes()  # what is clear has no colour
    assert sticker["image"].getchannel("A").tobytes() == direct.getchannel("A").tobytes()

    ann.say("/pack Foxes & friends")
    ann.wait_for_text("starts the pack “Foxes & friends”")
    ann.press(ready, "Add to my sticker pack")
    link = ann.wait_for_text("It is in your pack")["text"].rpartition("/")[2]
    assert telegram.sets[link]["title"] == "Foxes & friends"
    assert telegram.sets[link]["stickers"][0]["emoji"] == "🦊"
    ann.press(ready, "Add to my sticker pack")
    telegram.wait(lambda: len(telegram.sets[link]["stickers"]) == 2)
    sent = ann.say("/pack")["message_id"]
    ann.wait_for_text(f"Foxes & friends: https://t.me/addstickers/{link}", after=sent)


def find(person: Person, words: str, count: int) -> list[dict]:
    """Searches until the bot has noted that the last of them arrived."""
    return person.server.wait(lambda: len(found := person.search(words)) == count and found)


def test_inline_mode_finds_ones_own_pictures(ann: Person, telegram: TelegramServer) -> None:
    assert ann.search("") == []
    ann.say("a red fox --pictures 2")
    ann.say("/sticker a green frog")
    ann.wait_for_pictures(2)
    ann.wait_for_text("Your sticker")
    files = {message["photo"][-1]["file_id"] for message in ann.pictures()}
    assert {result["photo_file_id"] for result in find(ann, "Red Fox", 2)} == files
    assert [result["type"] for result in find(ann, "frog", 1)] == ["sticker"]
    assert len(ann.search("")) == 3
    assert new_person(telegram).search("fox") == []
    for seed in range(5):
        ann.say(f"many --pictures 4 --seed {seed}")
        ann.wait_for_pictures(2 + 4 * (seed + 1))
    find(ann, "many", 20)
    assert telegram.next_offset == ""
    assert len(ann.search("")) == 20
    assert len(ann.search("", telegram.next_offset)) == 3


def test_a_stale_button_still_does_its_work(ann: Person, telegram: TelegramServer) -> None:
    ann.say("a red fox --seed 7")
    picture = ann.wait_for_pictures(1)[0]
    ann.send_data(picture, button(picture, "Again")["callback_data"], stale=True)
    ann.wait_for_pictures(2)
    assert any("query is too old" in refusal for refusal in telegram.refusals)
    telegram.refusals.clear()


def test_a_command_that_is_too_long_to_copy_is_sent(ann: Person) -> None:
    prompt = "many words " * 30
    ann.say(f"{prompt} --seed 4")
    picture = ann.wait_for_pictures(1)[0]
    ann.press(picture, "Copy command")
    text = ann.wait_for_text("/gen many")["text"]
    assert command.parse(text.removeprefix("/gen "))["prompt"] == prompt.strip()
