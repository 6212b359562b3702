"""Precision, recall, density, coverage and nearest neighbours, against prdc and plain counting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc

from stablediff.errors import EvaluationError
from stablediff.evaluation import neighbours
from stablediff.evaluation.neighbours import Manifolds, compare_manifolds, memorisation_threshold, nearest


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def figures(manifolds: Manifolds) -> dict[str, float]:
    names = ("precision", "recall", "density", "coverage")
    return {name: getattr(manifolds, name) for name in names}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("rows", "others", "scale"), [(200, 200, 1.0), (150, 90, 0.6), (90, 150, 1.4)])
def test_it_is_prdc(rows: int, others: int, scale: float, k: int, capsys: pytest.CaptureFixture[str]) -> None:
    real, fake = normals(rows, 12), scale * normals(others, 12, seed=1) + 0.1
    expected = compute_prdc(real.numpy(), fake.numpy(), nearest_k=k)
    capsys.readouterr()  # it prints
    assert figures(compare_manifolds(real, fake, k)) == pytest.approx(expected, rel=1e-9)
    assert figures(compare_manifolds(real.float(), fake.float(), k)) == pytest.approx(expected, rel=1e-9)
    assert figures(compare_manifolds(real + 1e7, fake + 1e7, k)) == pytest.approx(expected, rel=1e-9)  # costs no digits


def test_what_is_on_a_surface_is_outside_as_in_prdc(capsys: pytest.CaptureFixture[str]) -> None:
    """On a grid of whole numbers most distances are equal, and many pictures twins."""
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randint(4, (80, 3), generator=generator).double() for _ in range(2))
    for k in (1, 2, 4):
        expected = compute_prdc(real.numpy(), fake.numpy(), nearest_k=k)
        assert figures(compare_manifolds(real, fake, k)) == pytest.approx(expected, rel=1e-9)
        assert figures(compare_manifolds(real + 1e6, fake + 1e6, k)) == pytest.approx(expected, rel=1e-9)
    capsys.readouterr()


def test_identical_sets_are_precise_and_complete_and_far_ones_neither() -> None:
    real = normals(100, 8)
    assert figures(compare_manifolds(real, real)) == {"precision": 1, "recall": 1, "density": 1, "coverage": 1}
    assert figures(compare_manifolds(real, real + 100)) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_a_repeated_picture_is_precise_and_dense_and_recalls_nothing() -> None:
    real = normals(200, 4)
    centre = real[real.norm(dim=1).argmin()]
    seen = compare_manifolds(real, centre.repeat(200, 1))
    assert seen.precision == 1
    assert seen.density > 1
    assert seen.recall == 0
    assert seen.coverage < 0.3


def test_lost_modes_cost_recall_and_coverage_and_outliers_cost_precision() -> None:
    blobs = torch.cat([normals(100, 4), normals(100, 4, seed=1) + 20])
    lost = compare_manifolds(blobs, normals(200, 4, seed=2))
    assert lost.precision > 0.9
    assert lost.recall < 0.55
    assert lost.coverage < 0.55
    invented = compare_manifolds(normals(200, 4, seed=2), blobs)
    assert invented.precision == pytest.approx(0.5, abs=0.06)
    assert invented.recall > 0.85


def test_each_picture_has_its_say() -> None:
    real, fake = normals(60, 4), torch.cat([normals(30, 4, seed=1), normals(10, 4, seed=2) + 50])
    seen = compare_manifolds(real, fake)
    assert seen.realistic.shape == seen.density_each.shape == (40,)
    assert seen.recalled.shape == seen.covered.shape == (60,)
    assert not seen.realistic[30:].any()
    assert seen.density_each[30:].sum() == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 30), st.integers(4, 30))
def test_rotation_order_and_the_size_of_blocks_change_nothing(seed: int, rows: int, others: int) -> None:
    x, y = normals(rows, 5, seed=seed), normals(others, 5, seed=seed + 1)
    turn = torch.linalg.qr(normals(5, 5, seed=seed + 2)).Q
    expected = figures(compare_manifolds(x, y, k=3))
    assert figures(compare_manifolds(x @ turn, y @ turn, k=3)) == pytest.approx(expected)
    assert figures(compare_manifolds(x.flip(0), y.flip(0), k=3)) == pytest.approx(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_BLOCK", 50)
        assert figures(compare_manifolds(x, y, k=3)) == pytest.approx(expected)
    swapped = compare_manifolds(y, x, k=3)
    assert (swapped.precision, swapped.recall) == pytest.approx((expected["recall"], expected["precision"]))


def test_nearest_is_plain_counting() -> None:
    queries, references = normals(50, 6), normals(70, 6, seed=1)
    expected, index = torch.cdist(queries, references).sort(dim=1)
    found = nearest(queries, references, k=4)
    assert found.index.equal(index[:, :4])
    torch.testing.assert_close(found.distance, expected[:, :4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_BLOCK", 1)
        assert nearest(queries, references, k=4).index.equal(index[:, :4])
    twin = nearest(references[7:8] + 1000, references + 1000)
    assert (twin.index.item(), twin.distance.item()) == (7, 0)


def test_the_threshold_flags_copies_and_no_more_unseen_pictures_than_asked_for() -> None:
    training, held_out, unseen = normals(500, 8), normals(400, 8, seed=1), normals(4000, 8, seed=2)
    copies = training[:50] + 0.02 * normals(50, 8, seed=3)
    for share in (0.01, 0.05, 0.2):
        threshold = memorisation_threshold(training, held_out, share)
        assert (nearest(copies, training).distance < threshold).all()
        assert (nearest(held_out, training).distance < threshold).double().mean() < share
        flagged = (nearest(unseen, training).distance < threshold).double().mean().item()
        assert flagged == pytest.approx(share, rel=0.6)


def test_over_many_calibrations_the_promise_is_kept() -> None:
    """Whatever the distribution, on average at most the share is flagged, and hardly less."""
    flagged = []
    for seed in range(100):
        training, others = normals(50, 2, seed=2 * seed).exp(), normals(219, 2, seed=2 * seed + 1).exp()
        threshold = memorisation_threshold(training, others[:19], 0.1)
        flagged.append((nearest(others[19:], training).distance < threshold).double().mean())
    assert torch.stack(flagged).mean() == pytest.approx(0.1, abs=0.02)


def test_bad_input_is_named() -> None:
    good, nan = normals(20, 4), normals(20, 4)
    nan[5, 2] = torch.nan
    for real, fake, message in [
        (good, nan, "the features of fake pictures hold NaN or infinity in 1 of 20 rows, first in row 5"),
        (good[:5], good, "the number of real pictures is 5, and must be at least 6: give more, or a smaller k"),
        (good, good[:0], "the number of fake pictures is 0"),
        (good, good[:, :2], "from the same network"),
        (good[0], good, "shape"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            compare_manifolds(real, fake, k=5)
    with pytest.raises(EvaluationError, match="k, the neighbour that a ball reaches to, is 0: give a whole number"):
        compare_manifolds(good, good, k=0)
    for queries, references, k, message in [
        (good, good[:2], 3, "the number of references is 2, and must be at least 3"),
        (good[:0], good, 1, "the number of queries is 0"),
        (nan, good, 1, "the features of queries hold NaN"),
        (good, good[:, :1], 1, "from the same network"),
        (good, good, 0, "k, the number of neighbours, is 0"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            nearest(queries, references, k)
    with pytest.raises(
        EvaluationError,
        match=r"held-out pictures is 20, and must be at least 99: give more, or allow more false positives than 0.01",
    ):
        memorisation_threshold(good, normals(20, 4, seed=1))
    assert memorisation_threshold(good, normals(19, 4, seed=1), 0.05) > 0
    with pytest.raises(EvaluationError, match=r"the share of false positives is 1.5: give a share between 0 and 1"):
        memorisation_threshold(good, good, 1.5)
    with pytest.raises(EvaluationError, match="20 of 20 held-out pictures are among the training pictures: take them"):
        memorisation_threshold(good, good, 0.1)
