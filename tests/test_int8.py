"""Eight-bit products: exactly what their rounded numbers give, and near to what was rounded."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from reference import randn
from torch import Tensor, nn
from toy import draw

from stablediff import load
from stablediff.bench.gate import relative_error
from stablediff.checkpoints.lora import load_lora
from stablediff.device import choose_compute, cpu_computes_int8
from stablediff.errors import CheckpointError, DeviceError, StableDiffError
from stablediff.models.frozen import count_bytes, count_weights
from stablediff.models.int8 import Int8Conv2d, Int8Linear, quantise, to_uint8

pytestmark = pytest.mark.skipif(not cpu_computes_int8(), reason="this CPU does not multiply eight-bit numbers")


def back(x: Tensor) -> Tensor:
    numbers, scale, zero = to_uint8(x)
    return (numbers.double() - zero) * scale


@given(seed=st.integers(0, 100), shift=st.floats(-50, 50), size=st.floats(1e-3, 1e3), dtype=st.sampled_from(["b", "f"]))
def test_numbers_are_rounded_to_the_nearest_step(seed: int, shift: float, size: float, dtype: str):
    x = (randn(40, 30, seed=seed) * size + shift).to(torch.bfloat16 if dtype == "b" else torch.float32)
    numbers, scale, zero = to_uint8(x)
    assert numbers.dtype == torch.uint8
    assert 0 <= zero <= 254
    # bfloat16 itself rounds what it counts in: by half a step more, at most.
    assert (back(x) - x.double()).abs().max() <= scale * (1.01 if dtype == "b" else 0.51)


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_constants_are_rounded_too(value: float):
    x = torch.full((4, 70), value)
    assert (back(x) - x).abs().max() <= 0.02
    layer = nn.Linear(70, 65).requires_grad_(False)
    assert relative_error(Int8Linear(layer)(x), layer(x)) <= 0.02


def rounded_weight(layer: nn.Linear | nn.Conv2d) -> Tensor:
    weight = layer.weight
    scale = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1)) / 127
    return (weight / scale).round().double() * scale.double()


@pytest.mark.parametrize("shape", [(7, 96), (2, 5, 96), (2, 3, 4, 96)])
def test_a_linear_layer_is_exact_for_its_rounded_numbers(shape: tuple[int, ...]):
    layer = nn.Linear(96, 130).requires_grad_(False)
    x = randn(*shape) + 0.5
    expected = F.linear(back(x), rounded_weight(layer), layer.bias.double())
    out = Int8Linear(layer)(x)
    assert out.dtype == x.dtype
    assert relative_error(out.double(), expected) <= 1e-5
    assert relative_error(out, layer(x)) <= 0.02


@pytest.mark.parametrize("how", [{"padding": 1}, {"stride": 2, "padding": 1}, {"stride": 2}, {"bias": False}])
def test_a_convolution_is_exact_for_its_rounded_numbers(how: dict):
    layer = nn.Conv2d(64, 80, 3, **how).requires_grad_(False)
    x = randn(2, 64, 9, 12) + 0.5  # padding with 0 is not padding with the least number
    rounded = copy.deepcopy(layer).double()
    rounded.weight.copy_(rounded_weight(layer))
    out = Int8Conv2d(layer)(x)
    assert relative_error(out.double(), rounded(back(x))) <= 1e-5
    assert relative_error(out, layer(x)) <= 0.03
    assert relative_error(Int8Conv2d(layer)(x.bfloat16()).float(), layer(x)) <= 0.03


def test_large_layers_are_exchanged_and_small_ones_kept():
    network = nn.ModuleDict(
        {
            "conv_in": nn.Conv2d(64, 64, 3),
            "a": nn.Sequential(nn.Conv2d(64, 64, 3), nn.SiLU(), nn.Linear(64, 200)),
            "small": nn.Linear(63, 500),
            "attn2": nn.ModuleDict({"to_k": nn.Linear(64, 64), "to_q": nn.Linear(64, 64)}),
        }
    ).requires_grad_(False)
    weights, size = count_weights(network), count_bytes(network)
    quantise(network)
    assert isinstance(network["a"][0], Int8Conv2d)
    assert isinstance(network["a"][2], Int8Linear)
    assert isinstance(network["attn2"]["to_q"], Int8Linear)
    assert [type(network["conv_in"]), type(network["small"]), type(network["attn2"]["to_k"])] == [
        nn.Conv2d,
        nn.Linear,
        nn.Linear,
    ]
    rounded = 64 * 64 * 9 + 64 * 200 + 64 * 64
    biases = 64 + 200 + 64
    assert count_weights(network) == weights - biases
    assert count_bytes(network) == size - 3 * rounded - 4 * biases


def test_the_bundled_model_draws_nearly_the_same():
    plain, int8 = load(dtype="float32"), load(dtype="int8")
    assert int8.compute.int8
    assert "int8" in int8.describe()
    wishes = {"prompt": "red apple, flat style", "seed": 5, "num_steps": 6}
    one, other = (draw(pipeline, **wishes).images[0] for pipeline in (plain, int8))
    gap = torch.tensor(list(one.tobytes())).float() - torch.tensor(list(other.tobytes())).float()
    assert 0 < gap.abs().mean() <= 4
    with pytest.raises(CheckpointError, match="cannot be saved"):
        int8.save("nowhere")
    with pytest.raises(StableDiffError, match="laid out for drawing"):
        load_lora("nowhere.safetensors", int8.networks)


@pytest.mark.skipif(not cpu_computes_int8(), reason="no instructions for it here")
@pytest.mark.parametrize("layer", [nn.Linear(64, 64), nn.Conv2d(64, 64, 3)])
def test_a_layer_answers_no_numbers_with_none(layer: nn.Module):
    rounded = Int8Linear(layer) if isinstance(layer, nn.Linear) else Int8Conv2d(layer)
    x = torch.full((1, 64) if isinstance(layer, nn.Linear) else (1, 64, 8, 8), math.nan)
    assert rounded(x).isnan().all()


def test_where_no_cpu_computes_it_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stablediff.device.cpu_computes_int8", lambda: False)
    with pytest.raises(DeviceError, match="int8 is for CPUs with"):
        choose_compute("cpu", "int8")


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_comes_out_as_none(odd: float):
    x = torch.zeros(2, 8)
    x[0, 0] = odd
    rounded = to_uint8(x)
    assert math.isnan(rounded.scale)
    assert rounded.numbers.shape == x.shape
