"""How far a figure may be off: bootstrap intervals for means, Wilson's for shares."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from stablediff.errors import EvaluationError
from stablediff.evaluation.checks import as_values, check_same_length, check_share, check_whole

_BLOCK = 2**22  # drawn numbers at once: 32 MiB


@dataclass(frozen=True)
class Interval:
    """A figure, and the bounds that it lies between with the confidence asked for."""

    value: float
    low: float
    high: float


def mean_interval(
    values: Tensor, groups: Tensor | None = None, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The percentile bootstrap of a mean (Efron and Tibshirani 1993, section 13.3): values (N,), N >= 2.

    groups (N,), whole numbers: values of one group, such as pictures of one prompt, depend on each other and are drawn
    together, or the interval would be too narrow.
    """
    values = as_values(values, "values", at_least=2)
    check_share(level, "the level")
    needed = math.ceil(2 / (1 - level) - 1e-9)
    check_whole(resamples, f"the number of resamples for a level of {level:g}", at_least=needed)
    sums, counts = values, torch.ones_like(values)
    if groups is not None:
        sums, counts = _sums_of_groups(values, groups)
    generator, means = torch.Generator().manual_seed(seed), []
    step = max(1, _BLOCK // len(sums))
    for start in range(0, resamples, step):
        shape = (min(step, resamples - start), len(sums))
        drawn = torch.randint(len(sums), shape, generator=generator).to(values.device)
        means.append(sums[drawn].sum(dim=1) / counts[drawn].sum(dim=1))
    tail = (1 - level) / 2
    low, high = torch.cat(means).quantile(values.new_tensor([tail, 1 - tail])).tolist()
    return Interval(values.mean().item(), low, high)


def difference_interval(
    ours: Tensor,
    theirs: Tensor,
    groups: Tensor | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of ours - theirs for the same prompts and seeds in the same order, (N,) twice.

    Pairs are drawn as pairs: what is hard for both does not widen the interval. Bounds of one sign tell them apart.
    """
    ours, theirs = as_values(ours, "values of ours", at_least=2), as_values(theirs, "values of theirs", at_least=2)
    check_same_length(ours, "values of ours", theirs, "values of theirs")
    return mean_interval(ours - theirs.to(ours.device), groups, level, resamples, seed)


def proportion_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share of independent trials (Wilson 1927; Brown et al. 2001, section 3).

    It stays within [0, 1] and has a width even when all trials succeed, where the bootstrap has none.
    """
    check_whole(trials, "the number of trials")
    check_whole(successes, "the number of successes", at_least=0)
    if successes > trials:
        raise EvaluationError(f"there are {successes} successes in {trials} trials: count them again")
    check_share(level, "the level")
    share, z = successes / trials, NormalDist().inv_cdf((1 + level) / 2)
    shrink = 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(share, low, high)


def grouped_interval(right: Tensor, groups: Tensor) -> Interval:
    """The share that is right of (N,), over groups (N,): what is of one prompt, or of one thing, is drawn together.

    Where the bootstrap has no width, of one group or of what is all the same, the interval is still one.
    """
    num_groups = groups.unique().numel()
    if num_groups < 2:  # nothing to draw from
        return Interval(right.mean().item(), 0.0, 1.0)
    if right.unique().numel() == 1:  # drawing from what is all the same tells nothing
        return proportion_interval(int(right[0]) * num_groups, num_groups)
    return mean_interval(right, groups)


def _sums_of_groups(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of each group, (G,) twice."""
    if groups.ndim != 1 or groups.is_floating_point():
        raise EvaluationError(
            f"groups are {groups.dtype} of shape {tuple(groups.shape)}: give the number of a group for each value"
        )
    check_same_length(values, "values", groups, "groups")
    group, counts = groups.to(values.device).unique(return_inverse=True, return_counts=True)[1:]
    if len(counts) < 2:
        raise EvaluationError("all values are of one group, and 2 are needed: give more groups, or none")
    return values.new_zeros(len(counts)).index_add_(0, group, values), counts.to(values)
