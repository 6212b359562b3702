"""Scenes: icons alone, recoloured, on a background, in pairs and in numbers."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stablediff.errors import DataError
from stablediff.training.data.colours import COLOURS, painting_of, recolour, to_rgb
from stablediff.training.data.icons import Icon, Icons
from stablediff.training.data.split import Split
from stablediff.training.data.styles import drawing_of, drawn_in
from stablediff.training.data.words import SIZES, names_a_colour, without_colour

_T = TypeVar("_T")
KINDS = ("single", "colour", "size", "background", "pair", "count")
ALONE = 0.92  # side of an icon that has the canvas for itself
HALF = 0.45  # side of one of two, three or four
_TRIES = 200
_PAINTED = 0.5  # of the things in a pair; two in two colours are what is learnt last
# (x, y) of two, three or four of a thing. Three in a row would be a third smaller, with too few latent cells each.
PLACES: dict[int, tuple[tuple[float, float], ...]] = {
    2: ((0.26, 0.5), (0.74, 0.5)),
    3: ((0.5, 0.26), (0.26, 0.74), (0.74, 0.74)),
    4: ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)),
}
UPRIGHT = ((0.5, 0.26), (0.5, 0.74))  # of two things one above the other


@dataclass(frozen=True)
class Item:
    """One icon: centre and side as fractions of the canvas, and the colour it is painted in (None: its own)."""

    thing: str
    x: float
    y: float
    size: float
    colour: str | None = None


@dataclass(frozen=True)
class Scene:
    """What is to be seen. Of a pair, the first item is the left or the upper one."""

    style: str
    items: tuple[Item, ...]
    kind: str
    background: str | None = None


def _default_mix() -> dict[str, float]:
    return {"single": 0.6, "colour": 0.15, "size": 0.05, "background": 0.05, "pair": 0.1, "count": 0.05}


@dataclass(frozen=True)
class SceneRecipe:
    """What to train on; empty means all. `mix` gives each kind of scene its share. Raises DataError.

    `others` is the share of things beyond `things`: of them there are too many to be learnt well, but what is seen
    in one style only on few things is learnt as a part of these things. `newest` are some of `things` that a network
    which knows the others is still to learn: a share of `newest_share` is chosen from them alone.
    """

    things: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    mix: dict[str, float] = field(default_factory=_default_mix)
    others: float = 0.0
    newest: tuple[str, ...] = ()
    newest_share: float = 0.0

    def __post_init__(self) -> None:
        if strange := sorted(set(self.mix) - set(KINDS)):
            raise DataError(f"mix names the kind {strange[0]!r}: it must be one of {', '.join(KINDS)}")
        if any(not share >= 0 for share in self.mix.values()) or not 0 < sum(self.mix.values()) < math.inf:
            raise DataError("the shares in mix must be 0 or more, not all 0, and not without end: such as 0.6 and 0.4")
        for name in ("others", "newest_share"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: it is a share of the things, from 0 to less than 1")
        if self.others + self.newest_share > 1:
            raise DataError("others and newest_share are more than all things together: make one of them smaller")
        if self.newest_share and not self.newest:
            raise DataError(f"newest_share is {self.newest_share}, but no things are newest: say how many are")
        if self.newest and not self.newest_share:
            raise DataError(f"{len(self.newest)} things are newest, but newest_share is 0: say how often they come")


@dataclass(frozen=True)
class _Choice:
    """Things to choose from, and those of them that there are in a style."""

    things: list[str]
    by_style: dict[str, list[str]]


def _choice_of(icons: Sequence[Icon]) -> _Choice:
    by_style: dict[str, list[str]] = defaultdict(list)
    for icon in icons:
        by_style[icon.style].append(icon.thing)
    return _Choice(list(dict.fromkeys(icon.thing for icon in icons)), by_style)


class Sampler:
    """Draws scenes of a recipe and never one that the split holds out; but for the shares, each thing equally often.

    Raises DataError.
    """

    def __init__(self, recipe: SceneRecipe, split: Split, icons: Icons) -> None:
        for kind, wanted, known in (("thing", recipe.things, icons.things), ("style", recipe.styles, icons.styles)):
            if strange := sorted(set(wanted) - set(known)):
                raise DataError(f"there is no {kind} {strange[0]!r} among the icons: take its name from icons.jsonl")
        things, styles = set(recipe.things or icons.things), set(recipe.styles or icons.styles)
        shown = [icon for icon in icons.records if icon.style in styles]
        seen = [icon for icon in shown if not split.holds_out_style(icon.thing, icon.style)]
        self._split = split
        self._by_thing: dict[str, list[Icon]] = defaultdict(list)
        for icon in seen:
            self._by_thing[icon.thing].append(icon)
        self._wanted = _choice_of([icon for icon in seen if icon.thing in things])
        others = _choice_of([icon for icon in seen if icon.thing not in things])
        newest = _choice_of([icon for icon in seen if icon.thing in set(recipe.newest)])
        self._own_shares = [(s, c) for s, c in ((recipe.others, others), (recipe.newest_share, newest)) if s]
        if not self._wanted.things:
            raise DataError("the recipe leaves no icon to learn from: name more things or styles")
        if recipe.others and not others.things:
            raise DataError(f"others is {recipe.others}, but there are none: name the things that are wanted most")
        if recipe.newest_share and not newest.things:
            raise DataError("there is no icon of the newest things in these styles: name more things or styles")
        self._kinds = [kind for kind in KINDS if recipe.mix.get(kind, 0) > 0]
        shares = np.array([recipe.mix[kind] for kind in self._kinds])
        self._shares = shares / shares.sum()

    def sample(self, rng: np.random.Generator) -> Scene:
        kind = str(rng.choice(self._kinds, p=self._shares))
        for _ in range(_TRIES):
            if scene := self._try(kind, rng):
                return scene
        raise DataError(
            f"the recipe leaves nothing for scenes of the kind {kind!r}: name more things, or drop the kind"
        )

    def _choice(self, rng: np.random.Generator) -> _Choice:
        drawn = rng.random() if self._own_shares else 0.0
        for share, choice in self._own_shares:
            if drawn < share:
                return choice
            drawn -= share
        return self._wanted

    def _try(self, kind: str, rng: np.random.Generator) -> Scene | None:
        thing = _pick(self._choice(rng).things, rng)
        icon = _pick(self._by_thing[thing], rng)
        style = icon.style
        if kind == "pair":
            return self._pair(thing, style, rng)
        if kind == "count":
            places = PLACES[int(rng.integers(2, 5))]
            return Scene(style, tuple(Item(thing, *place, HALF) for place in places), kind)
        if kind == "size":
            return Scene(style, (Item(thing, 0.5, 0.5, _pick(tuple(SIZES.values()), rng)),), kind)
        if kind == "background":
            others = tuple(colour for colour in COLOURS if colour not in icon.colours)
            return Scene(style, (Item(thing, 0.5, 0.5, 0.8),), kind, _pick(others, rng)) if others else None
        if kind == "colour":
            colour = self._colour(icon, rng)
            return Scene(style, (Item(thing, 0.5, 0.5, ALONE, colour),), kind) if colour else None
        return Scene(style, (Item(thing, 0.5, 0.5, ALONE),), kind)

    def _colour(self, icon: Icon, rng: np.random.Generator) -> str | None:
        """One that the icon does not have already and that is not held out.

        None for what has no one colour to change (many colours; people, whose clothes would change), and for a
        "large blue diamond".
        """
        if not 1 <= len(icon.colours) <= 2 or icon.group == "people-body":
            return None
        if names_a_colour(without_colour(icon.thing)):
            return None
        colours = [
            colour
            for colour in COLOURS
            if colour != icon.colours[0] and not self._split.holds_out_colour(icon.thing, colour)
        ]
        return _pick(colours, rng) if colours else None

    def _pair(self, first: str, style: str, rng: np.random.Generator) -> Scene | None:
        fitting = self._choice(rng).by_style[style]
        if not fitting:
            return None
        second = _pick(fitting, rng)
        if without_colour(first) == without_colour(second) or self._split.holds_out_pair(first, second):
            return None
        upright = rng.random() < 0.5
        painted = rng.random(2) < _PAINTED
        items = []
        for thing, place, paint in zip((first, second), UPRIGHT if upright else PLACES[2], painted, strict=True):
            icon = next(icon for icon in self._by_thing[thing] if icon.style == style)
            colour = self._colour(icon, rng) if paint else None
            items.append(Item(thing, *place, HALF, colour))
        return Scene(style, tuple(items), "pair")


def sample_scene(recipe: SceneRecipe, split: Split, icons: Icons, rng: np.random.Generator) -> Scene:
    """One scene; for many of them make a `Sampler` once."""
    return Sampler(recipe, split, icons).sample(rng)


def render_scene(scene: Scene, icons: Icons, size: int = 512) -> NDArray[np.uint8]:
    """-> (size, size, 4), RGB and straight alpha, transparent where there is no background. Raises DataError."""
    canvas = Image.new("RGBA", (size, size))
    for item in scene.items:
        icon = icons.find(item.thing, scene.style)
        if icon is None:
            raise DataError(f"there is no {item.thing!r} in {scene.style} style: choose another style for it")
        picture = icons.picture(icon.index)
        if item.colour is not None:
            picture = recolour(picture, item.colour)
        side = max(round(item.size * size), 1)
        # Pillow scales RGBA premultiplied. This filter does not ring, which on hard edges leaves halos.
        drawn = Image.fromarray(picture).resize((side, side), Image.Resampling.HAMMING)
        layer = Image.new("RGBA", canvas.size)
        layer.paste(drawn, (round(item.x * size - side / 2), round(item.y * size - side / 2)))
        canvas = Image.alpha_composite(canvas, layer)
    in_style = drawn_in(scene.style, np.asarray(canvas))
    if scene.background is None:
        return in_style
    paper = Image.new("RGBA", canvas.size, (*paint(scene.background), 255))
    return np.asarray(Image.alpha_composite(paper, Image.fromarray(in_style)))


def scenes_mark(scenes: Sequence[Scene], icons: Icons) -> str:
    """Changes when a scene does, the icon that is drawn for a thing, how it is painted, or how a style draws it."""
    found = (icons.find(item.thing, scene.style) for scene in scenes for item in scene.items)
    sources = sorted({f"{icon.thing}: {icon.source}" for icon in found if icon is not None})
    drawings = {style: drawing_of(style) for style in sorted({scene.style for scene in scenes})}
    painted = {item.colour for scene in scenes for item in scene.items if item.colour}
    colours = {colour: painting_of(colour) for colour in sorted(painted)}
    grounds = {colour: paint(colour) for colour in sorted({scene.background for scene in scenes if scene.background})}
    return f"{scenes!r} {sources} {drawings} {colours} {grounds}"


def paint(colour: str) -> tuple[int, int, int]:
    """The RGB of a background."""
    hue, saturation, value = (np.array(part, dtype=np.float32) for part in COLOURS[colour])
    red, green, blue = (round(float(part) * 255) for part in to_rgb(hue, saturation, value))
    return red, green, blue


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]
