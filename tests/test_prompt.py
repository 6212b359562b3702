"""From a prompt to what the U-Net reads: weights, chunks, and nothing lost on the way."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_pipeline

from stablediff import Pipeline
from stablediff.checkpoints.locate import CLIP_MERGES
from stablediff.conditioning import Conditioning, encode_prompts
from stablediff.models.emphasis import parse_emphasis
from stablediff.models.tokenizer import TokenizedPrompt, Tokenizer, clip_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return clip_tokenizer(CLIP_MERGES)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return toy_pipeline()


def spans(prompt: str) -> list[tuple[str, float]]:
    return [(text, pytest.approx(weight)) for text, weight in parse_emphasis(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("an [unimportant] word", [("an ", 1), ("unimportant", 1 / 1.1), (" word", 1)]),
        ("a (red:1.3) apple", [("a ", 1), ("red", 1.3), (" apple", 1)]),
        ("((x))", [("x", 1.21)]),
        ("[[x]]", [("x", 1 / 1.21)]),
        ("([x])", [("x", 1)]),
        ("((a:2) b:3)", [("a", 6), (" b", 3)]),
        ("(a [b] c:2)", [("a ", 2), ("b", 2 / 1.1), (" c", 2)]),
        ("(a:1.0)", [("a", 1)]),
        ("(a:0)", [("a", 0)]),
        ("(a:.5)", [("a", 0.5)]),
        ("(a:2.)", [("a", 2)]),
        ("(a:-1)", [("a", -1)]),
        ("(a:+1.5)", [("a", 1.5)]),
        ("(a : 1.5 )", [("a ", 1.5)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        # The example with which other programs explain their syntax.
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_brackets_weigh_words(prompt: str, expected: list[tuple[str, float]]):
    assert spans(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (r"\(literal\]", "(literal]"),
        (r"a \[b\] \\ c", r"a [b] \ c"),
        (r"C:\path", r"C:\path"),
        ("back\\", "back\\"),
        ("ratio 16:9", "ratio 16:9"),
        ("a:1.5)", "a:1.5)"),
        ("10:30) then", "10:30) then"),
    ],
)
def test_escaped_brackets_and_lone_marks_are_text(prompt: str, text: str):
    assert spans(prompt) == [(text, 1)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("a [b", [("a ", 1), ("b", 1 / 1.1)]),
        ("((a)", [("a", 1.21)]),
        ("a) b", [("a) b", 1)]),
        ("a]", [("a]", 1)]),
        ("(a]", [("a]", 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:)", [("a:", 1.1)]),
        ("()", []),
        ("(:1.5)", []),
    ],
)
def test_unbalanced_brackets_lose_no_word(prompt: str, expected: list[tuple[str, float]]):
    assert spans(prompt) == expected


@given(st.text(alphabet="ab ,.:()[]\\10", max_size=40))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_prompt_keeps_its_letters_in_order(prompt: str):
    found = parse_emphasis(prompt)
    letters = [letter for letter in prompt if letter in "ab"]
    assert [letter for span in found for letter in span.text if letter in "ab"] == letters
    assert all(a.weight != b.weight for a, b in pairwise(found)), "neighbours are joined"


@given(st.text(alphabet="ab:1. é猫\\()[]", max_size=40))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_escaped_text_comes_back_as_it_was(text: str):
    escaped = "".join("\\" + letter if letter in "\\()[]" else letter for letter in text)
    assert "".join(span.text for span in parse_emphasis(escaped)) == text
    assert all(span.weight == 1 for span in parse_emphasis(escaped))


def ids(prompt: TokenizedPrompt) -> list[int]:
    return [token.id for chunk in prompt.chunks for token in chunk]


def words(prompt: TokenizedPrompt) -> list[str]:
    return "".join(token.text for chunk in prompt.chunks for token in chunk).split("</w>")[:-1]


def test_a_short_prompt_is_one_chunk_between_start_and_end(tokenizer: Tokenizer):
    rows, weights = tokenizer.to_tensors(tokenizer.tokenize("a photo of a cat"))
    assert rows.shape == weights.shape == (1, 77)
    assert rows[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    assert (rows[0, 7:] == 49407).all()
    assert (weights == 1).all()


def test_an_empty_prompt_is_one_empty_chunk(tokenizer: Tokenizer):
    for prompt in ("", "   ", "\n", "()", "BREAK"):
        tokenized = tokenizer.tokenize(prompt)
        assert tokenized.chunks == ((),)
        assert tokenizer.to_tensors(tokenized)[0][0, :3].tolist() == [49406, 49407, 49407]


@pytest.mark.parametrize(("count", "chunks"), [(75, 1), (76, 2), (150, 2), (151, 3), (1000, 14)])
def test_every_chunk_holds_up_to_75_tokens_with_its_own_start_and_end(tokenizer: Tokenizer, count: int, chunks: int):
    tokenized = tokenizer.tokenize("cat " * count)
    rows, _ = tokenizer.to_tensors(tokenized)
    assert rows.shape == (chunks, 77)
    assert (rows[:, 0] == 49406).all()
    assert [row.tolist().index(49407) - 1 for row in rows] == [75] * (chunks - 1) + [count - 75 * (chunks - 1)]
    assert ids(tokenized) == [2368] * count


def test_padding_can_be_another_token_than_the_end():
    rows, _ = clip_tokenizer(CLIP_MERGES, pad_id=0).to_tensors(clip_tokenizer(CLIP_MERGES).tokenize("cat"))
    assert rows[0, :4].tolist() == [49406, 2368, 49407, 0]


def test_a_word_is_never_cut(tokenizer: Tokenizer):
    word = "antidisestablishmentarianism"
    pieces = len(ids(tokenizer.tokenize(word)))
    assert pieces > 2
    for before in range(76 - pieces, 76):
        tokenized = tokenizer.tokenize("cat " * before + word)
        in_last = 0 if before + pieces == 75 + pieces else pieces
        assert [len(chunk) for chunk in tokenized.chunks] in ([before + pieces], [before, pieces], [75, in_last])
        assert words(tokenized) == ["cat"] * before + [word]
        assert all(chunk[0].starts_word for chunk in tokenized.chunks)


def test_a_word_longer_than_a_chunk_is_cut_and_kept(tokenizer: Tokenizer):
    word = "qzxj" * 100
    tokenized = tokenizer.tokenize(f"cat {word}")
    assert [len(chunk) for chunk in tokenized.chunks][:2] == [1, 75]
    assert words(tokenized) == ["cat", word]


@given(
    st.lists(
        st.sampled_from(["cat", "hedgehog", "antidisestablishmentarianism", "¿qué?", "猫", "🦔", "1984", ",", "it's"])
    )
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_long_prompts_lose_nothing(tokenizer: Tokenizer, prompt: list[str]):
    together = tokenizer.tokenize(" ".join(prompt * 5))
    assert ids(together) == ids(tokenizer.tokenize(" ".join(prompt))) * 5
    assert all(len(chunk) <= 75 for chunk in together.chunks)


def test_break_begins_a_new_chunk(tokenizer: Tokenizer):
    tokenized = tokenizer.tokenize("red cat BREAK blue dog")
    assert [len(chunk) for chunk in tokenized.chunks] == [2, 2]
    assert words(tokenized) == ["red", "cat", "blue", "dog"]


@pytest.mark.parametrize("prompt", ["BREAK cat", "cat BREAK", "cat BREAK BREAK dog", "BREAK", "(cat BREAK dog:1.3)"])
def test_breaks_leave_no_empty_chunks(tokenizer: Tokenizer, prompt: str):
    chunks = tokenizer.tokenize(prompt).chunks
    assert all(chunks) or chunks == ((),)
    assert len(chunks) == 1 + ("cat" in prompt and "dog" in prompt)


def test_break_is_a_word_of_its_own(tokenizer: Tokenizer):
    for prompt in ("break a leg", "BREAKFAST", "OUTBREAK", "Break"):
        assert words(tokenizer.tokenize(prompt)) == prompt.lower().split()


def test_tokens_carry_their_weights(tokenizer: Tokenizer):
    tokenized = tokenizer.tokenize("a (red:1.5) [apple]")
    rows, weights = tokenizer.to_tensors(tokenized, num_chunks=2)
    assert weights.shape == rows.shape == (2, 77)
    assert weights[0, :5].tolist() == pytest.approx([1, 1, 1.5, 1 / 1.1, 1])
    assert (weights[0, 4:] == 1).all()
    assert (weights[1] == 1).all()
    assert rows[1, :2].tolist() == [49406, 49407]
    assert tokenized.weighted
    assert not tokenizer.tokenize("(a:1) ([b])").weighted


def test_brackets_do_not_change_the_words(tokenizer: Tokenizer):
    plain = tokenizer.tokenize("a red apple, flat style")
    assert ids(tokenizer.tokenize("(a) [red] (apple:1.4), ((flat style))")) == ids(plain)


def contexts(pipeline: Pipeline, *prompts: str) -> Conditioning:
    with torch.inference_mode():
        return encode_prompts(pipeline, list(prompts), 64, 64)


def test_weights_of_one_change_nothing(pipeline: Pipeline):
    plain = contexts(pipeline, "a red apple").context
    assert torch.equal(contexts(pipeline, "(a:1) ([red]) (apple:1.0)").context, plain)


def test_weights_reach_the_context_and_keep_its_mean(pipeline: Pipeline):
    plain, weighted = contexts(pipeline, "a red apple").context, contexts(pipeline, "a (red:1.5) apple").context
    assert weighted.mean().item() == pytest.approx(plain.mean().item(), rel=1e-4)
    ratio = (weighted / plain)[0].median(dim=-1).values
    assert (ratio[2] / ratio[1]).item() == pytest.approx(1.5, rel=1e-4), "the third token is 'red'"
    assert ratio[[0, 1, 3, 4, 76]].tolist() == pytest.approx([ratio[1].item()] * 5, rel=1e-4)


def test_all_prompts_get_as_many_chunks_as_the_longest(pipeline: Pipeline):
    context = contexts(pipeline, "cat " * 100, "dog").context
    assert context.shape == (2, 2 * 77, 8)
    # The text tower reads every chunk by itself.
    assert torch.allclose(context[1:, :77], contexts(pipeline, "dog").context, atol=1e-6)
    assert torch.allclose(context[1:, 77:], contexts(pipeline, "").context, atol=1e-6)


def test_what_stands_last_in_a_long_prompt_is_heard(pipeline: Pipeline):
    one, other = (contexts(pipeline, "cat " * 200 + last).context for last in ("red", "blue"))
    assert torch.equal(one[:, :154], other[:, :154])
    assert not torch.equal(one[:, 154:], other[:, 154:])


def test_the_bundled_model_reads_long_prompts_too(sticker: Pipeline):
    tokenizer = sticker.tokenizers[0]
    tokenized = tokenizer.tokenize("a red apple, flat style, " * 10)
    assert tokenizer.chunk_length == 30
    assert len(ids(tokenized)) == 10 * len(ids(tokenizer.tokenize("a red apple, flat style, ")))
    assert all(0 < len(chunk) <= 30 and chunk[0].starts_word for chunk in tokenized.chunks)
    assert contexts(sticker, "a red apple, flat style, " * 10).context.shape == (1, 32 * len(tokenized.chunks), 256)
