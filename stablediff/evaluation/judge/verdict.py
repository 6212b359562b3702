"""Pictures -> what the judge sees in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stablediff.evaluation.judge.network import GRID, SIDE, Judge, Reading
from stablediff.training.crops import to_model
from stablediff.training.data.colours import COLOURS, colours_of

_SEEN = 0.5  # the probability of a centre from which on something counts as seen
_BATCH = 32
_FILLED = 0.98  # a share of opaque pixels above it is a ground, and no thing


@dataclass(frozen=True)
class Seen:
    """One thing: what it is, where its centre is (shares of the width and height), and its main colour."""

    thing: str
    x: float
    y: float
    colour: str


@dataclass(frozen=True)
class Verdict:
    """All that is seen in one picture. `background` is None where the ground is clear."""

    seen: tuple[Seen, ...]
    style: str
    background: str | None


def to_pixels(image: Image.Image) -> Tensor:
    """A picture of any size and mode -> (4,128,128) in [-1, 1], RGB over white and alpha."""
    small = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX)
    return to_model(np.asarray(small), 4)


def judge_pictures(judge: Judge, pictures: Iterable[Image.Image]) -> tuple[list[Verdict], Tensor]:
    """-> a verdict for each, and their features (N,D) float32. Ends in float32 on the judge's own device."""
    verdicts: list[Verdict] = []
    features: list[Tensor] = []
    for pixels in _batches(pictures):
        reading = _read(judge, pixels)
        verdicts += [recoloured(*both) for both in zip(verdicts_of(judge, reading), pixels, strict=True)]
        features.append(reading.features)
    return verdicts, torch.cat(features) if features else torch.zeros(0, judge.config.widths[-1])


def recoloured(verdict: Verdict, pixels: Tensor) -> Verdict:
    """Where the ground is clear, colours are told by the rule that names icons' colours, and not from memory.

    An opaque pixel belongs to the thing whose centre is nearest. `pixels` (4,128,128) as in `to_pixels`.
    """
    picture = ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    if not verdict.seen or (picture[..., 3] > 127).mean() > _FILLED:
        return verdict
    places = (np.arange(SIDE) + 0.5) / SIDE
    distances = [(places - seen.x) ** 2 + (places[:, None] - seen.y) ** 2 for seen in verdict.seen]
    nearest = np.argmin(distances, axis=0)
    seen = []
    for number, thing in enumerate(verdict.seen):
        own = picture.copy()
        own[nearest != number, 3] = 0
        seen.append(replace(thing, colour=next(iter(colours_of(own, most=1)), thing.colour)))
    return replace(verdict, seen=tuple(seen))


@torch.inference_mode()
def _read(judge: Judge, pixels: Tensor) -> Reading:
    device = next(judge.parameters()).device
    return Reading(*(part.float().cpu() for part in judge(pixels.to(device))))


def _batches(pictures: Iterable[Image.Image]) -> Iterable[Tensor]:
    waiting: list[Tensor] = []
    for picture in pictures:
        waiting.append(to_pixels(picture))
        if len(waiting) == _BATCH:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)


def verdicts_of(judge: Judge, reading: Reading) -> list[Verdict]:
    """Each peak of presence among its 8 neighbours is a thing; what it is, all cells around the peak say together."""
    presence = reading.presence.sigmoid()
    # Cells beside each other can be equal to the last bit; a slope that is too small to matter makes one the higher.
    slope = torch.arange(GRID * GRID, dtype=torch.float32).view(GRID, GRID) * 1e-6
    height = presence - slope
    peaks = (F.max_pool2d(height[:, None], 3, stride=1, padding=1)[:, 0] == height) & (presence > _SEEN)
    colours = list(COLOURS)
    verdicts = []
    for i in range(len(presence)):
        seen = []
        for row, column in peaks[i].nonzero().tolist():
            around = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            weight = presence[i][around] * (presence[i][around] > _SEEN)
            weight = weight / weight.sum()
            rows = torch.arange(around[0].start, around[0].start + weight.shape[0]) + 0.5
            columns = torch.arange(around[1].start, around[1].start + weight.shape[1]) + 0.5
            thing = _vote(reading.things[i], around, weight)
            colour = _vote(reading.colours[i], around, weight)
            x, y = (weight.sum(0) @ columns).item() / GRID, (weight.sum(1) @ rows).item() / GRID
            seen.append(Seen(judge.config.things[thing], x, y, colours[colour]))
        ground = int(reading.background[i].argmax())
        background = colours[ground] if ground < len(colours) else None
        verdicts.append(Verdict(tuple(seen), judge.config.styles[int(reading.style[i].argmax())], background))
    return verdicts


def _vote(logits: Tensor, around: Sequence[slice], weight: Tensor) -> int:
    """(K,8,8) -> the class that the weighted cells agree on."""
    return int((logits[:, around[0], around[1]].log_softmax(dim=0) * weight).sum(dim=(1, 2)).argmax())
