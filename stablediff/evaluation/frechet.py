"""The Fréchet distance of two sets of features, each taken for a Gaussian.

    d² = ||m - m_w||² + Tr(C + C_w - 2 (C C_w)^½)          (Heusel et al. 2017, arXiv:1706.08500, eq. 6)

On Inception's pool features of 50 000 pictures this is FID. On any others it is not, and has to be called differently.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stablediff.errors import EvaluationError
from stablediff.evaluation.checks import as_features, as_pair

# Relative to the largest entry: what may be off in statistics that were once saved in float32.
_SYMMETRIC, _DEFINITE = 1e-4, 1e-3


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A set of features as its mean (D,) and covariance (D,D): `mu` and `sigma` of pytorch-fid's files."""

    mean: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        mean, covariance = self.mean, self.covariance
        if mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean)):
            raise EvaluationError(
                f"the mean has the shape {tuple(mean.shape)} and the covariance {tuple(covariance.shape)}: "
                "give (D,) and (D, D) of the same features"
            )
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise EvaluationError(
                "the mean or the covariance holds NaN or infinity: compute it from the features again"
            )
        if (covariance - covariance.T).abs().max() > _SYMMETRIC * covariance.abs().max():
            raise EvaluationError("the covariance is not symmetric: compute it from the features again")


def fit_gaussian(features: Tensor, name: str = "pictures") -> Gaussian:
    """(N,D), N >= 2 -> the mean and the unbiased covariance, which is singular when N <= D."""
    x = as_features(features, name, at_least=2)
    mean = x.mean(dim=0)
    centred = x - mean
    return Gaussian(mean, centred.T @ centred / (len(x) - 1))


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """d² between features (N,D) and (M,D). It falls with N and M: compare sets of the same size only."""
    real, fake = as_pair(real, fake, at_least=2)
    return frechet_between(fit_gaussian(real), fit_gaussian(fake))


def frechet_between(a: Gaussian, b: Gaussian) -> float:
    """d² from saved statistics.

    With C = R Rᵀ and C_w = S Sᵀ, the eigenvalues of C C_w are the squared singular values of Rᵀ S, so the trace of its
    root is their sum. No eigenvalue is squared and rooted again on the way: singular covariances do no harm.
    """
    if len(a.mean) != len(b.mean):
        raise EvaluationError(
            f"one mean has {len(a.mean)} numbers and the other {len(b.mean)}: take both from the same network"
        )
    mean, covariance, other_mean, other_covariance = (
        x.to(a.mean.device, torch.float64) for x in (a.mean, a.covariance, b.mean, b.covariance)
    )
    trace_of_root = torch.linalg.svdvals(_root(covariance).T @ _root(other_covariance)).sum()
    spread = covariance.trace() + other_covariance.trace() - 2 * trace_of_root
    return max(0.0, ((mean - other_mean).square().sum() + spread).item())


def _root(covariance: Tensor) -> Tensor:
    """R (D,D) with R Rᵀ = covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    if values[0] < -_DEFINITE * values[-1].abs():
        raise EvaluationError(
            f"the covariance has the eigenvalue {values[0].item():.3g}, and none may be below 0: "
            "compute it from the features again"
        )
    return vectors * values.clamp(min=0).sqrt()
