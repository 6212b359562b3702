"""Our CLIP text towers against those of transformers, on the same weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import TOLERANCE, clip_pair, fifty_configs, max_error, reference_encoding
from torch import Tensor

from stablediff.config import OPENCLIP_BIGG, OPENCLIP_H, SDXL, CLIPConfig
from stablediff.models.clip import CLIPMLP

TINY = CLIPConfig(
    vocab_size=40, hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2, max_length=12, eos_token_id=39
)


def sentences(config: CLIPConfig, ends: list[int], length: int, seed: int = 0, *, pad_with_end: bool = True) -> Tensor:
    """Random token ids: a sentence for each entry of `ends`, which is where its end token stands."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size - 1, (len(ends), length), generator=generator)
    ids += ids >= config.eos_token_id  # every id but the end token's
    for row, end in zip(ids, ends, strict=True):
        row[end] = config.eos_token_id
        row[end + 1 :] = config.eos_token_id if pad_with_end else 0
    return ids


@st.composite
def clip_configs(draw: st.DrawFn) -> CLIPConfig:
    num_heads, vocab_size = draw(st.integers(1, 4)), draw(st.integers(8, 60))
    return CLIPConfig(
        vocab_size=vocab_size,
        hidden_size=num_heads * draw(st.sampled_from([4, 6, 8, 16])),
        intermediate_size=draw(st.integers(4, 64)),
        num_layers=draw(st.integers(1, 4)),
        num_heads=num_heads,
        max_length=draw(st.integers(4, 20)),
        activation=draw(st.sampled_from(["quick_gelu", "gelu"])),
        projection_size=draw(st.none() | st.integers(2, 24)),
        eos_token_id=draw(st.integers(3, vocab_size - 1)),
        context_layer=draw(st.sampled_from([-1, -2])),
        context_norm=draw(st.booleans()),
    )


@fifty_configs
@given(config=clip_configs(), legacy_eos=st.booleans(), pad_with_end=st.booleans(), data=st.data())
def test_towers_match_the_reference(config: CLIPConfig, legacy_eos: bool, pad_with_end: bool, data: st.DataObject):
    if legacy_eos:
        config = replace(config, eos_token_id=config.vocab_size - 1)  # how such a checkpoint has to be read
    length = data.draw(st.integers(2, config.max_length))
    ends = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=3))
    seed = data.draw(st.integers(0, 999))

    ours, reference = clip_pair(config, seed, legacy_eos=legacy_eos)
    ids = sentences(config, ends, length, seed, pad_with_end=pad_with_end)
    encoding, expected = ours(ids), reference_encoding(reference, config, ids)

    assert max_error(encoding.context, expected.context) <= TOLERANCE
    assert max_error(encoding.pooled, expected.pooled) <= TOLERANCE


def test_pooled_is_the_state_of_the_first_end_token():
    ours, _ = clip_pair(TINY)
    ids = sentences(TINY, [2, 5, 11], 12)
    assert torch.equal(ours(ids).pooled, ours(ids).context[[0, 1, 2], [2, 5, 11]])


def test_padding_behind_the_end_token_does_not_change_pooled():
    ours, _ = clip_pair(TINY)
    ids = sentences(TINY, [4], 12)
    assert max_error(ours(ids).pooled, ours(ids[:, :5]).pooled) <= TOLERANCE


def test_clip_l_uses_quick_gelu_and_openclip_the_exact_one():
    assert [config.activation for config in SDXL.text_encoders] == ["quick_gelu", "gelu"]
    assert OPENCLIP_H.activation == "gelu"
    x = torch.linspace(-4, 4, 101)
    ours = {name: CLIPMLP(replace(TINY, activation=name)).activation(x) for name in ("quick_gelu", "gelu")}
    assert max_error(ours["gelu"], x * 0.5 * (1 + torch.erf(x / 2**0.5))) <= 1e-6
    assert max_error(ours["quick_gelu"], x / (1 + torch.exp(-1.702 * x))) <= 1e-6
    assert max_error(ours["quick_gelu"], ours["gelu"]) > 0.01, "if they were alike, the tests above could not tell"


def test_context_differs_between_the_last_and_the_penultimate_layer():
    ids = sentences(TINY, [4], 12)
    contexts = [
        clip_pair(replace(TINY, context_layer=layer, context_norm=norm))[0](ids).context
        for layer in (-1, -2)
        for norm in (True, False)
    ]
    assert all(max_error(a, b) > 0.1 for i, a in enumerate(contexts) for b in contexts[:i])


def test_a_token_does_not_see_those_behind_it():
    ours, _ = clip_pair(TINY)
    ids = sentences(TINY, [11], 12)
    other = ids.clone()
    other[:, 6:-1] = (ids[:, 6:-1] + 1) % TINY.eos_token_id
    before, after = ours(ids).context, ours(other).context
    assert max_error(after[:, :6], before[:, :6]) <= TOLERANCE
    assert max_error(after[:, 6:], before[:, 6:]) > 0.1


def test_batch_equals_singles_and_leaves_its_input_alone():
    ours, _ = clip_pair(replace(TINY, projection_size=8))
    ids = sentences(TINY, [2, 5, 11], 12)
    untouched = ids.clone()
    together = ours(ids)
    assert torch.equal(ids, untouched)
    for i in range(len(ids)):
        alone = ours(ids[i : i + 1])
        assert max_error(alone.context, together.context[i : i + 1]) <= TOLERANCE
        assert max_error(alone.pooled, together.pooled[i : i + 1]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [CLIPConfig(), SDXL.text_encoders[0], OPENCLIP_H, OPENCLIP_BIGG],
    ids=["CLIP-L", "CLIP-L of SDXL", "OpenCLIP-H", "bigG"],
)
def test_full_size_towers_match_the_reference(config: CLIPConfig, record_property):
    ours, reference = clip_pair(config, legacy_eos=True)
    ids = sentences(config, [5, 76], 77)
    encoding, expected = ours(ids), reference_encoding(reference, config, ids)
    errors = max_error(encoding.context, expected.context), max_error(encoding.pooled, expected.pooled)
    record_property("max_error", errors)
    assert max(errors) <= 1e-4
