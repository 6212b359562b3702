"""Shortcuts: what each computes is what it says, and with nothing to save it is the plain way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import TOLERANCE, max_error, randn
from test_unet import TINY, TINY_XL
from torch import Tensor
from toy import count_calls, draw, events, toy_pipeline

from stablediff import Pipeline
from stablediff.config import UNetConfig
from stablediff.models import attention
from stablediff.models.deep_cache import DeepCache, is_due
from stablediff.models.layers import Attention
from stablediff.models.token_merging import Merge, finest_attention, merged_tokens
from stablediff.models.unet import UNet
from stablediff.pace.speed import Speed
from stablediff.recipe import to_request


@pytest.fixture
def toy() -> Pipeline:
    return toy_pipeline()


def network(config: UNetConfig = TINY) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(config).eval().requires_grad_(False)


def asked(unet: UNet, seed: int = 0, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return randn(rows, 4, 9, 8, seed=seed), torch.full((rows,), 300.0), randn(rows, 5, unet.config.context_dim, seed=9)


# --- deep layers, kept -----------------------------------------------------------------------------------------------


def test_deep_layers_answer_at_every_nth_call_and_the_last_layer_at_all():
    unet = network()
    cached = DeepCache(unet, 3)
    inputs = [asked(unet, seed) for seed in range(5)]
    with count_calls(unet.mid_block) as deep:
        answers = [cached(*each) for each in inputs]
    assert len(deep) == 2, "at calls 0 and 3"
    for number in (0, 3):
        assert torch.equal(answers[number], unet(*inputs[number]))
    for number, since in ((1, 0), (2, 0), (4, 3)):
        x, t, context = inputs[number]
        kept_x, kept_t, _ = inputs[since]
        kept = unet.deep(unet.conv_in(kept_x), unet.embed_time(kept_t, context), context)
        expected = unet.finish(unet.conv_in(x), kept, unet.embed_time(t, context), context)
        assert torch.equal(answers[number], expected)
        assert not torch.equal(answers[number], unet(x, t, context))


def test_what_is_kept_serves_fewer_rows_but_not_more():
    unet = network()
    cached = DeepCache(unet, 10)
    with count_calls(unet.mid_block) as deep:
        for rows in (2, 1, 2, 4, 2):
            assert len(cached(*asked(unet, rows=rows))) == rows
    assert deep == [2, 4]
    assert [is_due(call, 4, 2, 2) for call in range(6)] == [True, False, False, False, True, False]


def test_a_cache_makes_another_picture_and_an_interval_of_one_the_same(toy: Pipeline):
    plain = draw(toy, num_steps=6, seed=1)
    same = draw(toy, num_steps=6, seed=1, cache_interval=1)
    with count_calls(toy.unet.mid_block) as deep, count_calls(toy.unet.conv_in) as all_of_it:
        cached = draw(toy, num_steps=6, seed=1, cache_interval=3)
    assert plain.images[0].tobytes() == same.images[0].tobytes() != cached.images[0].tobytes()
    assert (len(deep), len(all_of_it)) == (2, 6)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_sde"])
def test_calls_with_a_cache_are_foretold(toy: Pipeline, sampler: str):
    wishes = {"num_steps": 7, "sampler": sampler, "cache_interval": 3, "num_images": 2}
    speed = Speed(toy)
    with count_calls(toy.unet.mid_block) as deep, count_calls(toy.unet.conv_in) as all_of_it:
        draw(toy, **wishes)
    from test_pace import plan_of

    plan = plan_of(toy, **wishes)
    calls = [call for number in plan.batches.elements() for call in plan.calls(number).elements()]
    assert len(calls) == len(all_of_it)
    assert sorted(call.rows for call in calls if call.whole) == sorted(deep)
    speed.measure(toy, plan)
    assert all(speed.knows(plan.canvas.cells, call) for call in calls)


# --- tokens, merged --------------------------------------------------------------------------------------------------


def test_cells_that_are_equal_can_be_merged_without_a_trace():
    """Of a map that is the same in every 2x2 square, three quarters of the tokens say nothing new."""
    squares = randn(1, 12, 4, 3).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = squares.flatten(2).transpose(1, 2)
    merge = Merge.of(x, 8, 6, 0.75)
    merged = merge(x)
    assert merged.shape == (1, 12, 12)
    assert max_error(merge.undo(merged), x) <= TOLERANCE
    plain = attention.attend(x, x, x, 3)
    assert max_error(merge.undo(attention.attend(merged, merged, merged, 3)), plain) <= TOLERANCE


@given(height=st.integers(1, 9), width=st.integers(1, 9), share=st.floats(0, 0.75), rows=st.integers(1, 3))
def test_merging_and_its_undoing_fit_together(height: int, width: int, share: float, rows: int):
    x = randn(rows, height * width, 6, seed=height * width)
    merge = Merge.of(x, height, width, share)
    number = merge.merged.shape[1]
    assert number == min(int(share * height * width), len(merge.others))
    assert merge(x).shape == (rows, height * width - number, 6)
    back = merge.undo(merge(x))
    kept = torch.ones(rows, len(merge.others), dtype=torch.bool).scatter_(1, merge.merged, value=False)
    for row in range(rows):  # what took nothing in, and was not taken, is untouched
        assert torch.equal(back[row, merge.others[kept[row]]], x[row, merge.others[kept[row]]])
        alone = torch.ones(len(merge.ones), dtype=torch.bool)
        alone[merge.into[row]] = False
        assert torch.equal(back[row, merge.ones[alone]], x[row, merge.ones[alone]])


@pytest.mark.parametrize(("config", "level"), [(TINY, 0), (TINY_XL, 1)])
def test_the_finest_level_with_attention_is_merged(config: UNetConfig, level: int):
    unet = network(config)
    assert finest_attention(unet)[0] == level
    more = {}
    if config.added_conditioning == "text_time":
        more = {"pooled": randn(2, 6), "size_ids": torch.ones(2, 6)}
    x, t, context = asked(unet)
    plain = unet(x, t, context, **more)
    with merged_tokens(unet, 9, 8, 0.5):
        merged = unet(x, t, context, **more)
    assert 0 < max_error(merged, plain) < plain.abs().max()
    with merged_tokens(unet, 9, 8, 0.0):
        assert torch.equal(unet(x, t, context, **more), plain)
    assert torch.equal(unet(x, t, context, **more), plain), "and nothing stays behind"


def test_a_fault_inside_leaves_no_hook_behind():
    unet = network()
    x, t, context = asked(unet)
    plain = unet(x, t, context)
    with pytest.raises(KeyError), merged_tokens(unet, 9, 8, 0.5):
        raise KeyError
    assert torch.equal(unet(x, t, context), plain)


def test_a_network_without_attention_has_nothing_to_merge(toy: Pipeline):
    blind = toy_pipeline(transformer_depth=(0, 0))
    assert draw(blind, seed=1, merged_tokens=0.5).images[0].tobytes() == draw(blind, seed=1).images[0].tobytes()
    assert draw(toy, seed=1, merged_tokens=0.5).images[0].tobytes() != draw(toy, seed=1).images[0].tobytes()


# --- the prompt, read once -------------------------------------------------------------------------------------------


def test_keys_and_values_are_made_once_a_picture_and_forgotten(toy: Pipeline):
    """A guidance interval, for which there are calls with both rows and with one."""
    readers = [m for name, m in toy.unet.named_modules() if name.endswith("attn2.to_k")]
    wishes = {"num_steps": 9, "spacing": "karras", "guidance_interval": (0.5, 5.0)}
    with count_calls(readers[0]) as reads:
        first = draw(toy, prompt="a cat", seed=1, **wishes)
    assert sorted(reads) == [1, 2]
    other = draw(toy, prompt="a dog", seed=1, **wishes)
    assert other.images[0].tobytes() != first.images[0].tobytes()
    assert draw(toy, prompt="a cat", seed=1, **wishes).images[0].tobytes() == first.images[0].tobytes()
    assert all(module.memory is None for module in toy.unet.modules() if isinstance(module, Attention))


# --- all of them -----------------------------------------------------------------------------------------------------


def test_shortcuts_stand_in_the_recipe(toy: Pipeline):
    wishes = {"cache_interval": 2, "merged_tokens": 0.25, "guidance_interval": (0.5, 5.0), "num_steps": 5, "seed": 3}
    result = draw(toy, prompt="a cat", **wishes)
    request = to_request(result.parameters(0))
    assert (request.cache_interval, request.merged_tokens, request.guidance_interval) == (2, 0.25, (0.5, 5.0))
    assert "Cache" not in draw(toy, prompt="a cat").parameters(0)
    assert "Token" not in draw(toy, prompt="a cat").parameters(0)


def test_shortcuts_go_with_everything_else(toy: Pipeline):
    """Several pictures, stopping, and a picture to start from."""
    start = draw(toy, seed=1).images[0]
    wishes = {"cache_interval": 2, "merged_tokens": 0.5, "num_images": 3, "init_image": start, "strength": 0.9}
    several = draw(toy, seed=1, num_steps=5, **wishes)
    third = draw(toy, seed=3, num_steps=5, **{**wishes, "num_images": 1})
    assert several.images[2].tobytes() == third.images[0].tobytes()
    steps = iter([False, True])
    _, stopped = events(toy, lambda: next(steps, True), num_steps=5, **wishes)
    assert stopped.stopped


# --- attention in strips ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    rows=st.integers(1, 40),
    keys=st.integers(1, 40),
    width=st.integers(1, 20),
    strip=st.sampled_from([1, 7, 64, 1000, 2**20]),
)
def test_strips_are_the_whole(batch: int, heads: int, rows: int, keys: int, width: int, strip: int):
    q = randn(batch, heads, rows, width)
    k, v = (randn(batch, heads, keys, width, seed=seed) for seed in (1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_STRIP", strip)
        out = attention.attention_in_strips(q, k, v)
    assert max_error(out, attention.plain_attention(q, k, v)) <= TOLERANCE


@pytest.mark.parametrize("scale", [1.0, 300.0, -300.0])
def test_strips_bear_scores_whose_exponentials_no_number_holds(scale: float):
    q = randn(1, 2, 9, 4).abs()
    k, v = randn(1, 2, 30, 4, seed=1).abs() * scale, randn(1, 2, 30, 4, seed=2)
    out = attention.attention_in_strips(q, k, v)
    assert max_error(out, attention.plain_attention(q, k, v)) <= TOLERANCE


@pytest.mark.parametrize("width", [40, 64])
def test_strips_stay_as_near_as_bfloat16_allows(width: int, monkeypatch: pytest.MonkeyPatch):
    q, k, v = (randn(2, 300, 4 * width, seed=seed).bfloat16() for seed in range(3))
    exact = attention.attend(q.float(), k.float(), v.float(), 4)
    errors = {}
    for strips in (False, True):
        monkeypatch.setattr(attention, "strips_are_faster", lambda strips=strips: strips)
        out = attention.attend(q, k, v, 4).float()
        errors[strips] = ((out - exact).norm() / exact.norm()).item()
    assert errors[False] != errors[True], "the second way was taken"
    assert errors[True] <= 1e-2
