"""The Fréchet distance, against pytorch-fid's formula, torchmetrics, and what is known in closed form."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.fid import FrechetInceptionDistance

from stablediff.errors import EvaluationError
from stablediff.evaluation.frechet import Gaussian, fit_gaussian, frechet_between, frechet_distance


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_sets(rows: int, others: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Differently stretched, turned and shifted."""
    x = normals(rows, width) @ normals(width, width, seed=1) + 1
    return x, normals(others, width, seed=2) @ normals(width, width, seed=3)


def pytorch_fid(real: torch.Tensor, fake: torch.Tensor) -> float:
    """The formula of pytorch-fid and clean-fid, with their offset for singular products."""
    x, y = real.double().numpy(), fake.double().numpy()
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy says that the product is singular
        root = scipy.linalg.sqrtm(c.dot(d))
        if not np.isfinite(root).all():
            offset = 1e-6 * np.eye(len(c))
            root = scipy.linalg.sqrtm((c + offset).dot(d + offset))
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift.dot(shift) + np.trace(c) + np.trace(d) - 2 * np.trace(root.real))


class AsTheyAre(torch.nn.Module):
    """What torchmetrics takes for a network: its pictures are features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def torchmetrics_fid(real: torch.Tensor, fake: torch.Tensor) -> float:
    metric = FrechetInceptionDistance(feature=AsTheyAre(real.shape[1])).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute().item()


@pytest.mark.parametrize(("rows", "others", "width"), [(300, 300, 16), (500, 200, 64), (70, 90, 64), (2, 3, 1)])
def test_it_is_the_references(rows: int, others: int, width: int) -> None:
    real, fake = two_sets(rows, others, width)
    ours = frechet_distance(real, fake)
    if width > 1:
        assert ours == pytest.approx(pytorch_fid(real, fake), rel=1e-6)
    assert ours == pytest.approx(torchmetrics_fid(real, fake), rel=1e-6)


def test_it_is_the_references_on_float32_features_that_are_never_below_zero() -> None:
    real, fake = (x.float().relu() for x in two_sets(400, 300, 32))
    assert frechet_distance(real, fake) == pytest.approx(pytorch_fid(real, fake), rel=1e-4)
    assert frechet_distance(real, fake) == pytest.approx(torchmetrics_fid(real.double(), fake.double()), rel=1e-6)


def test_singular_covariances_do_no_harm() -> None:
    """Fewer pictures than numbers; the trace of the root is then known from the features alone."""
    real, fake = two_sets(20, 30, 64)
    x, y = real - real.mean(dim=0), fake - fake.mean(dim=0)
    roots = torch.linalg.svdvals(x @ y.T).sum() / (19 * 29) ** 0.5
    shift = (real.mean(dim=0) - fake.mean(dim=0)).square().sum()
    expected = shift + x.square().sum() / 19 + y.square().sum() / 29 - 2 * roots
    assert frechet_distance(real, fake) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(real, fake) == pytest.approx(pytorch_fid(real, fake), rel=1e-4)
    assert frechet_distance(real, real.flip(0)) < 1e-6
    constant = torch.ones(5, 64)
    assert frechet_distance(constant, constant) == 0
    assert frechet_distance(constant, constant + 0.5) == pytest.approx(16)


def test_identical_sets_are_at_distance_zero_and_shifted_ones_at_the_squared_shift() -> None:
    real, shift = two_sets(200, 2, 24)[0], normals(24, seed=9)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(real, real + shift) == pytest.approx(shift.square().sum().item(), rel=1e-9)


def test_gaussians_that_commute_have_their_closed_form() -> None:
    a = Gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 4.0, 9.0])))
    b = Gaussian(torch.tensor([1.0, 0.0, 2.0]), torch.diag(torch.tensor([4.0, 4.0, 0.0])))
    assert frechet_between(a, b) == pytest.approx(5 + 1 + 0 + 9)  # Σ (√λ - √λ')² beside the shift
    drawn = normals(100_000, 3) * torch.tensor([1.0, 2.0, 3.0])
    assert frechet_between(fit_gaussian(drawn), b) == pytest.approx(15, rel=0.02)


def test_saved_statistics_give_what_features_give_even_in_float32() -> None:
    real, fake = two_sets(200, 300, 16)
    x, y = real.numpy(), fake.numpy()
    saved = [Gaussian(torch.from_numpy(z.mean(axis=0)), torch.from_numpy(np.cov(z, rowvar=False))) for z in (x, y)]
    assert frechet_between(*saved) == pytest.approx(frechet_distance(real, fake), rel=1e-10)
    rounded = [Gaussian(z.mean.float(), z.covariance.float()) for z in saved]
    assert frechet_between(*rounded) == pytest.approx(frechet_distance(real, fake), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0.01, 100))
def test_it_is_symmetric_blind_to_rotation_and_of_second_degree(seed: int, width: int, scale: float) -> None:
    x, y = normals(20, width, seed=seed), normals(15, width, seed=seed + 1) + 1
    turn = torch.linalg.qr(normals(width, width, seed=seed + 2)).Q
    expected = frechet_distance(x, y)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(scale * x, scale * y) == pytest.approx(scale**2 * expected, rel=1e-6)


def test_bad_input_is_named() -> None:
    good, nan = normals(10, 4), normals(10, 4)
    nan[3, 1] = nan[7, 0] = torch.nan
    for real, fake, message in [
        (good, nan, r"the features of fake pictures hold NaN or infinity in 2 of 10 rows, first in row 3: compute"),
        (good.log(), good, "the features of real pictures hold NaN"),
        (good, good / 0, "the features of fake pictures hold NaN or infinity in 10 of 10 rows"),
        (good[:1], good, "the number of real pictures is 1, and must be at least 2: give more"),
        (good, good[:0], "the number of fake pictures is 0"),
        (
            good,
            good[:, :3],
            "the features of real pictures are 4 numbers and those of fake pictures 3: take both from the same network",
        ),
        (good[0], good, r"the features of real pictures have the shape \(4,\): give \(N, D\)"),
        (good[:, :0], good, r"shape \(10, 0\)"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            frechet_distance(real, fake)
    for mean, covariance, message in [
        (
            torch.zeros(3),
            torch.eye(4),
            r"the mean has the shape \(3,\) and the covariance \(4, 4\): give \(D,\) and \(D, D\)",
        ),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (torch.full((2,), torch.nan), torch.eye(2), "the mean or the covariance holds NaN"),
        (torch.zeros(2), torch.full((2, 2), torch.inf), "the covariance holds NaN or infinity"),
        (torch.zeros(2, 2), torch.eye(2), "shape"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            Gaussian(mean, covariance)
    with pytest.raises(EvaluationError, match="eigenvalue -1, and none may be below 0"):
        frechet_between(Gaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0]))), fit_gaussian(good[:, :2]))
    with pytest.raises(EvaluationError, match="one mean has 2 numbers and the other 4"):
        frechet_between(fit_gaussian(good[:, :2]), fit_gaussian(good))
