"""The bot's parts that need no Telegram: commands, whose turn it is, stickers, texts, the token."""

import asyncio
import logging
import re
import sqlite3
import string
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telegram import Update
from toy import toy_pipeline

from stablediff import Request, RequestError, command
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.errors import StableDiffError
from stablediff.lexicon import Lexicon
from stablediff.refusals import translate
from stablediff.request import Limits
from stablediff.telegram import keyboards
from stablediff.telegram.desk import Usage
from stablediff.telegram.emoji import emoji as proposed
from stablediff.telegram.inbox import Inbox
from stablediff.telegram.logs import Redacted
from stablediff.telegram.queue import FairQueue
from stablediff.telegram.record import as_command, from_record, resolve, to_record
from stablediff.telegram.settings import is_foreign
from stablediff.telegram.store import Store
from stablediff.telegram.texts import _TEXTS, COMMANDS, shorten
from stablediff.telegram.wishes import _amount
from stablediff.web import wish

TOKEN = "123456789:AAcanary-Token_0123456789abcdefghij"


def test_flags_are_read_as_people_write_them() -> None:
    typed = "a red fox --steps 12 --seed 7 --size 512x768 --guidance 6,5 --sampler ddim --no blurry, grey"
    assert command.parse(typed) == {
        "prompt": "a red fox",
        "num_steps": 12,
        "seed": 7,
        "width": 512,
        "height": 768,
        "guidance_scale": 6.5,
        "sampler": "ddim",
        "negative_prompt": "blurry, grey",
    }
    assert command.parse("fox —steps 3\nfog\nrain") == {"prompt": "fox", "num_steps": 3, "negative_prompt": "fog\nrain"}
    assert command.parse("--n 2 a fox --cfg=3") == {"prompt": "a fox", "num_images": 2, "guidance_scale": 3.0}
    assert command.parse("ёж --size 512х768") == {"prompt": "ёж", "width": 512, "height": 768}  # a Cyrillic letter
    assert command.parse("a fox --size 64 x 72 red") == {"prompt": "a fox red", "width": 64, "height": 72}
    assert command.parse("лис --зерно 3 --без туман\n--steps 4\nдождь") == {
        "prompt": "лис", "seed": 3, "num_steps": 4, "negative_prompt": "туман, дождь"}  # fmt: skip
    assert command.parse("fox\nfog\n--seed 3\nrain") == {"prompt": "fox", "seed": 3, "negative_prompt": "fog\nrain"}
    assert command.parse("a well-known -- dash") == {"prompt": "a well-known -- dash"}


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("fox --step 3", "there is no --step"),
        ("fox --steps three", "write a whole number"),
        ("fox --guidance much", "write a number"),
        ("fox --size big", "is not a size"),
        ("fox --seed", "needs a value"),
        ("fox\n--seed 3 and more", "stands behind a flag"),
    ],
)
def test_a_wrong_flag_is_named(typed: str, answer: str) -> None:
    with pytest.raises(RequestError, match=answer):
        command.parse(typed)


@pytest.mark.parametrize("negative", ["", "blurry", "two\nlines", "a --steps 3", "--steps 3", "--\nx", "a\n--steps 3"])
def test_a_copied_command_is_the_same_request_as_the_page_makes(negative: str) -> None:
    pipeline = toy_pipeline()
    typed = {"prompt": "a red fox", "negative": negative, "steps": 5, "guidance": 6.25, "sampler": "euler"}
    typed |= {"size": "64x128", "seed": "9007199254740993"}
    page = resolve(pipeline, wish.to_request(typed, pipeline, Limits()))
    copied = as_command(pipeline, to_record(page, None), page.seed)
    chat = resolve(pipeline, Request(**command.parse(copied.removeprefix("/gen "))))
    assert to_record(chat, None) == to_record(page, None)


@settings(deadline=None)  # the machine may be busy
@given(
    prompt=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=40).filter(
        lambda text: "--" not in text and "—" not in text
    ),
    steps=st.integers(1, 1000),
    guidance=st.floats(0, 100),
    seed=st.integers(0, 2**63 - 1),
    sampler=st.sampled_from(sorted(SAMPLERS)),
    spacing=st.sampled_from([None, "karras", "trailing"]),
)
def test_every_request_survives_as_a_command(
    prompt: str, steps: int, guidance: float, seed: int, sampler: str, spacing: str | None
) -> None:
    pipeline = toy_pipeline()
    request = resolve(
        pipeline,
        Request(prompt, num_steps=steps, guidance_scale=guidance, seed=seed, sampler=sampler, spacing=spacing),
    )
    record = to_record(request, None)
    copied = as_command(pipeline, record, seed)
    again = resolve(pipeline, Request(**command.parse(copied.removeprefix("/gen "))))
    assert again == request
    assert from_record(record) == request
    assert as_command(pipeline, record, seed, "sticker") == copied.replace("/gen", "/sticker", 1)


