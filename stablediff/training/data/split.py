"""What training never sees, decided before it: combinations and phrases to be examined with."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from stablediff.errors import DataError
from stablediff.training.data.colours import COLOURS
from stablediff.training.data.icons import Icon
from stablediff.training.data.styles import DRAWN_STYLES
from stablediff.training.data.templates import TABLES, Table
from stablediff.training.data.words import without_colour

_PAIR_SHARE = 0.10


@dataclass(frozen=True)
class Split:
    """Combinations of known parts, and paraphrases of known captions, that are held out."""

    seed: int
    styles: frozenset[tuple[str, str]]  # (thing, style)
    colours: frozenset[tuple[str, str]]  # (thing without its own colour, colour)
    names: frozenset[tuple[str, str]]  # (thing, synonym)
    templates: frozenset[str]

    def holds_out_style(self, thing: str, style: str) -> bool:
        return (thing, style) in self.styles

    def holds_out_colour(self, thing: str, colour: str) -> bool:
        """A blue apple is one, be it a red apple or a green apple painted blue."""
        return (without_colour(thing), colour) in self.colours

    def holds_out_pair(self, first: str, second: str) -> bool:
        """`first` is left of `second` or above it; the other way round is another pair."""
        return _share(self.seed, "pair", first, second) < _PAIR_SHARE

    def holds_out_name(self, thing: str, name: str) -> bool:
        return (thing, name) in self.names

    def holds_out_template(self, template: str) -> bool:
        return template in self.templates

    def write(self, path: Path) -> None:
        fields = {key: sorted(value) if isinstance(value, frozenset) else value for key, value in asdict(self).items()}
        path.write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def make_split(records: Iterable[Icon], seed: int = 0) -> Split:
    """A pure function of the icons and the seed; no list of icons changes what is decided about another icon."""
    things: dict[str, list[Icon]] = defaultdict(list)
    for icon in records:
        things[icon.thing].append(icon)
    styles, names = set(), set()
    natural: dict[str, set[str]] = defaultdict(set)
    for thing, icons in things.items():
        natural[without_colour(thing)].update(*(icon.colours for icon in icons))
        shares = {icon.style: _share(seed, "style", thing, icon.style) for icon in icons}
        # At most one a thing: its other pictures are to be learnt from. Styles of the sets come first.
        of_sets = [style for style in shares if style not in DRAWN_STYLES]
        for some, others in ((of_sets, of_sets), ([style for style in shares if style in DRAWN_STYLES], shares)):
            if len(others) >= 4 and some and shares[style := min(some, key=shares.__getitem__)] < 0.05:
                styles.add((thing, style))
                break
        for language, known in icons[0].names.items():
            ranked = sorted(known[1:], key=lambda name: _share(seed, "name", thing, name))
            if len(ranked) >= 3 and _share(seed, language, thing) < 0.5:
                names.add((thing, ranked[0]))
    colours = {
        (noun, colour)
        for noun, own in natural.items()
        for colour in COLOURS
        if colour not in own and colour != noun and _share(seed, "colour", noun, colour) < 0.05
    }
    templates = {
        min(_rare(table), key=lambda template: _share(seed, "template", template)) for table in TABLES if len(table) > 3
    }
    return Split(seed, frozenset(styles), frozenset(colours), frozenset(names), frozenset(templates))


def _rare(table: Table) -> list[str]:
    """What can be held out without loss to what users are told of."""
    return [template for template in list(table)[1:] if table[template] == min(table.values())]


def read_split(path: Path) -> Split:
    """Raises DataError."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        pairs = {key: frozenset((one, other) for one, other in fields[key]) for key in ("styles", "colours", "names")}
        return Split(seed=int(fields["seed"]), templates=frozenset(fields["templates"]), **pairs)
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}: run: python -m stablediff train data --folder {path.parent}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not a split ({error}): delete it and run train data again") from error


def _share(*words: object) -> float:
    """A number in [0, 1) that depends on the words and on nothing else."""
    digest = hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
