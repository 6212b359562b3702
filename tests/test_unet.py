"""Our U-Net against that of diffusers, on the same weights."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention import FeedForward
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    TOLERANCE,
    draw_weights,
    fifty_configs,
    hush,
    max_error,
    randn,
    reference_guidance_embedding,
    reference_prediction,
    share_weights,
    unet_inputs,
    unet_pair,
)
from torch import Tensor, nn

from stablediff.conditioning import ConditionedUNet, Conditioning
from stablediff.config import SD1, SD2, SDXL, UNetConfig
from stablediff.models import layers
from stablediff.models.unet import UNet, guidance_embedding

TINY = UNetConfig(
    channels=(8, 16),
    num_resnets=1,
    transformer_depth=(1, 0),
    num_heads=(2, 4),
    context_dim=12,
    norm_groups=4,
)
TINY_XL = replace(
    TINY,
    transformer_depth=(0, 2),
    mid_transformer_depth=2,
    linear_projection=True,
    added_conditioning="text_time",
    added_size_dim=4,
    added_input_dim=30,
)
SIZES = st.tuples(st.integers(5, 13), st.integers(5, 13))


@st.composite
def unet_configs(draw: st.DrawFn, **fixed) -> UNetConfig:
    """Up to three levels of any width, depth and number of heads; `fixed` holds what makes up a family."""
    groups, num_levels = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 2, 3]))
    levels = {"min_size": num_levels, "max_size": num_levels}
    depths = draw(st.lists(st.integers(0, 2), **levels))
    config = UNetConfig(
        in_channels=draw(st.sampled_from([4, 9])),  # nine: inpainting
        out_channels=draw(st.sampled_from([4, 8])),
        channels=tuple(draw(st.lists(st.sampled_from([8, 16, 24]), **levels))),
        num_resnets=draw(st.sampled_from([1, 1, 2])),
        transformer_depth=tuple(depths),
        mid_transformer_depth=depths[-1] or draw(st.integers(1, 2)),
        num_heads=tuple(draw(st.lists(st.sampled_from([1, 2, 4]), **levels))),
        context_dim=4 * draw(st.integers(1, 6)),
        linear_projection=draw(st.booleans()),
        upcast_attention=draw(st.booleans()),
        norm_groups=groups,
        guidance_embedding_dim=draw(st.sampled_from([None, None, 4, 16])),
    )
    return replace(config, **fixed)


def error(ours: UNet, reference: nn.Module, inputs: dict[str, Tensor]) -> float:
    return max_error(ours(**inputs), reference_prediction(reference, inputs))


def check(config: UNetConfig, size: tuple[int, int], seed: int) -> None:
    ours, reference = unet_pair(config, seed)
    assert error(ours, reference, unet_inputs(config, batch=2, size=size, seed=seed)) <= TOLERANCE


@fifty_configs
@given(config=unet_configs(linear_projection=False), size=SIZES, seed=st.integers(0, 999))
def test_convolutional_projections_match_the_reference(config: UNetConfig, size: tuple[int, int], seed: int):
    """As in SD 1.x."""
    check(config, size, seed)


@fifty_configs
@given(config=unet_configs(linear_projection=True), size=SIZES, seed=st.integers(0, 999))
def test_linear_projections_match_the_reference(config: UNetConfig, size: tuple[int, int], seed: int):
    """As in SD 2.x."""
    check(config, size, seed)


@fifty_configs
@given(
    config=unet_configs(added_conditioning="text_time"),
    size=SIZES,
    size_dim=st.sampled_from([4, 8, 16]),
    pooled_dim=st.integers(2, 12),
    seed=st.integers(0, 999),
)
def test_text_and_sizes_in_the_time_embedding_match_the_reference(
    config: UNetConfig, size: tuple[int, int], size_dim: int, pooled_dim: int, seed: int
):
    """As in SDXL."""
    check(replace(config, added_size_dim=size_dim, added_input_dim=6 * size_dim + pooled_dim), size, seed)


@fifty_configs
@given(
    config=unet_configs(added_conditioning="text"),
    size=SIZES,
    num_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 999),
)
def test_pooled_text_in_the_time_embedding_matches_the_reference(
    config: UNetConfig, size: tuple[int, int], num_heads: int, seed: int
):
    """As in the bundled model."""
    check(replace(config, added_text_heads=num_heads), size, seed)


@fifty_configs
@given(
    config=unet_configs(),
    size=SIZES,
    rows=st.integers(1, 2),
    prompts=st.integers(2, 3),
    seed=st.integers(0, 999),
)
def test_pictures_asked_with_several_prompts_match_the_reference_asked_again(
    config: UNetConfig, size: tuple[int, int], rows: int, prompts: int, seed: int
):
    """As guidance does."""
    ours, reference = unet_pair(config, seed)
    inputs = unet_inputs(config, batch=rows * prompts, size=size, seed=seed)
    for name in inputs.keys() - {"context"}:
        first = inputs[name][:rows]
        inputs[name] = first.repeat(prompts, *[1] * (first.ndim - 1))
    expected = reference_prediction(reference, inputs)
    assert max_error(ours(**inputs | {"x": inputs["x"][:rows]}), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("config", "asked"),
    [(TINY, 1), (replace(TINY, added_conditioning="text"), 2), (TINY_XL, 2)],
    ids=["sd", "text", "xl"],
)
def test_guidance_asks_once_what_its_branches_share(config: UNetConfig, asked: int):
    ours, reference = unet_pair(config)
    inputs = unet_inputs(config, batch=2, size=(8, 6))
    more = {"pooled": inputs.get("pooled"), "size_ids": inputs.get("size_ids")}
    network = ConditionedUNet(ours, Conditioning(inputs["context"], **more), 1, 1.0)
    rows: list[int] = []
    ours.conv_in.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    for guided in (True, False, True):
        found = network(inputs["x"][:1], 500.0, with_uncond=guided)
        both = inputs | {"x": inputs["x"][:1].repeat(2, 1, 1, 1), "timestep": torch.tensor([500.0, 500.0])}
        assert max_error(found, reference_prediction(reference, both)[: len(found)]) <= TOLERANCE
        assert len(found) == 1 + guided
    assert rows == [asked, 1, asked]


@pytest.mark.parametrize("size", [(9, 13), (5, 16), (2, 2), (7, 1)], ids=str)
def test_odd_sizes_match_the_reference(size: tuple[int, int]):
    check(replace(TINY, channels=(8, 16, 16), transformer_depth=(1, 1, 0), num_heads=(1, 2, 4)), size, seed=0)


def test_fractional_timesteps_match_the_reference():
    ours, reference = unet_pair(TINY)
    inputs = unet_inputs(TINY, batch=3, size=(8, 8)) | {"timestep": torch.tensor([0.25, 499.5, 998.875])}
    assert error(ours, reference, inputs) <= TOLERANCE


@pytest.mark.parametrize("dim", [4, 256, 512])
def test_guidance_embedding_is_that_of_lcm_to_the_last_bit(dim: int):
    guidance = torch.linspace(1, 15, 29)
    assert torch.equal(guidance_embedding(guidance, dim), reference_guidance_embedding(guidance, dim))


def test_every_input_matters():
    config = replace(TINY_XL, guidance_embedding_dim=8)
    ours, _ = unet_pair(config)
    inputs, others = (unet_inputs(config, batch=2, size=(6, 6), seed=seed) for seed in (0, 1))
    prediction = ours(**inputs)
    for name in inputs:
        assert max_error(ours(**inputs | {name: others[name]}), prediction) > 1e-3, name


def test_missing_sizes_are_an_error():
    ours, _ = unet_pair(TINY_XL)
    inputs = unet_inputs(TINY_XL, batch=1, size=(6, 6))
    with pytest.raises(ValueError, match="size_ids"):
        ours(inputs["x"], inputs["timestep"], inputs["context"])


@pytest.mark.parametrize("linear", [True, False])
def test_norms_use_an_eps_of_1e_5_in_residual_blocks_and_1e_6_before_transformers(linear: bool):
    config = replace(TINY, linear_projection=linear)
    ours, reference = unet_pair(config)
    hush(ours)
    inputs = unet_inputs(config, batch=1, size=(8, 8))
    assert error(ours, reference, inputs) <= TOLERANCE
    for norm in (module for module in ours.modules() if isinstance(module, nn.GroupNorm)):
        right, wrong = norm.eps, {1e-5: 1e-6, 1e-6: 1e-5}[norm.eps]
        norm.eps = wrong
        assert error(ours, reference, inputs) > 100 * TOLERANCE, "an error in eps would go unnoticed"
        norm.eps = right


def test_upcast_attention_reaches_every_attention_and_keeps_the_dtype():
    for upcast in (True, False):
        ours, _ = unet_pair(replace(TINY, upcast_attention=upcast))
        assert {module.upcast for module in ours.modules() if isinstance(module, layers.Attention)} == {upcast}
    q, k, v = (scale * randn(1, 6, 8, seed=scale).half() for scale in (300, 301, 1))  # scores beyond float16's 65504
    exact = layers.attend(q.float(), k.float(), v.float(), 2)
    upcast = layers.attend(q, k, v, 2, upcast=True)
    assert upcast.dtype == torch.float16
    assert max_error(upcast.float(), exact) <= 1e-2


def test_geglu_gates_the_second_half_with_the_exact_gelu():
    geglu = layers.GEGLU(3, 3).requires_grad_(False)
    geglu.proj.weight.copy_(torch.cat([torch.eye(3), 2 * torch.eye(3)]))
    geglu.proj.bias.zero_()
    x = randn(50, 3)
    gate = 2 * x
    assert max_error(geglu(x), x * gate * 0.5 * (1 + torch.erf(gate / 2**0.5))) <= 1e-6
    tanh = nn.functional.gelu(gate, approximate="tanh")
    assert max_error(geglu(x), x * tanh) > 10 * TOLERANCE, "the two would be too alike to tell"


def test_feed_forward_matches_the_reference():
    with torch.device("meta"):
        ours, reference = layers.FeedForward(8), FeedForward(8, activation_fn="geglu")
    share_weights(ours, reference, draw_weights(reference.state_dict(), 0))
    x = 3 * randn(2, 50, 8)
    assert max_error(ours(x), reference(x)) <= TOLERANCE


@pytest.mark.parametrize("config", [TINY, TINY_XL], ids=["convolutional", "linear"])
def test_channels_last_gives_the_same_result(config: UNetConfig):
    ours, reference = unet_pair(config)
    inputs = unet_inputs(config, batch=2, size=(9, 13))
    expected = reference_prediction(reference, inputs)
    channels_last = inputs | {"x": inputs["x"].contiguous(memory_format=torch.channels_last)}
    assert max_error(ours(**channels_last), expected) <= TOLERANCE
    ours.to(memory_format=torch.channels_last)
    assert ours.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert max_error(ours(**channels_last), expected) <= TOLERANCE
    assert max_error(ours(**inputs), expected) <= TOLERANCE


@pytest.mark.parametrize("config", [replace(TINY, added_conditioning="text"), TINY_XL], ids=["text", "text_time"])
def test_batch_equals_singles_and_leaves_its_inputs_alone(config: UNetConfig):
    ours, _ = unet_pair(config)
    inputs = unet_inputs(config, batch=3, size=(9, 6))
    untouched = {name: value.clone() for name, value in inputs.items()}
    together = ours(**inputs)
    assert all(torch.equal(inputs[name], value) for name, value in untouched.items())
    for i in range(3):
        alone = ours(**{name: value[i : i + 1] for name, value in inputs.items()})
        assert max_error(alone, together[i : i + 1]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("config", [SD1.unet, SD2.unet, SDXL.unet], ids=["SD 1.5", "SD 2.1", "SDXL"])
def test_full_size_unet_matches_the_reference(config: UNetConfig, record_property):
    ours, reference = unet_pair(config)
    found = error(ours, reference, unet_inputs(config, batch=1, size=(32, 32)))
    record_property("max_error", found)
    assert found <= 1e-4


@pytest.mark.parametrize("causal", [False, True])
def test_attention_learns_what_it_draws_with(causal: bool) -> None:
    """Short attention takes another way on a CPU when gradients are wanted: same output, same gradients."""
    q, k, v = (randn(2, tokens, 24, seed=seed) for seed, tokens in enumerate((10, 10, 10)))
    learnt = [x.clone().requires_grad_() for x in (q, k, v)]
    output = layers.attend(*learnt, num_heads=3, causal=causal)
    assert torch.allclose(output, layers.attend(q, k, v, num_heads=3, causal=causal), atol=1e-6)

    output.square().sum().backward()
    heads = [x.clone().requires_grad_() for x in (q, k, v)]
    split = [x.unflatten(-1, (3, -1)).transpose(1, 2) for x in heads]
    torch.nn.functional.scaled_dot_product_attention(*split, is_causal=causal).square().sum().backward()
    for ours, reference in zip(learnt, heads, strict=True):
        assert ours.grad is not None
        assert reference.grad is not None
        assert torch.allclose(ours.grad, reference.grad, atol=1e-5)
