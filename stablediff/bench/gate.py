"""Who computes something else is not compared: an engine's numbers against the reference's, before its times count."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

# Of a forward and of a decoded picture, as the length of the difference to that of the reference. bfloat16 has 8 bits.
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2, "int8": 0.15}
# Of whole pictures that were drawn from a prompt, as the mean difference of pixels in [-1, 1].
PICTURE_TOLERANCES = {"float32": 2 / 127.5, "bfloat16": 6 / 127.5, "int8": 12 / 127.5}


@dataclass(frozen=True)
class Verdict:
    """The largest error, in what it was found, and whether it is small enough for its lane."""

    error: float
    where: str
    passed: bool


def judge(outputs: Mapping[str, Tensor], reference: Mapping[str, Tensor], lane: str) -> Verdict:
    """Compares what both have: a forward and a decoded picture, or else a whole picture."""
    if "forward" in outputs and "forward" in reference:
        names = [name for name in ("forward", "decode") if name in outputs and name in reference]
        errors = {name: relative_error(outputs[name], reference[name]) for name in names}
        tolerance = TOLERANCES[lane]
    elif "picture" in outputs and "picture" in reference:
        errors = {"picture": pixel_error(outputs["picture"], reference["picture"])}
        tolerance = PICTURE_TOLERANCES[lane]
    else:
        return Verdict(math.nan, "nothing to compare with", passed=False)
    where = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
    return Verdict(errors[where], where, passed=errors[where] <= tolerance)


def pixel_error(found: Tensor, expected: Tensor) -> float:
    """The mean difference of pixels in [-1, 1]; infinite where shapes differ."""
    return (found - expected).abs().mean().item() if found.shape == expected.shape else math.inf


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|; infinite where shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    return ((found - expected).norm() / expected.norm()).item()
