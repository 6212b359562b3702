"""Nearest neighbours in feature space: what they say of fidelity, of variety, and of pictures learnt by heart.

Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv:1904.06991, eq. 1 and 2), density and coverage those
of Naeem et al. 2020 (arXiv:2002.09797, section 3). Around each picture is a ball that reaches to its k-th nearest
neighbour in its own set; what is on the ball's surface is outside, as in the package prdc.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stablediff.errors import EvaluationError
from stablediff.evaluation.checks import as_features, as_pair, check_same_width, check_share, check_whole

_BLOCK = 2**22  # distances at once: 32 MiB
_ROUNDING = 1e-13  # of |x|² + |y|²: a squared distance below this is none, x and y are the same
_INSIDE = 1 - 1e-9  # so that rounding does not decide on which side of a ball's surface a picture is


@dataclass(frozen=True, eq=False)
class Manifolds:
    """Two sets compared picture by picture; the figures are means, so intervals can be drawn around them.

    realistic (M,) bool: the fake picture is in some real one's ball. density_each (M,): in how many of them, over k.
    recalled (N,) bool: the real picture is in some fake one's ball. covered (N,) bool: its own ball holds a fake one.
    """

    realistic: Tensor
    recalled: Tensor
    density_each: Tensor
    covered: Tensor

    @property
    def precision(self) -> float:
        return self.realistic.double().mean().item()

    @property
    def recall(self) -> float:
        return self.recalled.double().mean().item()

    @property
    def density(self) -> float:
        """Above 1 where the fake pictures crowd where the real ones are dense."""
        return self.density_each.mean().item()

    @property
    def coverage(self) -> float:
        return self.covered.double().mean().item()


@dataclass(frozen=True, eq=False)
class Neighbours:
    """index (N,k) int64 into the references and distance (N,k) float64, nearest first."""

    index: Tensor
    distance: Tensor


def compare_manifolds(real: Tensor, fake: Tensor, k: int = 5) -> Manifolds:
    """Precision, recall, density and coverage of (N,D) and (M,D), both of more than k rows."""
    check_whole(k, "k, the neighbour that a ball reaches to,")
    real, fake = as_pair(real, fake, k + 1, "give more, or a smaller k")
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    balls, recalled, covered = real.new_zeros(len(fake)), [], []
    for part, distance in _distances(real, fake):
        in_real_ball = distance < real_radii[part, None]
        balls += in_real_ball.sum(dim=0)
        recalled.append((distance < fake_radii).any(dim=1))
        covered.append(in_real_ball.any(dim=1))
    return Manifolds(balls > 0, torch.cat(recalled), balls / k, torch.cat(covered))


def nearest(queries: Tensor, references: Tensor, k: int = 1) -> Neighbours:
    """For each of queries (N,D), the k nearest of references (M,D), M >= k."""
    check_whole(k, "k, the number of neighbours,")
    queries, references = (
        as_features(queries, "queries"),
        as_features(references, "references", k, "give more, or a smaller k"),
    )
    check_same_width(queries, "queries", references, "references")
    return _nearest(queries, references.to(queries.device), k)


def memorisation_threshold(training: Tensor, held_out: Tensor, false_positives: float = 0.01) -> float:
    """The distance to the nearest training picture below which a picture counts as learnt by heart.

    From real pictures that cannot have been learnt: held_out (H,D) against training (N,D). Of such pictures at most
    the share `false_positives` is nearer, for any distribution, as the threshold is the ⌊share · (H + 1)⌋-th smallest
    of their distances (split conformal prediction; Lei et al. 2018, arXiv:1604.04173).
    """
    check_share(false_positives, "the share of false positives")
    needed = math.ceil(1 / false_positives - 1 - 1e-9)
    remedy = f"give more, or allow more false positives than {false_positives:g}"
    held_out = as_features(held_out, "held-out pictures", needed, remedy)
    distances = nearest(held_out, training).distance[:, 0]
    rank = max(1, math.floor(false_positives * (len(distances) + 1) + 1e-9))
    threshold = distances.sort().values[rank - 1].item()
    if threshold == 0:
        raise EvaluationError(
            f"{int((distances == 0).sum())} of {len(distances)} held-out pictures are among the training pictures: "
            "take them out, or allow more false positives"
        )
    return threshold


def _radii(features: Tensor, k: int) -> Tensor:
    """(N,D) -> (N,), to the k-th neighbour; a picture is its own at distance 0, and is not counted."""
    return _nearest(features, features, k + 1).distance[:, -1] * _INSIDE


def _nearest(queries: Tensor, references: Tensor, k: int) -> Neighbours:
    found = [distance.topk(k, dim=1, largest=False) for _, distance in _distances(queries, references)]
    return Neighbours(torch.cat([f.indices for f in found]), torch.cat([f.values for f in found]))


def _distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances in blocks of rows: (which rows, (C,M))."""
    origin = columns[:1]  # what all have in common would cost digits
    rows, columns = rows - origin, columns - origin
    column_squares = columns.square().sum(dim=1)
    step = max(1, _BLOCK // len(columns))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        scale = rows[part].square().sum(dim=1)[:, None] + column_squares
        squared = scale - 2 * rows[part] @ columns.T
        yield part, squared.where(squared > _ROUNDING * scale, 0).sqrt_()
