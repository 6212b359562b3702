"""Intervals, against scipy, and against how often they hold what they should."""

import pytest
import scipy.stats
import torch

from stablediff.errors import EvaluationError
from stablediff.evaluation import bootstrap
from stablediff.evaluation.bootstrap import Interval, difference_interval, mean_interval, proportion_interval


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def width(interval: Interval) -> float:
    return interval.high - interval.low


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_the_bootstrap_of_a_mean_is_scipys(level: float) -> None:
    values = normals(80).exp()
    theirs = scipy.stats.bootstrap(
        (values.numpy(),), lambda x, axis: x.mean(axis=axis), confidence_level=level, n_resamples=20_000,
        method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    ours = mean_interval(values, level=level, resamples=20_000)
    assert ours.value == values.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * (theirs.high - theirs.low))


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    intervals = [mean_interval(normals(50, seed=seed), level=0.9, resamples=500) for seed in range(300)]
    held = sum(i.low < 0 < i.high for i in intervals) / 300
    assert held == pytest.approx(0.9, abs=0.05)


def test_a_seed_repeats_it_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normals(50)
    assert mean_interval(values, resamples=1000, seed=3) == mean_interval(values, resamples=1000, seed=3)
    assert mean_interval(values, resamples=1000, seed=3) != mean_interval(values, resamples=1000, seed=4)
    whole = mean_interval(values, resamples=1000)
    monkeypatch.setattr(bootstrap, "_BLOCK", 7 * 50)
    assert mean_interval(values, resamples=1000) == whole
    assert mean_interval(torch.ones(9)) == Interval(1.0, 1.0, 1.0)


def test_pictures_of_one_prompt_are_no_news_of_another() -> None:
    """Four copies of each value look like four times as many, unless they are drawn together."""
    values = normals(60)
    copies, groups = values.repeat_interleave(4), torch.arange(60).repeat_interleave(4) * 10 - 5
    plain, naive, grouped = mean_interval(values), mean_interval(copies), mean_interval(copies, groups)
    assert width(naive) == pytest.approx(width(plain) / 2, rel=0.1)
    assert width(grouped) == pytest.approx(width(plain), rel=0.05)
    assert grouped.value == pytest.approx(plain.value)
    lonely = mean_interval(values, torch.arange(60))
    assert (lonely.low, lonely.high) == pytest.approx((plain.low, plain.high))


def test_groups_of_unequal_size_weigh_by_their_values() -> None:
    values, groups = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([7, 7, 7, 2])
    interval = mean_interval(values, groups)
    assert interval == Interval(0.25, 0.0, 1.0)


def test_pairs_tell_apart_what_means_cannot() -> None:
    hardness = 10 * normals(100)
    ours, theirs = hardness + 1 + normals(100, seed=1), hardness + normals(100, seed=2)
    difference = difference_interval(ours, theirs)
    assert difference.value == pytest.approx((ours - theirs).mean().item())
    assert 0 < difference.low < 1 < difference.high
    assert width(difference) < width(mean_interval(ours)) / 5
    backwards = difference_interval(theirs, ours)
    assert (backwards.low, backwards.high) == pytest.approx((-difference.high, -difference.low), abs=0.02)
    grouped = difference_interval(ours, theirs, torch.arange(100) // 4, level=0.8)
    assert grouped.low < difference.value < grouped.high


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (1, 5), (5, 5), (37, 80), (0, 1), (999, 1000)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_shares_have_wilsons_interval(successes: int, trials: int, level: float) -> None:
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    ours = proportion_interval(successes, trials, level)
    assert ours.value == successes / trials
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_bad_input_is_named() -> None:
    good, nan = normals(20), normals(20)
    nan[4] = torch.nan
    with pytest.raises(EvaluationError, match="values hold NaN or infinity in 1 of 20 rows, first in row 4"):
        mean_interval(nan)
    with pytest.raises(EvaluationError, match="the number of values is 1, and must be at least 2"):
        mean_interval(good[:1])
    with pytest.raises(EvaluationError, match="the number of values is 0"):
        mean_interval(good[:0])
    with pytest.raises(EvaluationError, match=r"values have the shape \(5, 4\): give \(N,\), one number a picture"):
        mean_interval(good.view(5, 4))
    for level in (0.0, 1.0, 95.0, float("nan")):
        with pytest.raises(EvaluationError, match=f"the level is {level}: give a share between 0 and 1"):
            mean_interval(good, level=level)
        with pytest.raises(EvaluationError, match="the level is"):
            proportion_interval(1, 2, level)
    with pytest.raises(EvaluationError, match=r"for a level of 0.99 is 100: give a whole number of at least 200"):
        mean_interval(good, level=0.99, resamples=100)
    for groups, message in [
        (torch.arange(19), "there are 20 values and 19 groups"),
        (torch.zeros(20), "groups are torch.float32 of shape"),
        (torch.zeros(20, dtype=torch.int64), "all values are of one group, and 2 are needed"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            mean_interval(good, groups)
    with pytest.raises(EvaluationError, match="there are 20 values of ours and 19 values of theirs"):
        difference_interval(good, good[1:])
    with pytest.raises(EvaluationError, match="values of theirs hold NaN"):
        difference_interval(good, nan)
    with pytest.raises(EvaluationError, match="there are 3 successes in 2 trials: count them again"):
        proportion_interval(3, 2)
    with pytest.raises(EvaluationError, match="the number of trials is 0"):
        proportion_interval(0, 0)
    with pytest.raises(EvaluationError, match="the number of successes is -1"):
        proportion_interval(-1, 2)
    with pytest.raises(EvaluationError, match=r"the number of successes is 0.5: give a whole number of at least 0"):
        proportion_interval(0.5, 2)  # type: ignore[arg-type]
