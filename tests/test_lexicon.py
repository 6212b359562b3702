"""A small model says which words it has not learnt; defaults travel with a model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy import draw, toy_pipeline

from stablediff import CheckpointError, Pipeline, load
from stablediff.cli import main
from stablediff.config import Defaults
from stablediff.lexicon import Lexicon, read_lexicon

LEXICON = Lexicon.of(["Red apple, flat style", "a house", "красное яблоко"])


def test_words_are_found_whatever_their_case_and_marks() -> None:
    assert LEXICON.strangers("RED apple; Красное яблоко, 42!") == {}
    assert LEXICON.strangers("a zebra") == {"zebra": []}
    assert LEXICON.strangers("two apples, a horse") == {"two": [], "apples": ["apple"], "horse": ["house"]}


def test_russian_is_read_with_its_dots_and_endings() -> None:
    lexicon = Lexicon.of(["самолет черного цвета"])
    assert lexicon.strangers("самолёт, Самоле\u0308т") == {}
    assert lexicon.spell("Ёлка, самолёт") == "Елка, самолет"
    assert lexicon.strangers("чёрный самолёт") == {"чёрный": ["черного"]}
    assert Lexicon.of(["ёлка самолет"]).spell("ёлка, самолёт") == "ёлка, самолет"  # word by word
    pipeline = toy_pipeline()
    pipeline.lexicon = lexicon
    dotted, plain = (draw(pipeline, prompt=words, seed=1, num_steps=1) for words in ("самолёт", "самолет"))
    assert dotted.images[0].tobytes() == plain.images[0].tobytes()


def test_emoji_are_words() -> None:
    assert LEXICON.strangers("🦊 apple") == {"🦊": []}


def test_what_is_told_of_unknown_words() -> None:
    assert LEXICON.remark("a red house") is None
    assert LEXICON.remark("") is None
    told = LEXICON.remark("apples and oranges")
    assert told == "the model has not learnt these words, and can only guess: apples (near: apple); and; oranges"
    assert (LEXICON.remark(" ".join(f"x{letter}" for letter in "abcdefgh")) or "").count(";") == 3


def test_a_picture_comes_with_the_remark() -> None:
    pipeline = toy_pipeline()
    assert draw(pipeline, prompt="zebra", num_steps=1).notes == ()
    pipeline.lexicon = LEXICON
    assert draw(pipeline, prompt="(red:1.3) [apple]", num_steps=1).notes == ()
    assert "zebra" in draw(pipeline, prompt="(zebra:1.3)", num_steps=1).notes[0]
    assert "zebra" in draw(pipeline, prompt="apple", negative_prompt="zebra", num_steps=1).notes[0]


def test_words_and_defaults_travel_with_a_saved_model(tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    pipeline.lexicon = LEXICON
    chosen = Defaults(num_steps=7, guidance_scale=1.0, sampler="ddim", width=64, height=128)
    pipeline.config = replace(pipeline.config, defaults=chosen)
    pipeline.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.lexicon == LEXICON
    assert loaded.config.defaults == chosen
    (tmp_path / "model" / "words.txt").unlink()
    assert load(tmp_path / "model").lexicon is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_steps": 0},
        {"num_steps": 2.5},
        {"sampler": "magic"},
        {"guidance_scale": "much"},
        {"stps": 3},
        [],
        {"width": 10**9},
    ],
)
def test_nonsense_in_defaults_is_named(tmp_path: Path, wrong: object) -> None:
    toy_pipeline().save(tmp_path / "model")
    path = tmp_path / "model" / "defaults.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, **wrong} if isinstance(wrong, dict) else wrong))
    with pytest.raises(CheckpointError, match=r"defaults\.json.*mend or delete"):
        load(tmp_path / "model")


def test_a_broken_list_of_words_is_named(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"words\.txt.*delete this file"):
        read_lexicon(tmp_path)


def test_the_bundled_model_tells_on_the_command_line(
    sticker: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sticker.lexicon is not None
    out = str(tmp_path / "a.png")
    assert main(["generate", "red aple, flat style", "--steps", "1", "--size", "128", "--out", out]) == 0
    said = capsys.readouterr().err
    assert "has not learnt these words, and can only guess: aple (near: " in said
    assert "apple" in said
