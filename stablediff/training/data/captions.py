"""Scenes -> what somebody would type to get them, in English or Russian."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stablediff.errors import DataError
from stablediff.training.data import templates, words
from stablediff.training.data.agreement import painted
from stablediff.training.data.declension import GENITIVE, INSTRUMENTAL, beside, counted, declined
from stablediff.training.data.icons import Icon, Icons
from stablediff.training.data.scenes import Item, Scene
from stablediff.training.data.split import Split
from stablediff.training.data.templates import Table

_COMPLETE, _SHORT = 0.6, 0.3  # the rest are bare labels
_AGREEING = 0.7  # of Russian colours stand before the noun, where its gender is known
_PIECES = 0.3  # of Russian numbers are counted in pieces, behind the noun, where its plural is known
_SPELT = 0.8  # of numbers are words
_NATURAL = 0.2  # of complete captions say which colour a thing has by itself
# Of complete captions of one thing, so many do not say what it is: a style or a colour is to be learnt by itself, not
# thing by thing, or it will not be drawn on a thing that never had it.
_UNNAMED = 0.25


def caption(
    scene: Scene, icons: Icons, rng: np.random.Generator, language: str = "en", split: Split | None = None
) -> str:
    """60 % complete, 30 % shorter or with a synonym, 10 % nothing but the label, colour, number and place.

    What can be seen and is asked for is always said: colours that are not the thing's own, numbers, sizes, backgrounds.
    With `split`, never a synonym or a phrase that is held out. Raises DataError for a language that is not known.
    """
    if language not in _LANGUAGES:
        raise DataError(f"there are no captions in {language!r}: choose {' or '.join(_LANGUAGES)}")
    chance = rng.random()
    complete, bare = chance < _COMPLETE, chance >= _COMPLETE + _SHORT
    synonym = not complete and not bare and rng.random() < 0.6
    styled = complete or (synonym and rng.random() < 0.7)
    natural = complete and rng.random() < _NATURAL
    unnamed = complete and len(scene.items) == 1 and rng.random() < _UNNAMED
    return _LANGUAGES[language](_Speaker(scene, icons, rng, language, split, unnamed), synonym, styled, natural)


@dataclass(frozen=True)
class _Speaker:
    """Chooses words and templates for one scene."""

    scene: Scene
    icons: Icons
    rng: np.random.Generator
    language: str
    split: Split | None
    unnamed: bool

    def icon(self, item: Item) -> Icon:
        icon = self.icons.find(item.thing, self.scene.style)
        if icon is None:
            raise DataError(f"there is no {item.thing!r} in {self.scene.style} style: choose another style for it")
        return icon

    def name(self, item: Item, synonym: bool) -> str:
        """Without the colour that it names, if it was painted."""
        if self.unnamed:
            return words.SOMETHING[self.language]
        icon = self.icon(item)
        names = icon.names.get(self.language) or icon.names["en"]
        if self.split:
            names = (names[0], *(n for n in names[1:] if not self.split.holds_out_name(icon.thing, n)))
        if item.colour:
            names = tuple(words.without_colour(name, self.language) for name in names)
            names = (names[0], *(n for n in names[1:] if not words.names_a_colour(n)))
        if not synonym or len(names) == 1:
            return names[0]
        # The first synonyms are the surest.
        return names[1 + int(self.rng.integers(len(names) - 1) * self.rng.random())]

    def natural_colours(self, item: Item) -> tuple[str, ...]:
        """What the thing's own colours are, if its name does not say."""
        icon = self.icon(item)
        name = (icon.names.get(self.language) or icon.names["en"])[0]
        told = words.names_a_colour(icon.thing) or words.without_colour(name, self.language) != name
        return () if item.colour or (told and not self.unnamed) else icon.colours[:2]

    def template(self, table: Table, without: Iterable[str] = ()) -> str:
        """One that has none of the fields in `without`."""
        possible = {t: n for t, n in table.items() if not any(f"{{{field}}}" in t for field in without)}
        allowed = {t: n for t, n in possible.items() if self.split is None or not self.split.holds_out_template(t)}
        shares = np.array(list(allowed.values()))
        return str(self.rng.choice(list(allowed), p=shares / shares.sum()))

    @property
    def upright(self) -> bool:
        first, second = self.scene.items[:2]
        return abs(first.y - second.y) > abs(first.x - second.x)

    @property
    def size_word(self) -> str | None:
        if self.scene.kind != "size":
            return None
        return next((word for word, most in words.SIZES.items() if self.scene.items[0].size <= most), "large")


