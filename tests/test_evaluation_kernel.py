"""Kernel distances, against torchmetrics, the published code's formulas, and their expected values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

from stablediff.errors import EvaluationError
from stablediff.evaluation import kernel
from stablediff.evaluation.kernel import cmmd, gaussian_kernel, kernel_distance, squared_mmd


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """The biased estimate of the paper's code, pair by pair."""
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.exp(-((p - q) ** 2).sum() / 200) for q in b] for p in a]))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def test_mmd_of_all_features_is_that_of_torchmetrics() -> None:
    real, fake = normals(120, 32), 1.3 * normals(120, 32, seed=1) + 0.2
    assert squared_mmd(real, fake) == pytest.approx(poly_mmd(real, fake).item(), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_subsets_are_those_of_torchmetrics() -> None:
    real, fake = normals(150, 16), normals(130, 16, seed=1) + 0.3
    metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=20, subset_size=50)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        mean, deviation = metric.compute()
    ours = kernel_distance(real, fake, subsets=20, subset_size=50, seed=7)
    assert ours.mean == pytest.approx(mean.item(), rel=1e-9)
    assert ours.deviation == pytest.approx(deviation.item(), rel=1e-9)
    assert ours == kernel_distance(real, fake, subsets=20, subset_size=50, seed=7)
    assert ours != kernel_distance(real, fake, subsets=20, subset_size=50, seed=8)


def test_cmmd_is_the_published_formula() -> None:
    real, fake = normals(30, 8), normals(40, 8, seed=1) + 0.4
    assert cmmd(real, fake) == pytest.approx(published_cmmd(real.numpy(), fake.numpy()), rel=1e-6)
    assert cmmd(real.float(), 5 * fake.float()) == pytest.approx(cmmd(real, fake), rel=1e-4)
    assert cmmd(real, real) == pytest.approx(0, abs=1e-10)
    assert cmmd(real, fake, unbiased=True) < cmmd(real, fake)


def test_two_points_have_their_closed_form() -> None:
    x, y = torch.zeros(1, 1), torch.full((1, 1), 3.0)
    expected = 2 - 2 * np.exp(-9 / (2 * 2**2))
    assert squared_mmd(x, y, gaussian_kernel(2), unbiased=False) == pytest.approx(expected)
    assert squared_mmd(x, y, unbiased=False) == pytest.approx(1 + 10**3 - 2)


def test_the_unbiased_estimate_is_zero_on_average_for_one_distribution_and_the_biased_one_is_not() -> None:
    pairs = [(normals(40, 6, seed=2 * i), normals(60, 6, seed=2 * i + 1)) for i in range(200)]
    unbiased = torch.tensor([squared_mmd(x, y) for x, y in pairs])
    error = unbiased.std() / len(pairs) ** 0.5
    assert unbiased.mean().abs() < 3 * error
    assert unbiased.min() < 0 < unbiased.max()
    assert min(squared_mmd(x, y, unbiased=False) for x, y in pairs) > 10 * error


def test_a_shift_is_seen_above_the_deviation_over_subsets() -> None:
    real, same, shifted = normals(400, 16), normals(400, 16, seed=1), normals(400, 16, seed=2) + 0.3
    floor, far = (kernel_distance(real, x, subsets=20, subset_size=100) for x in (same, shifted))
    assert abs(floor.mean) < floor.deviation
    assert far.mean > 3 * far.deviation


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(2, 30), st.booleans())
def test_it_is_symmetric_blind_to_rotation_and_to_the_size_of_blocks(
    seed: int, rows: int, others: int, unbiased: bool
) -> None:
    x, y = normals(rows, 5, seed=seed), normals(others, 5, seed=seed + 1) + 1
    turn = torch.linalg.qr(normals(5, 5, seed=seed + 2)).Q
    for k in (kernel.polynomial_kernel, gaussian_kernel(1.5)):
        expected = squared_mmd(x, y, k, unbiased)
        assert squared_mmd(y, x, k, unbiased) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert squared_mmd(x @ turn, y @ turn, k, unbiased) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "_BLOCK", 17)
            assert squared_mmd(x, y, k, unbiased) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_bad_input_is_named() -> None:
    good, nan = normals(20, 4), normals(20, 4)
    nan[5] = torch.inf
    for real, fake, message in [
        (good, nan, "the features of fake pictures hold NaN or infinity in 1 of 20 rows, first in row 5"),
        (
            good[:9],
            good,
            "the number of real pictures is 9, and must be at least 10: give more, or take smaller subsets",
        ),
        (good, good[:0], "the number of fake pictures is 0"),
        (good, good[:, :2], "from the same network"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            kernel_distance(real, fake, subset_size=10)
    with pytest.raises(EvaluationError, match="the size of a subset is 1: give a whole number of at least 2"):
        kernel_distance(good, good, subset_size=1)
    with pytest.raises(EvaluationError, match="the number of subsets is 0"):
        kernel_distance(good, good, subsets=0, subset_size=5)
    with pytest.raises(EvaluationError, match="must be at least 2"):
        squared_mmd(good[:1], good)
    with pytest.raises(EvaluationError, match="must be at least 1"):
        squared_mmd(good[:0], good, unbiased=False)
    with pytest.raises(EvaluationError, match="NaN"):
        cmmd(good, nan)
    with pytest.raises(EvaluationError, match="the features of fake pictures are all zero in row 0, so"):
        cmmd(good, torch.zeros(3, 4))
    with pytest.raises(EvaluationError, match="sigma is 0: give a width above 0"):
        cmmd(good, good, sigma=0)
