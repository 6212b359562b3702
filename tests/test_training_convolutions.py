"""Convolutions that learn by matrix products: the same values and gradients as plain ones, in less time."""

import copy

import pytest
import torch
from torch import nn

from stablediff.training.convolutions import quicken
from stablediff.training.winograd import convolve


def test_winograd_has_the_gradients_of_its_values():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolve, (x, weight))
    torch.testing.assert_close(convolve(x, weight), nn.functional.conv2d(x, weight, padding=1))


def test_many_pictures_are_worked_on_in_parts(monkeypatch):
    torch.manual_seed(0)
    x, weight = torch.randn(5, 8, 4, 4, dtype=torch.float64), torch.randn(6, 8, 3, 3, dtype=torch.float64)
    monkeypatch.setattr("stablediff.training.winograd._IN_CACHE", 4 * 2 * 8 * 4 * 4)  # of two pictures
    x.requires_grad_()
    assert torch.autograd.gradcheck(convolve, (x, weight))
    torch.testing.assert_close(convolve(x, weight), nn.functional.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("side", [8, 9])  # tiles of two cells fit, and do not
@pytest.mark.parametrize("frozen", [False, True])
def test_quick_convolutions_answer_as_plain_ones(side, frozen):
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(96, 128, 3, padding=1), nn.Conv2d(128, 96, 1), nn.Conv2d(96, 96, 3, padding=1, bias=False)
    )
    if frozen:
        for part in plain[1:]:
            part.requires_grad_(False)
    plain.to(memory_format=torch.channels_last)
    quick = copy.deepcopy(plain)
    quicken(quick)
    assert not any(type(layer) is nn.Conv2d for layer in quick)
    x = torch.randn(4, 96, side, side).to(memory_format=torch.channels_last)
    seen = [x.clone().requires_grad_() for _ in range(2)]
    for network, pixels in zip((plain, quick), seen, strict=True):
        network(pixels).square().mean().backward()
    torch.testing.assert_close(seen[1].grad, seen[0].grad, rtol=1e-4, atol=1e-8)
    for (name, wanted), (same_name, weight) in zip(plain.named_parameters(), quick.named_parameters(), strict=True):
        assert name == same_name
        assert (weight.grad is None) == (wanted.grad is None)
        if wanted.grad is not None:
            torch.testing.assert_close(weight.grad, wanted.grad, rtol=1e-4, atol=1e-7)


def test_only_what_gains_is_changed():
    kept = [
        nn.Conv2d(16, 96, 3, padding=1),
        nn.Conv2d(96, 96, 3),
        nn.Conv2d(96, 96, 3, stride=2, padding=1),
        nn.Conv2d(192, 192, 3, padding=1, groups=2),
        nn.Conv2d(96, 96, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(96, 96, 1, dilation=2),
        nn.Linear(96, 96),
    ]
    network = nn.Sequential(*kept, nn.Conv2d(96, 96, 3, padding=1))
    quicken(network)
    assert [type(layer) in (nn.Conv2d, nn.Linear) for layer in network] == [True] * len(kept) + [False]