def _english(speaker: _Speaker, synonym: bool, styled: bool, natural: bool) -> str:
    scene, number = speaker.scene, len(speaker.scene.items)
    if scene.kind == "pair":
        first, second = (_english_noun(speaker, item, synonym, natural=False) for item in scene.items)
        template = speaker.template(templates.EN_ABOVE if speaker.upright else templates.EN_BESIDE)
        a_first, a_second = words.with_article(first), words.with_article(second)
        body = a_body = template.format(first=first, second=second, a_first=a_first, a_second=a_second)
    elif number > 1:
        noun = _english_noun(speaker, scene.items[0], synonym, natural, many=True)
        body = a_body = f"{words.NUMBERS[number] if speaker.rng.random() < _SPELT else number} {noun}"
    else:
        body = _english_noun(speaker, scene.items[0], synonym, natural)
        body = f"{speaker.size_word} {body}" if speaker.size_word else body
        a_body = words.with_article(body)
    if scene.background:
        template = speaker.template(templates.EN_BACKGROUND)
        body = a_body if speaker.rng.random() < 0.6 else body
        a_colour = words.with_article(scene.background)
        body = a_body = template.format(body=body, colour=scene.background, a_colour=a_colour)
    if not styled:
        return body
    long = number > 1 or scene.background
    template = speaker.template(templates.EN_STYLED_LONG if long else templates.EN_STYLED)
    return template.format(body=body, a_body=a_body, style=scene.style)


def _english_noun(speaker: _Speaker, item: Item, synonym: bool, natural: bool, many: bool = False) -> str:
    colours = (item.colour,) if item.colour else speaker.natural_colours(item) if natural else ()
    name = speaker.name(item, synonym)
    return " ".join([*([" and ".join(colours)] if colours else []), words.plural(name) if many else name])


def _russian(speaker: _Speaker, synonym: bool, styled: bool, natural: bool) -> str:
    scene = speaker.scene
    if scene.kind == "pair":
        body = _russian_pair(speaker, synonym)
    elif len(scene.items) > 1:
        body = _russian_count(speaker, synonym, natural)
    else:
        parts = [_russian_noun(speaker, scene.items[0], synonym, natural)]
        if speaker.size_word:
            parts.append(words.RU_SIZES[speaker.size_word])
        body = ", ".join(parts)
    if scene.background:
        colour = words.RU_COLOURS[scene.background][1]
        body = speaker.template(templates.RU_BACKGROUND).format(body=body, colour=colour)
    if not styled:
        return body
    in_style, style = words.RU_STYLES[scene.style], words.RU_STYLE_NAMES[scene.style]
    return speaker.template(templates.RU_STYLED).format(body=body, in_style=in_style, style=style)


def _russian_pair(speaker: _Speaker, synonym: bool) -> str:
    first, second = (_russian_noun(speaker, item, synonym, natural=False) for item in speaker.scene.items)
    forms: dict[str, str | None] = {"first": first, "second": second}
    for prefix, case in (("of", GENITIVE), ("by", INSTRUMENTAL)):
        forms |= {f"{prefix}_first": declined(first, case), f"{prefix}_second": declined(second, case)}
    forms["with_second"] = beside(second)
    table = templates.RU_ABOVE if speaker.upright else templates.RU_BESIDE
    return speaker.template(table, [field for field, form in forms.items() if form is None]).format(**forms)


def _russian_count(speaker: _Speaker, synonym: bool, natural: bool) -> str:
    number = len(speaker.scene.items)
    noun = _russian_noun(speaker, speaker.scene.items[0], synonym, natural)
    name, _, colour = noun.partition(", ")
    several = counted(name, number)
    if several is None or speaker.rng.random() < _PIECES:
        return f"{noun}, {words.RU_NUMBERS[number]}"
    if speaker.rng.random() >= _SPELT:
        several = f"{number} {several.partition(' ')[2]}"
    return f"{several} {colour}".rstrip()


def _russian_noun(speaker: _Speaker, item: Item, synonym: bool, natural: bool) -> str:
    colours = (item.colour,) if item.colour else speaker.natural_colours(item) if natural else ()
    name = speaker.name(item, synonym)
    if not colours:
        return name
    agreeing = painted(name, colours)
    if agreeing and speaker.rng.random() < _AGREEING:
        return agreeing
    of_colour = " и ".join(words.RU_COLOURS[colour][0] for colour in colours) + " цвета"
    return f"{name} {of_colour}" if speaker.scene.kind == "pair" else f"{name}, {of_colour}"


_LANGUAGES = {"en": _english, "ru": _russian}