def test_turns_go_round_and_nobody_waits_for_anothers_list() -> None:
    queue = FairQueue()
    for user in range(30):
        for number in range(5):
            queue.put(user, 10 * user + number)
    expected = [10 * user + number for number in range(5) for user in range(30)]
    assert list(queue.order()) == expected
    assert queue.place(11) == 32
    assert [queue.take() for _ in range(30)] == expected[:30]
    queue.put(99, 990)  # somebody new waits for one turn of each, not for four
    assert queue.place(990) == 31
    assert queue.remove(21)
    assert not queue.remove(21)
    taken = [queue.take() for _ in range(len(queue))]
    assert sorted(filter(None, taken)) == sorted({*expected[30:], 990} - {21})
    assert queue.take() is None


@pytest.mark.parametrize(
    ("prompt", "emoji"),
    [("fox, flat style", "🦊"), ("a Red Apple!", "🍎"), ("sunflower", "🌻"), ("nothing at all", "🎨"), ("", "🎨")],
)
def test_an_emoji_is_proposed_from_the_prompt(prompt: str, emoji: str) -> None:
    assert proposed(prompt) == emoji


def test_both_languages_say_the_same_things() -> None:
    def blanks(text: str) -> set[str | None]:
        return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}

    for key, (english, russian) in _TEXTS.items():
        assert blanks(english) == blanks(russian), key
        assert re.search("[А-Яа-я]", russian) or not re.search("[A-Za-z]", re.sub(r"{\w+}|seed", "", english)), key
    assert all(re.search("[А-Яа-я]", russian) for _, russian in COMMANDS.values())


def test_texts_are_shortened_in_telegrams_units() -> None:
    assert shorten("short", 10) == "short"
    assert shorten("🦊" * 10, 20) == "🦊" * 10
    assert shorten("🦊" * 11, 20) == "🦊" * 9 + "…"


def test_a_command_that_is_too_long_to_copy_gets_a_button_that_sends_it() -> None:
    def copies(command: str) -> bool:
        rows = keyboards.under_picture("en", 2**62, 63, command).inline_keyboard
        assert all(len(str(button.callback_data or "").encode()) <= 64 for row in rows for button in row)
        return rows[-1][-1].copy_text is not None

    assert copies("x" * 256)
    assert not copies("x" * 257)
    assert not copies("🦊" * 129)


def test_a_days_work_is_counted_and_a_new_day_starts_afresh() -> None:
    usage = Usage()
    usage.add(1, 2.5)
    usage.add(1, 1)
    assert (usage.of(1), usage.of(2)) == (3.5, 0)
    usage.give_back(1, 1)
    assert usage.of(1) == 2.5
    usage.give_back(2, 1)  # of a day that is over
    assert usage.of(2) == 0
    usage._day = usage._day.replace(year=2000)
    assert usage.of(1) == 0


def test_the_log_hides_the_token_wherever_it_stands() -> None:
    log = Redacted(TOKEN)
    try:
        raise ValueError(f"https://api.telegram.org/bot{TOKEN}/getMe")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "at %s", (TOKEN.replace(":", "%3A"),), sys.exc_info())
    text = log.format(record)
    assert "canary" not in text
    assert text.count("<token>") >= 2
    assert "ValueError" in text


