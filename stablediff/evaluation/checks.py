"""What every metric asks of its numbers before it counts them: features are (N,D), one row a picture or caption.

Names are plurals that stand in the messages: "real pictures", "captions".
"""

import torch
from torch import Tensor

from stablediff.errors import EvaluationError


def as_features(features: Tensor, name: str, at_least: int = 1, remedy: str = "give more") -> Tensor:
    """(N,D) of any kind of number -> float64 on the same device, without history.

    Raises EvaluationError for another shape, fewer than `at_least` rows, NaN and infinity.
    """
    if features.ndim != 2 or features.shape[1] == 0:
        raise EvaluationError(
            f"the features of {name} have the shape {tuple(features.shape)}: give (N, D), a row for each"
        )
    _check_count(len(features), name, at_least, remedy)
    _check_finite(features.isfinite().all(dim=1), f"the features of {name}", "compute those in float32, or take it out")
    return _as_doubles(features)


def as_pair(real: Tensor, fake: Tensor, at_least: int = 1, remedy: str = "give more") -> tuple[Tensor, Tensor]:
    """Two sets of features of one network, (N,D) and (M,D), both on the device of the first."""
    real = as_features(real, "real pictures", at_least, remedy)
    fake = as_features(fake, "fake pictures", at_least, remedy)
    check_same_width(real, "real pictures", fake, "fake pictures")
    return real, fake.to(real.device)


def as_units(features: Tensor, name: str) -> Tensor:
    """Features (N,D) that `as_features` gave -> of length 1."""
    lengths = features.norm(dim=1, keepdim=True)
    if not lengths.all():
        row = int((lengths == 0).flatten().nonzero()[0])
        raise EvaluationError(
            f"the features of {name} are all zero in row {row}, so they have no direction: "
            "compute those again, or take it out"
        )
    return features / lengths


def as_values(values: Tensor, name: str, at_least: int = 1) -> Tensor:
    """(N,), one number a picture -> float64."""
    if values.ndim != 1:
        raise EvaluationError(f"{name} have the shape {tuple(values.shape)}: give (N,), one number a picture")
    _check_count(len(values), name, at_least, "give more")
    _check_finite(values.isfinite(), name, "compute that one again, or take it out")
    return _as_doubles(values)


def check_same_width(a: Tensor, a_name: str, b: Tensor, b_name: str) -> None:
    if a.shape[1] != b.shape[1]:
        raise EvaluationError(
            f"the features of {a_name} are {a.shape[1]} numbers and those of {b_name} {b.shape[1]}: "
            "take both from the same network"
        )


def check_same_length(a: Tensor, a_name: str, b: Tensor, b_name: str) -> None:
    if len(a) != len(b):
        raise EvaluationError(f"there are {len(a)} {a_name} and {len(b)} {b_name}: give pairs, in the same order")


def check_whole(value: int, name: str, at_least: int = 1) -> None:
    """A number of things, as opposed to a share of them."""
    if not value >= at_least or value % 1:
        raise EvaluationError(f"{name} is {value}: give a whole number of at least {at_least}")


def check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise EvaluationError(f"{name} is {value}: give a share between 0 and 1, such as 0.95 or 0.01")


def _check_count(count: int, name: str, at_least: int, remedy: str) -> None:
    if count < at_least:
        raise EvaluationError(f"the number of {name} is {count}, and must be at least {at_least}: {remedy}")


def _check_finite(finite: Tensor, subject: str, remedy: str) -> None:
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise EvaluationError(
            f"{subject} hold NaN or infinity in {len(bad)} of {len(finite)} rows, first in row {int(bad[0])}: {remedy}"
        )


def _as_doubles(values: Tensor) -> Tensor:
    device = "cpu" if values.device.type == "mps" else values.device  # Apple's GPUs have no float64
    return values.detach().to(device, torch.float64)
