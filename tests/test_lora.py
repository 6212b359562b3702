"""Low-rank deltas: nothing at first, the same merged as attached, detached without a trace, and equal to peft's."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import EVERYTHING, add_random_lora
from reference import TOLERANCE, max_error, randn, reference_prediction, unet_inputs, unet_pair
from torch import Tensor, nn
from toy import toy_pipeline

from stablediff.config import UNetConfig
from stablediff.errors import RequestError
from stablediff.models.lora import (
    ATTENTION,
    CONVOLUTIONS,
    FEED_FORWARD,
    TEXT_ATTENTION,
    TEXT_FEED_FORWARD,
    attach,
    attach_lora,
    attached,
    detach_lora,
    lora_state,
    merge_lora,
    set_lora_scale,
)
from stablediff.models.unet import UNet

ALL = (*ATTENTION, *FEED_FORWARD, *CONVOLUTIONS)
CONFIG = UNetConfig(
    channels=(32, 64), num_resnets=1, transformer_depth=(1, 0), num_heads=(2, 4), context_dim=24, norm_groups=8
)


@pytest.fixture
def unet() -> UNet:
    return toy_pipeline().unet


def predict(unet: UNet) -> Tensor:
    with torch.no_grad():
        inputs = unet_inputs(unet.config, batch=2, size=(8, 8))
        dtype = unet.conv_in.weight.dtype
        return unet(**{key: t.to(dtype) if t.is_floating_point() else t for key, t in inputs.items()})


def randomize_lora(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, _, lora in attached(module):
        for parameter in lora.parameters():
            parameter.data.normal_(std=parameter[0].numel() ** -0.5, generator=generator)


# --- attached ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [ATTENTION, ALL])
def test_attaching_changes_nothing(unet: UNet, targets: tuple[str, ...]) -> None:
    before, weights = predict(unet), dict(unet.state_dict())
    parameters = attach_lora(unet, 3, targets=targets)
    assert torch.equal(predict(unet), before)
    state = unet.state_dict()
    assert state.keys() >= weights.keys(), "every other tensor keeps its name"
    assert all(state[key] is tensor or torch.equal(state[key], tensor) for key, tensor in weights.items())
    assert {id(p) for p in unet.parameters() if p.requires_grad} == {id(p) for p in parameters}


def test_a_begins_as_in_the_paper_s_code_and_b_as_zero(unet: UNet) -> None:
    attach_lora(unet, 500, targets=ALL)
    for _, _, lora in attached(unet):
        bound = lora.A.weight[0].numel() ** -0.5  # Kaiming-uniform with a = √5
        assert 0.45 * bound < lora.A.weight.abs().mean() < 0.55 * bound
        assert lora.A.weight.abs().max() <= bound
        assert not lora.B.weight.any()
        assert lora.factor == 1


def test_default_targets_are_the_attention_s(unet: UNet) -> None:
    parameters = attach_lora(unet)
    names = [name for name, _, _ in attached(unet)]
    assert {name.split("attn")[1][2:] for name in names} == set(ATTENTION)
    assert len(parameters) == 2 * len(names)
    assert list(lora_state(unet))[:2] == [f"{names[0]}.lora_A.weight", f"{names[0]}.lora_B.weight"]


def test_text_encoder() -> None:
    encoder = toy_pipeline().text_encoders[0]
    ids = torch.tensor([[49406, 320, 2368, 49407]])
    before = encoder(ids).context
    attach_lora(encoder, 2, targets=(*TEXT_ATTENTION, *TEXT_FEED_FORWARD))
    assert torch.allclose(encoder(ids).context, before, atol=1e-6)
    assert len(lora_state(encoder)) == 2 * 2 * 6
    randomize_lora(encoder)
    changed = encoder(ids).context
    assert max_error(changed, before) > 0.1
    merge_lora(encoder)
    assert max_error(encoder(ids).context, changed) <= TOLERANCE


@pytest.mark.parametrize("targets", [ATTENTION, ALL])
@pytest.mark.parametrize("linear", [False, True])
def test_outputs_are_those_of_peft(targets: tuple[str, ...], linear: bool) -> None:
    ours, reference = unet_pair(UNetConfig(**{**CONFIG.__dict__, "linear_projection": linear}))
    inputs = unet_inputs(ours.config, batch=2, size=(8, 8))
    before = ours(**inputs)
    add_random_lora(reference, targets if targets == ATTENTION else EVERYTHING, rank=4, alpha=6)
    attach_lora(ours, 4, 6, targets)
    theirs = {key.replace(".default", ""): t for key, t in reference.state_dict().items() if "lora_" in key}
    assert lora_state(ours).keys() == theirs.keys()
    for name, _, lora in attached(ours):
        lora.A.weight.data.copy_(theirs[f"{name}.lora_A.weight"])
        lora.B.weight.data.copy_(theirs[f"{name}.lora_B.weight"])
    expected = reference_prediction(reference, inputs)
    assert max_error(before, expected) > 0.1
    assert max_error(ours(**inputs), expected) <= TOLERANCE
    merge_lora(ours)
    assert max_error(ours(**inputs), expected) <= TOLERANCE


def test_scale(unet: UNet) -> None:
    before = predict(unet)
    attach_lora(unet, 2)
    randomize_lora(unet)
    set_lora_scale(unet, 0)
    assert torch.equal(predict(unet), before)
    set_lora_scale(unet, 0.5)
    half = predict(unet)
    for _, _, lora in attached(unet):
        lora.alpha, lora.scale = lora.alpha / 2, 1.0
    assert torch.equal(predict(unet), half)
    assert max_error(half, before) > 0.01


def test_only_the_lora_is_trained(unet: UNet) -> None:
    parameters = attach_lora(unet, 2)
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    inputs = unet_inputs(unet.config, batch=1, size=(8, 8))
    before = unet(**inputs)
    before.square().mean().backward()
    optimizer.step()
    assert all(p.grad is None for p in unet.parameters() if not p.requires_grad)
    loss = unet(**inputs).square().mean()
    assert loss < before.square().mean()


def test_half_precision_weights_have_float32_deltas(unet: UNet) -> None:
    unet.bfloat16()
    before = predict(unet)
    parameters = attach_lora(unet, 2, targets=ALL)
    assert {p.dtype for p in parameters} == {torch.float32}
    assert torch.equal(predict(unet), before)
    randomize_lora(unet)
    wanted = {name: (layer.weight.float() + lora.delta()).bfloat16() for name, layer, lora in attached(unet)}
    attached_prediction = predict(unet)
    merge_lora(unet)
    for name, weight in wanted.items():
        assert torch.equal(unet.get_submodule(name).weight, weight)
    assert max_error(predict(unet), attached_prediction) < 0.1
    assert max_error(predict(unet), before) > 0.5


def test_a_network_cast_after_attaching_still_runs(unet: UNet) -> None:
    attach_lora(unet, 2)
    randomize_lora(unet)
    before = predict(unet)
    assert max_error(predict(unet.bfloat16()).float(), before) < 0.1


def test_a_copy_has_a_lora_of_its_own(unet: UNet) -> None:
    attach_lora(unet, 2)
    randomize_lora(unet)
    before = predict(unet)
    copied = copy.deepcopy(unet)
    assert torch.equal(predict(copied), before)
    randomize_lora(copied, seed=1)
    assert not torch.equal(predict(copied), before)
    detach_lora(copied)
    assert torch.equal(predict(unet), before)


# --- merged, detached -------------------------------------------------------------------------------------------------


def test_merged_is_as_attached(unet: UNet) -> None:
    before, keys = predict(unet), unet.state_dict().keys()
    old = {name: p.clone() for name, p in unet.named_parameters()}
    tensors = dict(unet.named_parameters())
    attach_lora(unet, 2, 3.0, ALL)
    randomize_lora(unet)
    set_lora_scale(unet, 0.7)
    expected = predict(unet)
    assert max_error(expected, before) > 0.1
    merge_lora(unet)
    assert max_error(predict(unet), expected) <= TOLERANCE
    assert unet.state_dict().keys() == keys
    assert not any(p.requires_grad for p in unet.parameters())
    assert all(torch.equal(tensors[name], p) for name, p in old.items()), "a checkpoint's mapping is not written to"


def test_merging_keeps_channels_last(unet: UNet) -> None:
    unet.to(memory_format=torch.channels_last)
    attach_lora(unet, 2, targets=ALL)
    merge_lora(unet)
    convolutions = [m for m in unet.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)


def test_detached_is_as_before(unet: UNet) -> None:
    before, weights = predict(unet), dict(unet.named_parameters())
    modules = dict(unet.named_modules())
    attach_lora(unet, 2, targets=ALL)
    randomize_lora(unet)
    assert not torch.equal(predict(unet), before)
    detach_lora(unet)
    assert torch.equal(predict(unet), before)
    assert dict(unet.named_modules()) == modules
    assert all(p is weights[name] for name, p in unet.named_parameters())
    assert not any(m._forward_hooks for m in unet.modules())
    assert lora_state(unet) == {}
    detach_lora(unet)  # nothing is there any more, and that is no mistake
    merge_lora(unet)
    assert torch.equal(predict(unet), before)


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Linear | nn.Conv2d, Tensor]:
    size_in, size_out, seed = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 99))
    if draw(st.booleans()):
        layer: Any = nn.Linear(size_in, size_out, bias=draw(st.booleans()))
        return layer, randn(2, 5, size_in, seed=seed)
    kernel, stride = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))
    layer = nn.Conv2d(size_in, size_out, kernel, stride, padding=draw(st.sampled_from([0, 1])))
    return layer, randn(2, size_in, 6, 7, seed=seed)


@given(layers(), st.integers(1, 12), st.floats(0.01, 20), st.floats(-2, 2))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_delta_of_any_layer(
    given_layer: tuple[nn.Linear | nn.Conv2d, Tensor], rank: int, alpha: float, scale: float
) -> None:
    layer, x = given_layer
    before = layer(x)
    lora = attach(layer, rank, alpha)
    randomize_lora(layer)
    lora.scale = scale
    expected = layer(x)
    added = scale * alpha / rank * lora.B(lora.A(x))
    size = 1 + added.abs().max().item()
    assert max_error(expected, before + added) <= 1e-5 * size
    merge_lora(layer)
    assert max_error(layer(x), expected) <= 1e-5 * size


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"rank": 0}, ["rank is 0", "choose 1 to 4096"]),
        ({"rank": 5000}, ["rank is 5000", "choose 1 to 4096"]),
        ({"alpha": 0}, ["alpha is 0", "choose more than 0"]),
        ({"alpha": math.nan}, ["alpha is nan", "choose more than 0"]),
        ({"targets": ("to_x",)}, [".to_x", "choose other targets"]),
        ({"targets": ()}, ["choose other targets"]),
        ({"targets": ("q",)}, ["choose other targets"]),
    ],
)
def test_wrong_wishes(unet: UNet, wishes: dict[str, Any], words: list[str]) -> None:
    keys = unet.state_dict().keys()
    with pytest.raises(RequestError) as caught:
        attach_lora(unet, **wishes)
    assert all(word in str(caught.value) for word in words)
    assert unet.state_dict().keys() == keys


def test_one_at_a_time(unet: UNet) -> None:
    attach_lora(unet)
    with pytest.raises(RequestError, match="attached already: merge or detach"):
        attach_lora(unet, targets=CONVOLUTIONS)


@pytest.mark.parametrize("scale", [math.nan, math.inf, 101.0])
def test_wrong_scale(unet: UNet, scale: float) -> None:
    attach_lora(unet)
    with pytest.raises(RequestError, match=r"scale is .*: choose -100 to 100"):
        set_lora_scale(unet, scale)