def test_what_is_old_is_forgotten_and_what_waits_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    columns = {"user_id": 1, "chat_id": 1, "kind": "picture", "language": "en", "seeds": [5]}
    for state in ("done", "closed", "queued"):
        job = store.add_job(state=state, request={"prompt": "zebra", "init": f"{state}.png"}, **columns)
        assert job is not None
        for file in (store.picture_file(job.id, 0), store.input_file(f"{state}.png")):
            file.write_bytes(b"zebra")
    store.forget_older_than(0)
    assert len(store.jobs_in("done", "closed", "queued")) == 3
    store.forget_older_than(time.time() + 1)
    assert [job.state for job in store.jobs_in("done", "closed", "queued")] == ["queued"]
    assert {file.name for file in tmp_path.glob("*/*")} == {"3-0.png", "queued.png"}
    store.forget(1)
    assert list(tmp_path.glob("*/*")) == []
    assert not any(b"zebra" in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    store.close()


def test_an_update_is_heard_once_and_kept_until_it_is_answered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.keep_update(7, '{"update_id": 7}')
    assert not store.keep_update(7, "again")
    assert store.keep_update(8, '{"update_id": 8}')
    assert store.keep_update(9, "no JSON")
    store.update_done(7)
    store.close()
    reopened = Store(tmp_path)
    assert reopened.unanswered() == [(8, {"update_id": 8}), (9, None)]
    assert not reopened.keep_update(7, "again")
    reopened.close()


def test_an_update_that_cannot_be_written_down_is_heard_all_the_same(tmp_path: Path) -> None:
    """The library reads a pinned message that is out of sight, and cannot write it as JSON."""
    group = {"id": -5, "type": "supergroup", "title": "g"}
    pinned = {"message_id": 7, "date": 1, "chat": group, "pinned_message": {"message_id": 1, "date": 0, "chat": group}}
    update = Update.de_json({"update_id": 5, "message": pinned}, None)
    with closing(Store(tmp_path)) as store:

        async def put() -> object:
            inbox = Inbox(store, at_once=False)
            await inbox.put(update)
            return inbox.get_nowait()

        heard: list[object] = []
        thread = threading.Thread(target=lambda: heard.append(asyncio.run(put())))  # another test's loop may run here
        thread.start()
        thread.join()
    assert heard == [update]


def test_what_a_killed_process_has_left_is_tidied_at_the_next_start(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        job = store.add_job(request={"init": "kept.png"}, seeds=[1], user_id=1, chat_id=1, kind="picture",
                            language="en", state="drawn")  # fmt: skip
        kept = [store.picture_file(job.id, 0), store.input_file("kept.png")]
        strays = [store.picture_file(99, 0), store.input_file(f"{7:032x}.png"), tmp_path / "inputs" / ".stablediff.ab"]
        kept += [tmp_path / "pictures" / "holiday.jpg", tmp_path / "inputs" / "thesis.csv"]  # somebody else's
        for file in [*kept, *strays]:
            file.write_bytes(b"pixels")
    Store(tmp_path).close()
    assert all(file.exists() for file in kept)
    assert not any(file.exists() for file in strays)


@pytest.mark.parametrize("harm", ["no database", "another program's", "damaged"])
def test_a_database_that_is_none_of_the_bots_is_refused_in_a_line(tmp_path: Path, harm: str) -> None:
    file = tmp_path / "bot.sqlite3"
    if harm == "no database":
        file.write_bytes(b"shopping list" * 1000)
    elif harm == "another program's":
        with closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE jobs (id INTEGER, user_id INTEGER, state TEXT, title TEXT)")
    else:
        with closing(Store(tmp_path)) as store:
            for user in range(300):
                store.set_settings(user, {"size": "512x512" * 20})
        data = bytearray(file.read_bytes())
        data[3 * 4096 : -4096] = bytes(len(data) - 4 * 4096)
        file.write_bytes(data)
    with pytest.raises(StableDiffError, match="choose another --data"):
        Store(tmp_path)


def test_a_model_of_english_words_is_told_to_russians_only() -> None:
    pipeline = toy_pipeline()
    assert not is_foreign("ru", pipeline)  # nobody knows what it has seen
    for words, foreign in ((("apple", "crêpe", "vicuña"), True), (("apple", "яблоко"), False)):
        known = replace(pipeline, lexicon=Lexicon(frozenset(words)))
        assert is_foreign("ru", known) == foreign
        assert not is_foreign("en", known)


def test_amounts_are_written_as_each_language_does() -> None:
    assert [_amount(number, "en") for number in (42_667, 341.33, 2, -1)] == ["42,667", "341.3", "2", "0"]
    assert [_amount(number, "ru") for number in (42_667, 341.33)] == ["42\N{NO-BREAK SPACE}667", "341,3"]


def test_every_flag_that_a_russian_is_offered_is_read() -> None:
    with pytest.raises(RequestError) as refused:
        command.parse("лиса --бла 3")
    flags = re.findall(r"--(\w+)", translate(str(refused.value), "ru"))[1:]
    assert len(flags) == 10
    for flag in flags:
        assert len(command.parse(f"лиса --{flag} {'64x64' if flag == 'размер' else 1}")) >= 2
