"""Icon names -> things: by code point where a set lists them, else by what anybody calls the thing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stablediff.training.data.names import Thing, plain_code, shortcodes
from stablediff.training.data.sources import IconSet, read_json
from stablediff.training.data.spellings import FXEMOJI
from stablediff.training.data.synonyms import squash


class Matcher:
    """Knows what the pictures of all sets show. `folder` holds the tarballs; raises DataError."""

    def __init__(self, folder: Path, sets: tuple[IconSet, ...], things: Mapping[str, Thing]) -> None:
        self._things = things
        self._listed = {s: _listed(folder / s.file, things) for s in sets}
        self._labels: dict[str, str] = {}
        for code, thing in things.items():
            self._labels.setdefault(squash(thing.label), code)
        self._names = dict(self._labels)
        for code, name in self._other_names(folder, sets):
            if code in things:
                self._names.setdefault(squash(name), code)

    def _other_names(self, folder: Path, sets: tuple[IconSet, ...]) -> Iterator[tuple[str, str]]:
        """(code, name), surest first: names of the sets that list code points, their aliases, chat shortcodes."""
        for listed in self._listed.values():
            yield from listed.items()
        for icon_set in sets:
            aliases = read_json(folder / icon_set.file, "icons.json").get("aliases", {})
            for alias, target in aliases.items():
                if len(target) == 1:  # neither turned nor flipped
                    one, other = squash(alias), squash(target["parent"])
                    if other in self._names:
                        yield self._names[other], alias
                    elif one in self._names:
                        yield self._names[one], target["parent"]
        yield from shortcodes(folder)

    def pictures(self, icon_set: IconSet, icons: Mapping[str, Any]) -> dict[str, str]:
        """`icons` is a set's icons.json. -> the thing's code -> one icon's name, in the order of the things."""
        names = [*icons["icons"], *icons.get("aliases", {})]
        corrections = FXEMOJI if icon_set.name == "fxemoji" else {}
        chosen = dict(self._listed[icon_set])
        for name in names:
            code = self._labels.get(squash(corrections.get(name, "")))
            if code is not None:
                chosen.setdefault(code, name)
        for table in (self._labels, self._names):
            for name in names:
                code = table.get(squash(name))
                if code is not None and name not in corrections:
                    chosen.setdefault(code, name)
        return {code: chosen[code] for code in self._things if code in chosen}


def _listed(tarball: Path, things: Mapping[str, Thing]) -> dict[str, str]:
    """code -> icon name, as far as the set says so itself."""
    listed: dict[str, str] = {}
    for code, name in read_json(tarball, "chars.json").items():
        if plain_code(code) in things:
            listed.setdefault(plain_code(code), name)
    return listed
