"""What a model offers its visitors, in their language if it knows it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from toy import toy_pipeline

from stablediff import Pipeline, load
from stablediff.lexicon import Lexicon
from stablediff.web.offers import MOST_EXAMPLES, examples_of, style_choices, styled
from stablediff.web.texts import text

RUSSIAN = "панда подсолнух авокадо радуга лиса красное яблоко в плоском мягком глянцевом стиле"


def bundled(folder: Path, words: str) -> Pipeline:
    toy = toy_pipeline()
    report = replace(toy.report, path=folder)
    return replace(toy, name="sticker", report=report, lexicon=Lexicon(frozenset(words.split())))


def test_the_bundled_model_offers_what_it_knows() -> None:
    model = load("sticker", device="cpu")
    assert model.lexicon is not None
    for language in ("en", "ru"):
        examples = examples_of(model, language)
        assert 0 < len(examples) <= MOST_EXAMPLES
        for example in examples:
            for _, style in style_choices(model, language):
                assert not model.lexicon.strangers(styled(example, style, model))
        assert len(model.things(language)) == 499
        named = re.findall("[“«](.+?)[”»]", text("knows_more", language))
        assert len(named) == 3
        assert not model.lexicon.strangers(" ".join(named))


@pytest.mark.parametrize(("words", "language"), [(RUSSIAN, "ru"), ("panda flat style", "en")])
def test_examples_styles_and_things_are_in_a_language_that_the_model_knows(
    tmp_path: Path, words: str, language: str
) -> None:
    (tmp_path / "known.txt").write_text("panda\nfox\n")
    model = bundled(tmp_path, words)
    assert examples_of(model, "en")[0] == "panda"
    assert examples_of(model, "ru")[0] == ("панда" if language == "ru" else "panda")
    assert model.things("ru") == ["panda", "fox"]
    (tmp_path / "known.ru.txt").write_text("панда\nлиса\n", encoding="utf-8")
    assert model.things("ru") == ["панда", "лиса"]
    assert styled("fox", "style_flat", model) == "fox, flat style"
    assert styled("лиса", "style_flat", model) == ("лиса, в плоском стиле" if language == "ru" else "лиса, flat style")
    assert styled("fox, flat style", "style_flat", model) == "fox, flat style"
    assert styled(" ", "style_flat", model) == ""


def test_only_styles_that_the_model_has_seen_are_offered(tmp_path: Path) -> None:
    model = bundled(tmp_path, "fox pixel flat style")
    assert [value for _, value in style_choices(model, "ru")] == ["", "style_flat", "style_pixel"]
    assert styled("fox", "style_pixel", model) == "fox, pixel style"
    assert len(style_choices(replace(model, lexicon=None), "en")) == 7


def test_other_models_have_other_styles_and_no_list_of_things() -> None:
    model = toy_pipeline()
    assert examples_of(model, "ru") == examples_of(model, "en")
    assert model.things("en") == []
    for _, style in style_choices(model, "ru")[1:]:
        assert styled("a fox", style, model).startswith("a fox, ")
    assert styled("a fox", "style_flat", model) == "a fox"
