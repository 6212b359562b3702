"""What a model is asked: tasks as in GenEval (Ghosh et al. 2023, arXiv:2310.11513), from what its training held out.

Of level 0 nothing was held out, level 1 has one combination that was (a thing in that style, a thing in that colour,
two things so placed), level 2 two of them.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from stablediff.errors import EvaluationError
from stablediff.evaluation.judge.scenes import can_be_painted
from stablediff.evaluation.phrasing import phrase
from stablediff.training.data.colours import COLOURS, colours_of
from stablediff.training.data.icons import Icon, Icons
from stablediff.training.data.scenes import ALONE, HALF, PLACES, UPRIGHT, Item, Scene, render_scene
from stablediff.training.data.split import Split
from stablediff.training.data.words import without_colour

T = TypeVar("T")
_GROUND = 0.8  # side of a thing before a background
# The shares of a task's prompts that are looked for at levels 2 and 0; what cannot be found comes from another level.
_TWO_NEW, _NOTHING_NEW = 0.25, 0.15
_TRIES = 60  # a prompt


@dataclass(frozen=True)
class Prompt:
    """One question. `scene` is how a right answer may look; `swapped` says it with the words that matter exchanged."""

    task: str
    level: int
    text: str
    swapped: str
    scene: Scene


@dataclass(frozen=True)
class World:
    """What may be asked for: things and styles that the model and the judge both know."""

    icons: Icons
    split: Split
    things: tuple[str, ...]
    styles: tuple[str, ...]


def make_prompts(world: World, per_task: int = 70, seed: int = 0, tasks: Sequence[str] = ()) -> list[Prompt]:
    """`per_task` different prompts of each task, a pure function of its arguments.

    A task that the world is too small for has fewer. Raises EvaluationError if nothing can be asked.
    """
    chosen = list(dict.fromkeys(tasks)) or list(TASKS)
    if strange := [task for task in chosen if task not in TASKS]:
        raise EvaluationError(f"there is no task {strange[0]!r}: choose among {', '.join(TASKS)}")
    if per_task < 1:
        raise EvaluationError(f"{per_task} prompts a task: choose 1 or more")
    maker = _Maker(world)
    prompts = [prompt for task in chosen for prompt in maker.of_task(task, per_task, seed)]
    if not prompts:
        raise EvaluationError(
            f"nothing can be asked about {len(world.things)} things in {len(world.styles)} styles: name those that the "
            "model knows with --things FILE and --styles"
        )
    return prompts


class _Maker:
    def __init__(self, world: World) -> None:
        self.world = world
        known, styles = set(world.things), set(world.styles)
        self.icons = [icon for icon in world.icons.records if icon.thing in known and icon.style in styles]
        self.by_style: dict[str, list[Icon]] = defaultdict(list)
        for icon in self.icons:
            self.by_style[icon.style].append(icon)
        self.new = [icon for icon in self.icons if world.split.holds_out_style(icon.thing, icon.style)]
        self.hints = [(icon, colour) for icon in self.icons for colour in self._colours(icon, new=True)]

    def of_task(self, task: str, number: int, seed: int) -> list[Prompt]:
        rng = np.random.default_rng((seed, list(TASKS).index(task)))
        found: dict[str, Prompt] = {}
        if not self.icons:
            return []
        two, none = round(_TWO_NEW * number), round(_NOTHING_NEW * number)
        for level, wanted in ((1, number - two - none), (2, two), (0, none)):
            for _ in range(wanted):
                prompt = self._new(task, level, found, rng) or self._new(task, 0, found, rng)
                if prompt is None:  # there are no others
                    break
                found[prompt.text] = prompt
        return list(found.values())

    def _new(self, task: str, level: int, found: Container[str], rng: np.random.Generator) -> Prompt | None:
        """A prompt that is not among `found`, at that level or else at any other that came up."""
        other = None
        for _ in range(_TRIES):
            scene = TASKS[task](self, rng, level)
            if scene is None:
                continue
            prompt = Prompt(task, self.level(scene), phrase(scene), phrase(self._swap(scene, rng)), scene)
            if prompt.text in found or prompt.text == prompt.swapped:
                continue
            if prompt.level == level:
                return prompt
            other = prompt
        return other

    def level(self, scene: Scene) -> int:
        """How many combinations of the scene were held out from training; 2 stands for more as well."""
        split, items = self.world.split, scene.items
        new = any(split.holds_out_style(item.thing, scene.style) for item in items)
        new_colour = any(item.colour and split.holds_out_colour(item.thing, item.colour) for item in items)
        new_pair = scene.kind == "pair" and split.holds_out_pair(items[0].thing, items[1].thing)
        return min(sum((new, new_colour, new_pair)), 2)

    def icon(self, rng: np.random.Generator, *, new: bool) -> Icon:
        return _pick(self.new if new and self.new else self.icons, rng)

    def painted(self, rng: np.random.Generator, *, new_style: bool, new_colour: bool) -> tuple[Icon, str] | None:
        if new_colour and not new_style:
            return _pick(self.hints, rng) if self.hints else None
        icon = self.icon(rng, new=new_style)
        colours = self._colours(icon, new=new_colour)
        return (icon, _pick(colours, rng)) if colours else None

    def takes(self, icon: Icon, colour: str, side: float) -> bool:
        """Whether it has that colour when it is painted in it: dark things hardly take a light one, and of a thin one
        the outlines of its style leave little."""
        scene = Scene(icon.style, (Item(icon.thing, 0.5, 0.5, side, colour),), "colour")
        return colours_of(render_scene(scene, self.world.icons), most=1) == (colour,)

    def pair(self, rng: np.random.Generator, level: int, *, painted: bool) -> Scene | None:
        first = self.icon(rng, new=level == 2 and not painted)
        second = _pick(self.by_style[first.style], rng)
        if level > 0:
            for _ in range(_TRIES):
                if self.world.split.holds_out_pair(first.thing, second.thing):
                    break
                second = _pick(self.by_style[first.style], rng)
        if without_colour(first.thing) == without_colour(second.thing):
            return None
        colours: list[str | None] = [None, None]
        if painted:
            for i, icon in enumerate((first, second)):
                new = level == 2 and i == 0
                options = [c for c in self._colours(icon, new=new) if c not in colours]
                if not options:
                    return None
                colours[i] = _pick(options, rng)
                if not self.takes(icon, colours[i] or "", HALF):
                    return None
        upright = rng.random() < 0.5
        items = tuple(
            Item(icon.thing, *place, HALF, colour)
            for icon, place, colour in zip((first, second), UPRIGHT if upright else PLACES[2], colours, strict=True)
        )
        return Scene(first.style, items, "pair")

    def _colours(self, icon: Icon, *, new: bool) -> list[str]:
        """Those that it can be painted in, held out or not."""
        if not can_be_painted(icon):
            return []
        return [c for c in COLOURS if c not in icon.colours and self.world.split.holds_out_colour(icon.thing, c) == new]

    def _swap(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """The nearest wrong answer: colours, places, a number, a style, a ground or a thing exchanged."""
        items = scene.items
        if scene.kind == "pair" and all(item.colour for item in items):
            one, other = items
            return replace(scene, items=(replace(one, colour=other.colour), replace(other, colour=one.colour)))
        if scene.kind == "pair":
            one, other = items
            return replace(scene, items=(replace(one, thing=other.thing), replace(other, thing=one.thing)))
        if len(items) > 1:
            other_number = _pick([n for n in PLACES if n != len(items)], rng)
            return _several(items[0].thing, scene.style, other_number)
        if scene.background is not None:
            return replace(scene, background=_pick([c for c in COLOURS if c != scene.background], rng))
        if items[0].colour is not None:
            colour = _pick([c for c in COLOURS if c != items[0].colour], rng)
            return replace(scene, items=(replace(items[0], colour=colour),))
        if scene.kind == "style" and len(self.world.styles) > 1:
            return replace(scene, style=_pick([s for s in self.world.styles if s != scene.style], rng))
        return replace(scene, items=(replace(items[0], thing=_pick(self.icons, rng).thing),))


def _single(maker: _Maker, rng: np.random.Generator, level: int) -> Scene | None:
    icon = maker.icon(rng, new=level > 0)
    return Scene(icon.style, (Item(icon.thing, 0.5, 0.5, ALONE),), "single")


def _style(maker: _Maker, rng: np.random.Generator, level: int) -> Scene | None:
    scene = _single(maker, rng, level)
    return replace(scene, kind="style") if scene else None


def _count(maker: _Maker, rng: np.random.Generator, level: int) -> Scene | None:
    icon = maker.icon(rng, new=level > 0)
    return _several(icon.thing, icon.style, _pick(list(PLACES), rng))


def _several(thing: str, style: str, number: int) -> Scene:
    return Scene(style, tuple(Item(thing, x, y, HALF) for x, y in PLACES[number]), "count")


def _colour(maker: _Maker, rng: np.random.Generator, level: int) -> Scene | None:
    found = maker.painted(rng, new_style=level == 2, new_colour=level > 0)
    if found is None:
        return None
    icon, colour = found
    if not maker.takes(icon, colour, ALONE):
        return None
    return Scene(icon.style, (Item(icon.thing, 0.5, 0.5, ALONE, colour),), "colour")


def _background(maker: _Maker, rng: np.random.Generator, level: int) -> Scene | None:
    icon = maker.icon(rng, new=level > 0)
    others = [colour for colour in COLOURS if colour not in icon.colours]
    return Scene(icon.style, (Item(icon.thing, 0.5, 0.5, _GROUND),), "background", _pick(others, rng))


def _two(maker: _Maker, rng: np.random.Generator, level: int) -> Scene | None:
    return maker.pair(rng, level, painted=False)


def _binding(maker: _Maker, rng: np.random.Generator, level: int) -> Scene | None:
    return maker.pair(rng, level, painted=True)


TASKS: dict[str, Callable[[_Maker, np.random.Generator, int], Scene | None]] = {
    "single object": _single,
    "two objects": _two,
    "counting": _count,
    "colours": _colour,
    "position": _two,
    "colour binding": _binding,
    "style": _style,
    "background": _background,
}


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
