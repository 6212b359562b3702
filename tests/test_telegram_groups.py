"""Groups: the bot speaks when it is spoken to, and everybody keeps what is theirs. By polling and over a webhook."""

import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from telegram_people import WAYS, BotProcess, Person, button, group, new_person, running_bot, updates_by
from toy import draw

from stablediff import Pipeline
from stablediff.images import over_white

GROUP, QUIET, FORUM, UNLISTED, OLD, NEW = -1001, -1002, -1003, -1004, -1005, -1006
CROWD = {"en": -1007, "ru": -1008}  # where so much is said that Telegram's limit for groups is near
SMALL = {"en": -1009, "ru": -1010}


@pytest.fixture(scope="module", params=WAYS)
def bot(
    request: pytest.FixtureRequest, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BotProcess]:
    options = [
        f"--groups={GROUP},{QUIET},{FORUM},{OLD},{NEW},-1007,-1008,-1009,-1010",
        "--daily",
        "5000",
        *updates_by(request.param),
    ]
    with running_bot(toy_folder, tmp_path_factory.mktemp("groups"), *options, faulty=True) as bot:
        yield bot
        assert bot.server.refusals == []


@pytest.fixture
def ann(bot: BotProcess) -> Person:
    return new_person(bot.server)


def test_it_draws_when_it_is_addressed_and_only_then(bot: BotProcess, ann: Person, model: Pipeline) -> None:
    chat = group(bot.server, QUIET)
    for words in ("a red fox", "/gen a red fox", "/gen@other_bot a red fox", "@draws_bots a red fox"):
        ann.say(words, chat)
    ann.say("/gen@draws_bot a red fox --seed 1", chat)
    first = ann.wait_for_pictures(1, chat)[0]
    assert first["image"].tobytes() == over_white(draw(model, prompt="a red fox", seed=1).images[0]).tobytes()
    ann.say("@draws_bot a cat --seed 2", chat)
    second = ann.wait_for_pictures(2, chat)[1]
    assert second["image"].tobytes() == over_white(draw(model, prompt="a cat", seed=2).images[0]).tobytes()
    ann.say("a dog --seed 3", chat, answering=second)
    assert "a dog" in ann.wait_for_pictures(3, chat)[2]["caption"]
    said = [message.get("text", "a picture") for message in ann.heard(chat)]
    assert len(said) == 4
    assert "made by AI" in said[1]  # once, to somebody new


IN_PRIVATE = ("settings", "history", "pack", "delete")
ANSWERS = {
    "en": {"start": "Hello", "help": "In groups", "queue": "Nothing of yours", "privacy": "30 days",
           "cancel": "nothing of yours", "gen": "Say what", "sticker": "Say what", "stats": "do not know",
           "ban": "do not know"},
    "ru": {"start": "Привет", "help": "В группах", "queue": "Ничего вашего", "privacy": "30 дн", "ban": "команды нет",
           "cancel": "Отменять нечего", "gen": "Напишите", "sticker": "Напишите", "stats": "команды нет"},
}  # fmt: skip


@pytest.mark.parametrize(("language", "mention"), [("en", "Say what"), ("ru", "Напишите, что нарисовать")])
def test_commands_in_a_group(bot: BotProcess, language: str, mention: str) -> None:
    chat = group(bot.server, CROWD[language])
    person = new_person(bot.server, language)
    answers = {**dict.fromkeys(IN_PRIVATE, "https://t.me/draws_bot"), **ANSWERS[language]}
    for name, answer in answers.items():
        sent = person.say(f"/{name}@draws_bot", chat)["message_id"]
        person.wait_for_text(answer, after=sent, chat=chat)
    sent = person.say("@draws_bot", chat)["message_id"]
    person.wait_for_text(mention, after=sent, chat=chat)


@pytest.mark.parametrize(
    ("language", "labels", "private"),
    [
        ("en", ["Again", "Upscale", "Lossless file", "Add to my sticker pack"], "ask me in private"),
        ("ru", ["Ещё раз", "Увеличить", "Файл без потерь", "В мой набор"], "в личном чате"),
    ],
)
def test_buttons_in_a_group(bot: BotProcess, language: str, labels: list[str], private: str) -> None:
    chat = group(bot.server, SMALL[language])
    person = new_person(bot.server, language)
    person.say("@draws_bot a red fox --seed 3", chat)
    picture = person.wait_for_pictures(1, chat)[0]
    for count, label in enumerate(labels[:3], 2):
        person.press(picture, label)
        person.wait_for_pictures(count, chat)
    person.press(picture, labels[3])
    person.wait_for_text("https://t.me/addstickers/", chat=chat)
    assert private in person.toast(person.press(picture, "Settings" if language == "en" else "Настройки"))
    assert all(message["reply_markup"] for message in person.pictures(chat) if "photo" in message)


