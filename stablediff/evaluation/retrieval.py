"""What no model is needed for: the icon whose caption is nearest, and several icons pasted together.

A model that is worth its training is better than both at what was held out from it.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from stablediff.errors import EvaluationError
from stablediff.evaluation.artists import Drawn
from stablediff.evaluation.prompts import World
from stablediff.images import save_png
from stablediff.training.data.scenes import ALONE, HALF, PLACES, UPRIGHT, Item, Scene, render_scene, scenes_mark
from stablediff.training.data.words import NUMBERS, plural

_WORD = re.compile(r"\w+")
_PLACES = {1: ((0.5, 0.5),), **PLACES}


class Retrieval:
    """Looks up the icon whose caption shares most words, relative to all words of both (Jaccard), and shows it."""

    name = "nearest icon"

    def __init__(self, world: World, folder: Path, size: int = 256) -> None:
        self.world, self.folder, self.size = world, folder / self.name.replace(" ", "-"), size
        known, styles = set(world.things), set(world.styles)
        learnt = [
            (icon.thing, icon.style)
            for icon in world.icons.records
            if icon.thing in known and icon.style in styles and not world.split.holds_out_style(icon.thing, icon.style)
        ]
        if not learnt:
            raise EvaluationError(
                "training showed none of these things in these styles, so there is nothing to look up: name others "
                "with --things and --styles"
            )
        self.captions = [
            (set(_WORD.findall(f"{thing} {style} style".lower())), thing, style) for thing, style in learnt
        ]

    def draw(self, prompt: str, seeds: Sequence[int]) -> list[Drawn]:
        """Every seed gets the same picture."""
        scene = self.scene(prompt)
        mark = hashlib.sha256(f"{scenes_mark([scene], self.world.icons)} {self.size}".encode()).hexdigest()[:12]
        path = self.folder / f"{re.sub(r'[^0-9a-z]+', '-', prompt.lower()).strip('-')[:100]}-{mark}.png"
        if not path.is_file():
            picture = render_scene(scene, self.world.icons, self.size)
            save_png(Image.fromarray(picture), path, prompt)
        return [Drawn(path, 0.0)] * len(seeds)

    def scene(self, prompt: str) -> Scene:
        thing, style = self.nearest(prompt)
        return Scene(style, (Item(thing, 0.5, 0.5, ALONE),), "single")

    def nearest(self, text: str, style: str | None = None) -> tuple[str, str]:
        """-> the thing and the style of the nearest caption, if possible of this style; the first of equals."""
        words = set(_WORD.findall(text.lower()))
        options = [one for one in self.captions if style in (None, one[2])] or self.captions
        _, thing, found = max(options, key=lambda one: len(words & one[0]) / len(words | one[0]))
        return thing, found


class Paste(Retrieval):
    """Finds the things that the prompt names, and pastes their pictures where it says, as often as it says."""

    name = "retrieve and paste"

    def scene(self, prompt: str) -> Scene:
        text = prompt.lower()
        asked = next((style for style in self.world.styles if f"{style} style" in text), None)
        named = [thing for thing in self._named(text) if any(one[1] == thing for one in self.captions)]
        if not named:
            return super().scene(prompt)
        upright = any(word in text for word in ("above", "below", "under"))
        turned = any(word in text for word in ("right of", "below", "under"))
        number = next((n for n, word in NUMBERS.items() if text.startswith(f"{word} ")), 1)
        if len(named) > 1:
            named = named[1::-1] if turned else named[:2]
            places = UPRIGHT if upright else _PLACES[2]
        else:
            named, places = named * number, _PLACES[number]
        # The pictures must be of one style: the one asked for, or else one that there is of the first thing.
        of_first = [style for _, thing, style in self.captions if thing == named[0]]
        style = asked if asked is not None and asked in of_first else of_first[0]
        fitting = [thing for thing in named if self._has(thing, style)]
        side = ALONE if len(fitting) == 1 and number == 1 else HALF
        items = tuple(Item(thing, x, y, side) for thing, (x, y) in zip(fitting, places, strict=False))
        return Scene(style, (replace(items[0], x=0.5, y=0.5),) if len(items) == 1 else items, "paste")

    def _named(self, text: str) -> list[str]:
        """Known things in the order in which they are named, the longest name first where several fit."""
        found: list[tuple[int, str]] = []
        for thing in sorted(self.world.things, key=len, reverse=True):
            for name in (thing.lower(), plural(thing).lower()):
                match = re.search(rf"\b{re.escape(name)}\b", text)
                if match:
                    found.append((match.start(), thing))
                    text = text[: match.start()] + "_" * len(name) + text[match.end() :]
                    break
        return [thing for _, thing in sorted(found)]

    def _has(self, thing: str, style: str | None) -> bool:
        return any(one[1] == thing and one[2] == style for one in self.captions)
