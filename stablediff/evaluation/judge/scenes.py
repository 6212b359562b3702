"""What the judge learns from: one to four icons anywhere, some painted, some on a coloured ground."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stablediff.errors import DataError
from stablediff.training.data.colours import COLOURS
from stablediff.training.data.icons import Icon, Icons
from stablediff.training.data.scenes import Item, Scene
from stablediff.training.data.split import Split
from stablediff.training.data.words import names_a_colour, without_colour

T = TypeVar("T")
# Number of things -> how often, and the least and the largest side (as shares of the canvas).
_NUMBERS = {1: (0.55, 0.4, 0.96), 2: (0.25, 0.3, 0.48), 3: (0.1, 0.27, 0.45), 4: (0.1, 0.27, 0.45)}
_PAINTED, _BACKGROUND, _ALIKE = 0.5, 0.25, 0.4
_TRIES = 60
_CACHED = 192  # pixels


class SmallIcons(Icons):
    """The same icons, kept in memory at a size that renders small scenes quickly."""

    def __init__(self, icons: Icons) -> None:
        self.__dict__ |= icons.__dict__
        self._small: dict[int, NDArray[np.uint8]] = {}

    def picture(self, index: int) -> NDArray[np.uint8]:
        if index not in self._small:
            image = Image.fromarray(super().picture(index))
            self._small[index] = np.asarray(image.resize((_CACHED, _CACHED), Image.Resampling.BOX))
        return self._small[index]


def can_be_painted(icon: Icon) -> bool:
    """Whether "a blue one" means one picture: no people, nothing of many colours, no thing named after its colour."""
    return 1 <= len(icon.colours) <= 2 and icon.group != "people-body" and not names_a_colour(icon.thing)


class JudgeScenes:
    """Random scenes of all icons, for an examiner knows the answers, those that the model never saw among them.

    What the split holds out of colours and pairs does not occur: on such scenes the judge is examined itself.
    """

    def __init__(self, icons: Icons, split: Split, things: Sequence[str], styles: Sequence[str]) -> None:
        wanted, taught = set(things), set(styles)
        self._split = split
        self._by_thing: dict[str, list[Icon]] = defaultdict(list)
        self._by_style: dict[str, list[Icon]] = defaultdict(list)
        for icon in icons.records:
            if icon.thing in wanted and icon.style in taught:
                self._by_thing[icon.thing].append(icon)
                self._by_style[icon.style].append(icon)
        self._things = list(self._by_thing)
        if not self._things:
            raise DataError("none of the judge's things is among the icons: take their names from icons.jsonl")

    def draw(self, rng: np.random.Generator) -> Scene:
        numbers = list(_NUMBERS)
        number = int(rng.choice(numbers, p=[_NUMBERS[n][0] for n in numbers]))
        first = _pick(self._by_thing[_pick(self._things, rng)], rng)
        places = _places(number, rng)
        icons = [first] * len(places)
        if len(places) > 1 and rng.random() >= _ALIKE:
            icons = [first, *(_pick(self._by_style[first.style], rng) for _ in places[1:])]
            if self._is_held_out(icons):
                icons, places = [first], _places(1, rng)
        items = tuple(
            Item(icon.thing, *place, self._colour(icon, rng)) for icon, place in zip(icons, places, strict=True)
        )
        background = _pick(tuple(COLOURS), rng) if rng.random() < _BACKGROUND else None
        return Scene(first.style, items, "single", background)

    def _is_held_out(self, icons: Sequence[Icon]) -> bool:
        names = [icon.thing for icon in icons]
        return any(
            without_colour(one) != without_colour(other) and self._split.holds_out_pair(one, other)
            for one in names
            for other in names
        )

    def _colour(self, icon: Icon, rng: np.random.Generator) -> str | None:
        if rng.random() >= _PAINTED or not can_be_painted(icon):
            return None
        others = [
            colour
            for colour in COLOURS
            if colour not in icon.colours and not self._split.holds_out_colour(icon.thing, colour)
        ]
        return _pick(others, rng) if others else None


def _places(number: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """(x, y, size) of things that do not cover each other; fewer where no room is found."""
    _, least, most = _NUMBERS[number]
    places: list[tuple[float, float, float]] = []
    for _ in range(_TRIES):
        size = float(rng.uniform(least, most))
        x, y = (float(rng.uniform(size / 2, 1 - size / 2)) for _ in range(2))
        if all(max(abs(x - a), abs(y - b)) > 0.5 * (size + other) for a, b, other in places):
            places.append((x, y, size))
        if len(places) == number:
            break
    return places


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