def test_everybody_presses_their_own_buttons(bot: BotProcess, ann: Person) -> None:
    chat = group(bot.server, GROUP)
    before = len(ann.pictures(chat))
    ann.say("@draws_bot a red fox", chat)
    picture = ann.wait_for_pictures(before + 1, chat)[before]
    other = new_person(bot.server)
    for label in ("Again", "Variations", "Upscale", "Lossless", "Add to"):
        assert "somebody else's. Copy its command" in other.toast(other.press(picture, label))
    assert "in private" in ann.toast(ann.press(picture, "Settings"))
    ann.press(picture, "Lossless file")
    assert "document" in ann.wait_for_pictures(before + 2, chat)[before + 1]


def test_a_reply_to_a_photo_and_a_topic_of_a_forum(bot: BotProcess, ann: Person) -> None:
    chat = group(bot.server, FORUM, is_forum=True)
    topic = {"message_thread_id": 5, "is_topic_message": True}
    ann.write({"text": "/gen@draws_bot a red fox", **topic}, chat)
    picture = ann.wait_for_pictures(1, chat)[0]
    assert picture["message_thread_id"] == 5
    ann.write({"text": "/gen@draws_bot made of glass", **topic}, chat, answering=picture)
    ann.press(ann.wait_for_pictures(2, chat)[1], "Copy command")
    command = ann.wait_for_text("/gen@draws_bot made of glass", picture["message_id"] + 1, chat)["text"]
    assert "--strength" in command
    ann.write({"text": command.replace("@draws_bot", ""), **topic}, chat, answering=picture)  # an answer needs no name
    again = ann.wait_for_pictures(3, chat)[2]
    assert again["image"].tobytes() == ann.pictures(chat)[1]["image"].tobytes()


def test_what_is_said_in_a_group_works_there(bot: BotProcess, ann: Person) -> None:
    chat = group(bot.server, GROUP)
    sent = ann.say("/start@draws_bot", chat)["message_id"]
    assert "as: /gen@draws_bot " in ann.wait_for_text("Just write", sent, chat)["text"]
    sent = ann.say("/help@draws_bot", chat)["message_id"]
    assert "In groups: /gen@draws_bot" in ann.wait_for_text("/gen@draws_bot ", sent, chat)["text"]
    sent = ann.say("/gen@draws_bot", chat)["message_id"]
    ann.wait_for_text("as in: /gen@draws_bot ", sent, chat)
    before = len(ann.pictures(chat))
    ann.say("@draws_bot a red fox --seed 3", chat)
    picture = ann.wait_for_pictures(before + 1, chat)[before]
    ann.say(button(picture, "Copy command")["copy_text"]["text"], chat)
    copy = ann.wait_for_pictures(before + 2, chat)[before + 1]
    assert copy["image"].tobytes() == picture["image"].tobytes()


def test_a_photo_that_mentions_the_bot_is_where_the_drawing_starts(
    bot: BotProcess, ann: Person, model: Pipeline
) -> None:
    chat = group(bot.server, GROUP)
    before, buffer = len(ann.pictures(chat)), io.BytesIO()
    photo = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    photo.save(buffer, "PNG")
    ann.send_photo(buffer.getvalue(), photo.size, "a photo among friends", chat)
    ann.send_photo(buffer.getvalue(), photo.size, "@draws_bot made of glass --seed 4", chat)
    picture = ann.wait_for_pictures(before + 1, chat)[before]
    direct = draw(model, prompt="made of glass", seed=4, init_image=photo)
    assert picture["image"].tobytes() == over_white(direct.images[0]).tobytes()


def test_other_groups_are_told_that_they_are_not_served(bot: BotProcess, ann: Person) -> None:
    chat = group(bot.server, UNLISTED)
    ann.say("/gen@draws_bot a red fox", chat)
    ann.wait_for_text(f"This group ({UNLISTED})", chat=chat)
    assert ann.pictures(chat) == []


def test_a_group_that_became_a_supergroup_gets_its_picture_there(bot: BotProcess, ann: Person) -> None:
    chat = group(bot.server, OLD)
    ann.say("/gen@draws_bot a red fox --steps 300 --size 128x128", chat)
    ann.wait_for_text("a red fox", chat=chat)
    moved = group(bot.server, NEW)
    bot.server.migrated[OLD] = NEW
    ann.wait_for_pictures(1, moved)
    assert ann.pictures(chat) == []
    bot.server.refusals.clear()


def test_a_webhook_takes_no_update_without_its_secret(bot: BotProcess, ann: Person) -> None:
    hook = bot.server.webhook
    if hook is None:
        assert bot.server.polling > 0  # nothing listens
        return
    assert len(hook["secret"]) >= 32
    for secret in ("", "guessed"):
        request = urllib.request.Request(
            hook["url"], b'{"update_id": 1}', {"X-Telegram-Bot-Api-Secret-Token": secret} if secret else {}
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=60)
    assert ann.heard() == []
