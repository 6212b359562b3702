"""Convolutions with 16 products for 36: the plain sums to rounding, whatever the size, and only where it pays."""

import copy

import pytest
import torch
from reference import TOLERANCE, max_error, randn
from torch import nn

from stablediff.models import winograd
from stablediff.models.packed import PackedConv2d, can_pack
from stablediff.models.winograd import WinogradKernel, pays

pytestmark = pytest.mark.skipif(not can_pack(), reason="torch has no such kernels here")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small, and in several strips."""
    monkeypatch.setattr(winograd, "_LEAST", 0)
    monkeypatch.setattr(winograd, "_NARROWEST", 1)
    monkeypatch.setattr(winograd, "_TILES", 10)


def layer(channels: int = 80, bias: bool = True) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Conv2d(channels, 96, 3, padding=1, bias=bias)
    return made.requires_grad_(False)


SIZES = [(1, 80, 8, 8), (2, 80, 6, 10), (2, 80, 16, 8), (1, 80, 9, 7), (3, 80, 2, 64), (1, 80, 1, 1), (1, 80, 40, 2)]


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution_at_every_size(bias: bool):
    plain = layer(bias=bias)
    packed = PackedConv2d(plain)
    for size in SIZES:
        x = randn(*size).contiguous(memory_format=torch.channels_last)
        for one in (x, x.contiguous()):
            with torch.inference_mode():
                out = packed(one)
            assert isinstance(packed._packed, WinogradKernel)
            assert max_error(out, plain(x)) <= TOLERANCE
            assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("everywhere")
def test_the_equations_are_those_of_the_paper():
    """One channel, one tile, in float64 by hand."""
    bt = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], dtype=torch.float64)
    g = torch.tensor(winograd.G, dtype=torch.float64)
    at = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]], dtype=torch.float64)
    d, kernel = randn(4, 4).double(), randn(3, 3).double()
    y = at @ ((g @ kernel @ g.T) * (bt @ d @ bt.T)) @ at.T
    plain = nn.functional.conv2d(d[None, None], kernel[None, None])[0, 0]
    assert max_error(y, plain) < 1e-12
    for dim, transformed in ((0, bt @ d), (1, d @ bt.T)):
        found = winograd._differences(d, dim, 1)
        assert torch.equal(torch.cat(found, dim), transformed)


@pytest.mark.usefixtures("everywhere")
def test_the_kernel_comes_back_but_for_its_last_bit_and_does_not_drift():
    plain = layer()
    packed = PackedConv2d(plain)
    packed(randn(1, 80, 8, 8))
    once = packed.weight
    assert max_error(once, plain.weight) <= 2**-24
    for size in SIZES:
        packed(randn(*size))
    assert torch.equal(packed.weight, once)
    other = copy.deepcopy(packed)
    x = randn(1, 80, 8, 8)
    assert max_error(other(x), packed(x)) <= TOLERANCE
    packed.to(torch.bfloat16)
    assert torch.equal(packed.weight, once.bfloat16())
    assert packed(x.bfloat16()).dtype == torch.bfloat16


def test_it_is_used_where_it_pays():
    wide = torch.empty(640, 640, 3, 3)
    assert pays(wide, 2, 32, 32)
    assert not pays(wide, 2, 4, 4)
    assert not pays(wide.bfloat16(), 2, 32, 32)
    assert not pays(wide[:128], 2, 512, 512)
    packed = PackedConv2d(nn.Conv2d(640, 640, 3, padding=1).requires_grad_(False))
    packed(randn(1, 640, 8, 8))
    assert not isinstance(packed._packed, WinogradKernel)
    large = randn(1, 640, 24, 24)
    assert max_error(packed(large), nn.functional.conv2d(large, packed.weight, packed.bias, padding=1)) <= TOLERANCE
    assert isinstance(packed._packed, WinogradKernel)


@pytest.mark.parametrize("how", [{"stride": 2, "padding": 1}, {"padding": 0}, {"padding": 2, "dilation": 2}], ids=str)
@pytest.mark.usefixtures("everywhere")
def test_other_convolutions_stay_as_they_are(how: dict[str, int]):
    plain = nn.Conv2d(80, 96, 3, **how).requires_grad_(False)
    packed, x = PackedConv2d(plain), randn(1, 80, 16, 16)
    assert max_error(packed(x), plain(x)) <= TOLERANCE
    assert not isinstance(packed._packed, WinogradKernel)
