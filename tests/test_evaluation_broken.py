"""A model that is broken on purpose gets worse on the metric that should see it, and on that one only."""

import pytest
import torch
import torch.nn.functional as F

from stablediff.evaluation.bootstrap import difference_interval
from stablediff.evaluation.frechet import frechet_distance
from stablediff.evaluation.kernel import kernel_distance
from stablediff.evaluation.neighbours import compare_manifolds, memorisation_threshold, nearest
from stablediff.evaluation.similarity import clip_score, mismatch_margin, r_precision

COUNT, COLOURS, PLACES = 240, 6, 10


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares of some colour on grey: (N,3,24,24) in [-1, 1], and captions as (N,16) codes of place and colour."""
    generator = torch.Generator().manual_seed(seed)
    palette = torch.randn(COLOURS, 3, generator=torch.Generator().manual_seed(99)).clamp(-1, 1)
    colour, place = (torch.randint(n, (COUNT,), generator=generator) for n in (COLOURS, PLACES))
    side = torch.randint(6, 12, (COUNT,), generator=generator)
    rows = torch.arange(24)
    start = (place % 5 * 3)[:, None]
    across = (rows >= start) & (rows < start + side[:, None])
    top = (place // 5 * 8)[:, None]
    down = (rows >= top) & (rows < top + side[:, None])
    mask = (down[:, :, None] & across[:, None, :])[:, None].float()
    pictures = mask * palette[colour][:, :, None, None] + 0.1 * torch.randn(COUNT, 3, 24, 24, generator=generator)
    captions = torch.cat([F.one_hot(colour, COLOURS), F.one_hot(place, PLACES)], dim=1).double()
    return pictures, captions


def features_of(pictures: torch.Tensor) -> torch.Tensor:
    """A random convolutional embedding, (N,3,24,24) -> (N,48)."""
    generator = torch.Generator().manual_seed(5)
    first, second = torch.randn(16, 3, 3, 3, generator=generator), torch.randn(24, 16, 3, 3, generator=generator)
    hidden = F.conv2d(pictures, first / 5, stride=2).relu()
    hidden = F.conv2d(hidden, second / 12).relu()
    return torch.cat([hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))], dim=1)


def blur(pictures: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


def described(captions: torch.Tensor) -> torch.Tensor:
    """What an image tower would say of pictures of these captions: those, and something of its own."""
    generator = torch.Generator().manual_seed(6)
    return captions + 0.3 * torch.randn(captions.shape, generator=generator, dtype=torch.float64)


REAL, OTHER_REAL, GOOD = (features_of(draw(seed)[0]) for seed in (0, 1, 2))


def kid(features: torch.Tensor) -> float:
    return kernel_distance(REAL, features, subsets=20, subset_size=120).mean


def test_blurred_pictures_are_far_and_unreal() -> None:
    blurred = features_of(blur(draw(2)[0]))
    floor = frechet_distance(REAL, OTHER_REAL)
    assert frechet_distance(REAL, GOOD) == pytest.approx(floor, rel=0.5)
    assert frechet_distance(REAL, blurred) > 10 * floor
    assert kid(blurred) > 10 * max(abs(kid(GOOD)), abs(kid(OTHER_REAL)))
    good, bad = compare_manifolds(REAL, GOOD), compare_manifolds(REAL, blurred)
    assert good.precision > 0.8 > 0.1 > bad.precision
    assert good.density > 0.8 > 0.1 > bad.density


def test_a_repeated_picture_is_real_but_not_various() -> None:
    usual = GOOD[(GOOD - GOOD.mean(dim=0)).norm(dim=1).argmin()]
    good, bad = compare_manifolds(REAL, GOOD), compare_manifolds(REAL, usual.repeat(COUNT, 1))
    assert bad.precision == 1
    assert good.recall > 0.8 > 0.01 > bad.recall
    assert good.coverage > 0.8 > 0.2 > bad.coverage
    assert frechet_distance(REAL, usual.repeat(COUNT, 1)) > 20 * frechet_distance(REAL, GOOD)


def test_shuffled_prompts_cost_the_score_of_text_and_nothing_else() -> None:
    captions = draw(2)[1]
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    images = described(captions)
    for score in (clip_score, mismatch_margin, r_precision):
        lost = difference_interval(score(images[order], captions), score(images, captions), resamples=1000)
        assert lost.high < -0.1
    assert mismatch_margin(images[order], captions).mean().abs() < 0.05
    # The pictures are as good as they were: no metric of distributions may move.
    assert frechet_distance(REAL, GOOD[order]) == pytest.approx(frechet_distance(REAL, GOOD), rel=1e-9)
    assert compare_manifolds(REAL, GOOD[order]).coverage == compare_manifolds(REAL, GOOD).coverage


def test_pictures_learnt_by_heart_are_found_where_distances_of_distributions_praise_them() -> None:
    threshold = memorisation_threshold(REAL, OTHER_REAL, 0.02)
    copies = REAL * (1 + 0.001 * torch.randn(REAL.shape, generator=torch.Generator().manual_seed(3)))
    assert frechet_distance(REAL, copies) < frechet_distance(REAL, GOOD) / 10
    assert (nearest(copies, REAL).distance < threshold).double().mean() > 0.95
    assert (nearest(GOOD, REAL).distance < threshold).double().mean() < 0.06
