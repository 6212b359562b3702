"""The maximum mean discrepancy of two sets of features, with the kernels of KID and of CMMD.

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)          (Gretton et al. 2012, JMLR 13, lemma 6)

The unbiased estimate (its eq. 3) leaves out pairs of a picture with itself, and is below 0 as often as above when both
sets come from one distribution. The biased one (eq. 5) is never below 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stablediff.errors import EvaluationError
from stablediff.evaluation.checks import as_pair, as_units, check_whole

_BLOCK = 2**22  # kernel values at once: 32 MiB

Kernel = Callable[[Tensor, Tensor], Tensor]  # (N,D), (M,D) -> (N,M)


@dataclass(frozen=True)
class KernelDistance:
    """Over subsets: the mean, and the deviation of one subset (not of the mean)."""

    mean: float
    deviation: float


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x·y / D + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401)."""
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def gaussian_kernel(sigma: float) -> Kernel:
    """exp(-|x - y|² / 2σ²)."""
    if not sigma > 0:
        raise EvaluationError(f"sigma is {sigma}: give a width above 0, such as 10 for unit features")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T
        return squared.clamp_(min=0).div_(-2 * sigma**2).exp_()

    return kernel


def squared_mmd(real: Tensor, fake: Tensor, kernel: Kernel = polynomial_kernel, unbiased: bool = True) -> float:
    """MMD² of all features, (N,D) and (M,D); the memory it takes does not grow with N·M."""
    real, fake = as_pair(real, fake, at_least=2 if unbiased else 1)
    return _squared_mmd(real, fake, kernel, unbiased)


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID (Bińkowski et al. 2018, arXiv:1801.01401): unbiased MMD² with the cubic kernel, over random subsets.

    (N,D), (M,D), both of at least subset_size rows. Inception's pool features make it KID as others publish it.
    """
    check_whole(subsets, "the number of subsets")
    check_whole(subset_size, "the size of a subset", at_least=2)
    real, fake = as_pair(real, fake, subset_size, "give more, or take smaller subsets")
    generator = torch.Generator().manual_seed(seed)

    def draw(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:subset_size].to(features.device)]

    values = [_squared_mmd(draw(real), draw(fake), polynomial_kernel, unbiased=True) for _ in range(subsets)]
    over_subsets = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(over_subsets.mean().item(), over_subsets.std(correction=0).item())


def cmmd(real: Tensor, fake: Tensor, sigma: float = 10.0, unbiased: bool = False) -> float:
    """1000 · MMD² of features made unit length, with a Gaussian kernel (Jayasumana et al. 2024, arXiv:2401.09603).

    (N,D), (M,D). With CLIP's image features it is CMMD; the published figures are of the biased estimate.
    """
    real, fake = as_pair(real, fake, at_least=2 if unbiased else 1)
    real, fake = as_units(real, "real pictures"), as_units(fake, "fake pictures")
    return 1000 * _squared_mmd(real, fake, gaussian_kernel(sigma), unbiased)


def _squared_mmd(real: Tensor, fake: Tensor, kernel: Kernel, unbiased: bool) -> float:
    within = _mean_within(real, kernel, unbiased) + _mean_within(fake, kernel, unbiased)
    across = sum((kernel(rows, fake).sum() for rows in _blocks(real, len(fake))), real.new_zeros(()))
    return (within - 2 * across / (len(real) * len(fake))).item()


def _mean_within(x: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    """The mean of k(x_i, x_j), over i ≠ j if unbiased."""
    total, start = x.new_zeros(()), 0
    for rows in _blocks(x, len(x)):
        values = kernel(rows, x)
        total = total + values.sum()
        if unbiased:
            total = total - values.diagonal(start).sum()
        start += len(rows)
    return total / (len(x) * (len(x) - unbiased))


def _blocks(x: Tensor, columns: int) -> tuple[Tensor, ...]:
    return x.split(max(1, _BLOCK // columns))
