"""Sticker packs: every sticker is in once, whatever becomes of the calls and of the packs."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import telegram_rules
from telegram_people import BotProcess, Person, group, new_person, running_bot
from telegram_rules import check
from telegram_server import TelegramServer

from stablediff.telegram import packs
from stablediff.telegram.store import Store

# One chat at a time is served, and a pack that waits for a second says so.
NARROW = "from stablediff.telegram import courier, delivery; courier.AT_ONCE = 1; delivery.PATIENCE = 1.0"


@pytest.fixture(scope="module")
def bot(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BotProcess]:
    with running_bot(toy_folder, tmp_path_factory.mktemp("packs"), "--daily", "20000", faulty=True) as bot:
        yield bot


@pytest.mark.parametrize("kind", [429, 500, "drop", "hang up"])
@pytest.mark.parametrize("method", ["createNewStickerSet", "addStickerToSet"])
def test_a_pack_gets_every_sticker_once(ann: Person, telegram: TelegramServer, method: str, kind: str | int) -> None:
    ann.say("a red fox")
    picture = ann.wait_for_pictures(1)[0]
    telegram.fail(method, kind)
    sent = 0
    for count in (1, 2):
        ann.press(picture, "Add to my sticker pack")
        told = ann.wait_for_text("It is in your pack", after=sent)
        name, sent = told["text"].rpartition("/")[2], told["message_id"]
        assert len(telegram.sets[name]["stickers"]) == count


@pytest.mark.parametrize("kind", [429, "drop"])
def test_what_its_owner_adds_to_a_pack_meanwhile_is_not_taken_for_ours(
    ann: Person, telegram: TelegramServer, kind: str | int
) -> None:
    ann.say("a red fox")
    picture = ann.wait_for_pictures(1)[0]
    ann.press(picture, "Add to my sticker pack")
    told = ann.wait_for_text("It is in your pack")
    stickers = telegram.sets[told["text"].rpartition("/")[2]]["stickers"]
    telegram.fail("addStickerToSet", kind)
    if kind == 429:
        telegram.fail("addStickerToSet", kind)
    ann.press(picture, "Add to my sticker pack")
    telegram.wait(lambda: kind == "drop" or telegram.faults[-1].times == 0)
    if kind == 429:
        stickers.append(dict(stickers[0]))  # in Telegram's own editor
    ann.wait_for_text("It is in your pack", after=told["message_id"])
    assert len(stickers) == (3 if kind == 429 else 2)


@pytest.mark.parametrize("method", ["createNewStickerSet", "addStickerToSet"])
@pytest.mark.parametrize("kind", ["drop", 500])
def test_two_stickers_whose_answers_are_lost_are_both_there(
    toy_folder: Path, tmp_path: Path, method: str, kind: str | int
) -> None:
    with running_bot(toy_folder, tmp_path) as bot:
        telegram, ann = bot.server, new_person(bot.server)
        chat = group(telegram, -100_889)
        ann.say("a red fox")
        picture = ann.wait_for_pictures(1)[0]
        ann.say("/gen@draws_bot a blue fox", chat)
        other = ann.wait_for_pictures(1, chat)[0]
        sent, count = 0, 2
        if method == "addStickerToSet":
            ann.press(picture, "Add to my sticker pack")
            sent, count = ann.wait_for_text("It is in your pack")["message_id"], 3
        telegram.fail(method, kind)
        telegram.fail("getStickerSet", 500, times=10**6)
        ann.press(picture, "Add to my sticker pack")
        ann.press(other, "Add to my sticker pack")
        time.sleep(5)
        telegram.faults.clear()
        name = ann.wait_for_text("It is in your pack", after=sent)["text"].rpartition("/")[2]
        ann.wait_for_text("It is in your pack", chat=chat)
        assert len(telegram.sets[name]["stickers"]) == count


def test_whose_end_nobody_saw_goes_before_one_that_was_asked_for_earlier(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        common = {"user_id": 7, "chat_id": 7, "kind": "pack", "language": "en", "state": "drawn"}
        jobs = [store.add_job(request={"prompt": "a fox", "title": "T"}, **common) for _ in range(2)]
        earlier, later = (job for job in jobs if job)
        store.set_job(later.id, note="s1_by_draws_bot:0")
        with pytest.raises(packs.OutOfTurnError):
            packs.add(SimpleNamespace(store=store), earlier, b"").send(None)  # type: ignore[arg-type]


def test_a_sticker_that_is_in_is_not_added_again_where_its_telling_waits(ann: Person, telegram: TelegramServer) -> None:
    chat = group(telegram, -100_890)
    ann.say("/gen@draws_bot a blue fox", chat)
    picture = ann.wait_for_pictures(1, chat)[0]
    before = set(telegram.sets)
    telegram.fail("sendMessage", 429, seconds=32)
    ann.press(picture, "Add to my sticker pack")
    telegram.wait(lambda: len(telegram.sets) > len(before))
    ann.say("/pack Other")
    ann.wait_for_text("It is in your pack", chat=chat)
    assert sum(len(telegram.sets[name]["stickers"]) for name in set(telegram.sets) - before) == 1


def test_a_pack_that_is_taken_gone_or_full_is_followed_by_another(ann: Person, telegram: TelegramServer) -> None:
    ann.say("a red fox")
    picture = ann.wait_for_pictures(1)[0]
    sent, names = 0, []
    create = telegram.do_createNewStickerSet
    telegram.do_createNewStickerSet = _occupied_once(telegram, create)  # type: ignore[method-assign]
    for trouble in ("taken", "gone", "full"):
        if trouble == "gone":
            del telegram.sets[names[-1]]
        if trouble == "full":
            telegram.largest_set = 1
        ann.press(picture, "Add to my sticker pack")
        told = ann.wait_for_text("It is in your pack", after=sent)
        sent = told["message_id"]
        names.append(told["text"].rpartition("/")[2])
    telegram.largest_set = 120
    assert len(set(names)) == 3
    assert [len(telegram.sets[name]["stickers"]) for name in names[1:]] == [1, 1]


def _occupied_once(telegram: TelegramServer, create: Callable[..., bool]) -> Callable[..., bool]:
    def work(user_id: int, name: str, title: str, stickers: list) -> bool:
        if not telegram.sets.get("somebody's"):
            telegram.sets["somebody's"] = {"stickers": []}
            telegram.sets[name] = {"stickers": [], "owner": 0}
        return create(user_id, name, title, stickers)

    return work


@pytest.mark.parametrize("kind", [429, 500])
def test_pictures_come_while_a_pack_waits(toy_folder: Path, tmp_path: Path, kind: int) -> None:
    with running_bot(toy_folder, tmp_path, prelude=NARROW, faulty=True) as bot:
        telegram, ann, bob = bot.server, new_person(bot.server), new_person(bot.server)
        ann.say("a red fox")
        picture = ann.wait_for_pictures(1)[0]
        telegram.fail("createNewStickerSet", kind, times=1 if kind == 429 else 10**6, seconds=40)
        ann.press(picture, "Add to my sticker pack")
        told = ann.wait_for_text("does not take it into your pack yet")
        ann.say("a blue fox")
        bob.say("a green fox")
        ann.wait_for_pictures(2)
        bob.wait_for_pictures(1)
        if kind == 429:
            return  # it would take as long as Telegram says
        telegram.faults.clear()
        telegram.wait(lambda: "It is in your pack" in told["text"])
        assert [len(one["stickers"]) for one in telegram.sets.values()] == [1]


def test_a_set_that_was_made_after_all_is_ours(ann: Person, telegram: TelegramServer) -> None:
    ann.say("a red fox")
    picture = ann.wait_for_pictures(1)[0]
    sets, get = set(telegram.sets), telegram.do_getStickerSet
    before = _creations(telegram)

    def not_yet(name: str) -> dict:
        check(_creations(telegram) > before + 1, "STICKERSET_INVALID")
        return get(name)

    telegram.do_getStickerSet = not_yet  # type: ignore[method-assign]
    telegram.fail("createNewStickerSet", "drop")
    ann.press(picture, "Add to my sticker pack")
    name = ann.wait_for_text("It is in your pack")["text"].rpartition("/")[2]
    telegram.do_getStickerSet = get  # type: ignore[method-assign]
    assert set(telegram.sets) - sets == {name}
    assert len(telegram.sets[name]["stickers"]) == 1
    assert _creations(telegram) == before + 2


def _creations(telegram: TelegramServer) -> int:
    return sum(call[0] == "createNewStickerSet" for call in telegram.calls)


def test_a_pack_is_named_anew_if_the_bot_was_renamed_before_it_was_made(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_bot(toy_folder, tmp_path) as bot:
        ann = new_person(bot.server)
        ann.say("a red fox")
        picture = ann.wait_for_pictures(1)[0]
        ann.say("/pack Foxes")
        ann.wait_for_text("starts the pack")
        bot.stop()
        monkeypatch.setitem(telegram_rules.BOT, "username", "paints_bot")
        again = BotProcess(bot.server, toy_folder, tmp_path).wait_until_up()
        ann.press(picture, "Add to my sticker pack")
        name = ann.wait_for_text("It is in your pack")["text"].rpartition("/")[2]
        assert name.endswith("_by_paints_bot")
        assert bot.server.sets[name]["title"] == "Foxes"
        again.stop()
