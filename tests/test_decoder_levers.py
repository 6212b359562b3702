"""What makes the decoder faster or smaller gives the plain decoder's pictures."""

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from reference import TOLERANCE, fifty_configs, max_error, randn, vae_pair
from test_vae import TINY, vae_configs
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stablediff.bench.gate import relative_error
from stablediff.config import VAEConfig
from stablediff.models.fold import FoldedUpsample, fold
from stablediff.models.packed import pack
from stablediff.models.rows import decode_in_rows


@contextmanager
def plain() -> Iterator[None]:
    """Where something could be learnt, nothing is folded."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (4, 3)])
def test_a_folded_kernel_is_the_doubled_map_convolved(height: int, width: int):
    x, weight, bias = randn(2, 3, height, width), randn(5, 3, 3, 3, seed=1), randn(5, seed=2)
    folded = F.conv_transpose2d(x, fold(weight), bias, stride=2, padding=1)
    assert max_error(folded, doubled(x, weight, bias)) <= TOLERANCE


def upsample(dtype: torch.dtype = torch.float32) -> FoldedUpsample:
    layer = FoldedUpsample(4).requires_grad_(False)
    for parameter, seed in zip(layer.parameters(), (1, 2), strict=True):
        parameter.copy_(randn(*parameter.shape, seed=seed))
    return layer.to(dtype)


def test_weights_that_change_are_folded_again():
    layer, x = upsample(), randn(1, 4, 3, 3)

    def check(module: FoldedUpsample) -> None:
        with torch.inference_mode():
            assert max_error(module(x), doubled(x, module.conv.weight, module.conv.bias)) <= TOLERANCE

    check(layer)
    kernel = layer._kernel()
    assert layer._kernel() is kernel, "folded once"
    layer.conv.weight.mul_(2)
    check(layer)
    with torch.autograd._unsafe_preserve_version_counter(layer.conv.weight):  # as FSDP2 brings weights together
        layer.conv.weight.mul_(2)
    check(layer)
    layer.load_state_dict(upsample().state_dict())
    check(layer)
    layer.conv.weight = nn.Parameter(randn(4, 4, 3, 3, seed=9))
    check(layer)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.conv.weight.mul_(3)
    check(twin)
    check(layer)
    assert set(layer.state_dict()) == {"conv.weight", "conv.bias"}


def test_other_sizes_and_what_learns_go_the_plain_way():
    layer, x = upsample(), randn(1, 4, 3, 3)
    with torch.inference_mode():
        assert layer(x, size=(5, 7)).shape[-2:] == (5, 7)
    layer.requires_grad_()
    layer(x).sum().backward()
    assert layer.conv.weight.grad is not None
    assert layer._folded is None


def test_folding_costs_no_precision_in_bfloat16():
    layer, x = upsample(torch.bfloat16), randn(1, 4, 16, 16).bfloat16()
    exact = doubled(x.float(), layer.conv.weight.float(), layer.conv.bias.float())
    with torch.inference_mode():
        folded = relative_error(layer(x).float(), exact)
    plain = relative_error(doubled(x, layer.conv.weight, layer.conv.bias).float(), exact)
    # A CPU that emulates bfloat16 rounds nothing but the result; the folded kernel is rounded itself.
    assert folded <= max(2 * plain, 1.5 * 2**-8)


@fifty_configs
@given(
    config=vae_configs(),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    strip=st.integers(1, 200),
    seed=st.integers(0, 999),
)
def test_folded_and_in_rows_are_the_plain_decoder(config: VAEConfig, height: int, width: int, strip: int, seed: int):
    ours, _ = vae_pair(config, seed)
    latents = randn(2, config.latent_channels, height, width, seed=seed)
    before = latents.clone()
    with plain():
        expected = ours.decode(latents)
    with torch.inference_mode():
        assert max_error(ours.decode(latents), expected) <= TOLERANCE
        assert max_error(decode_in_rows(ours, latents, strip), expected) <= TOLERANCE
    assert torch.equal(latents, before)


@pytest.mark.parametrize("least", [0, 3e9])
def test_rows_of_a_packed_decoder_are_the_plain_decoder(least: float, monkeypatch: pytest.MonkeyPatch):
    """As it is loaded to draw in float32; with convolutions in Winograd's way, and without."""
    monkeypatch.setattr("stablediff.models.winograd._LEAST", least)
    monkeypatch.setattr("stablediff.models.winograd._NARROWEST", 64)
    ours, _ = vae_pair(replace(TINY, channels=(64, 64, 96), norm_groups=8))
    latents = randn(1, TINY.latent_channels, 9, 7)
    with torch.inference_mode():
        expected = ours.decode(latents)
        pack(ours)
        for strip in (20, 100, 10_000):
            assert max_error(decode_in_rows(ours, latents, strip), expected) <= TOLERANCE
        assert max_error(ours.decode(latents), expected) <= TOLERANCE


def test_rows_in_bfloat16_are_as_exact_as_the_plain_decoder():
    ours, _ = vae_pair(TINY)
    latents = randn(1, TINY.latent_channels, 9, 7)
    with torch.inference_mode():
        exact = ours.decode(latents)
        ours.to(torch.bfloat16)
        rows = relative_error(decode_in_rows(ours, latents.bfloat16(), 50).float(), exact)
        assert rows <= 1.5 * relative_error(ours.decode(latents.bfloat16()).float(), exact)


class Largest(TorchDispatchMode):
    """The most numbers that were alive at once, among the tensors that operations made."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        seen = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)}
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in seen:  # no view
            self.alive += out.numel()
            self.most = max(self.most, self.alive)
            weakref.finalize(out, self._free, out.numel())
        return out

    def _free(self, count: int) -> None:
        self.alive -= count


def test_rows_need_less_memory():
    ours, _ = vae_pair(replace(TINY, mid_attention=False))
    latents = randn(1, TINY.latent_channels, 64, 64)
    most = []
    for decode in (ours.decode, lambda z: decode_in_rows(ours, z, 256)):
        with torch.inference_mode():
            decode(latents[..., :1])  # folds
            with Largest() as memory:
                decode(latents)
        most.append(memory.most)
    assert most[1] < 0.85 * most[0]
