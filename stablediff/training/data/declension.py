"""Russian names as sentences want them: "два кота", "слева от кота", "над котом".

By a dictionary (pymorphy3), and silent where that may err: of what is no noun, stands in the plural, or has a gender
that its ending contradicts.
"""

import re
from functools import cache
from typing import Any, NamedTuple

from stablediff.training.data.agreement import gender
from stablediff.training.data.dictionary import reading

GENITIVE, INSTRUMENTAL = "gent", "ablt"  # as the dictionary calls them
_GENDERS = {"masc": "m", "femn": "f", "neut": "n"}
_TWO = {"m": "два", "f": "две", "n": "два"}
_MORE = {3: "три", 4: "четыре"}
_ADJECTIVE = re.compile("(ого|его|ой|ей)$")
_TWO_CONSONANTS = re.compile("щ|[сзшж][бвгджзйклмнпрстфхцчшщ]|льв|льд|лб|мн|вт|ртом")  # before which "с" is "со"


@cache
def declined(name: str, case: str) -> str | None:
    """ "красное яблоко", GENITIVE -> "красного яблока"; None where that is not known."""
    phrase = _parse(name)
    return phrase and phrase.inflected({case, "sing", phrase.noun.tag.gender}, {case, "sing"})


def beside(name: str) -> str | None:
    """ "кот" -> "с котом", "слон" -> "со слоном"; None where that is not known."""
    form = declined(name, INSTRUMENTAL)
    return form and f"{'со' if _TWO_CONSONANTS.match(form) else 'с'} {form}"


@cache
def counted(name: str, number: int) -> str | None:
    """ "красное яблоко", 2 -> "два красных яблока", and so up to four; None where that is not known."""
    phrase = _parse(name)
    if phrase is None:
        return None
    kind = _GENDERS[phrase.noun.tag.gender]
    # "две красные рыбы", but "два красных шара"; and "два пожарных" of a noun that was an adjective
    was_adjective = _ADJECTIVE.search(phrase.noun.inflect({GENITIVE, "sing"}).word)
    many = phrase.inflected(
        {"nomn" if kind == "f" else GENITIVE, "plur"}, {GENITIVE, "plur" if was_adjective else "sing"}
    )
    return many and f"{_TWO[kind] if number == 2 else _MORE[number]} {many}"


class _Phrase(NamedTuple):
    """Adjectives, the noun that they belong to, and what follows it and stays as it is."""

    adjectives: list[Any]
    noun: Any
    rest: list[str]

    def inflected(self, adjectives: set[str], noun: set[str]) -> str | None:
        words = [*(word.inflect(adjectives) for word in self.adjectives), self.noun.inflect(noun)]
        if None in words:
            return None
        return " ".join([*(word.word for word in words), *self.rest]).replace("ё", "е")


def _parse(name: str) -> _Phrase | None:
    words = name.split()
    adjectives: list[Any] = []
    for number, word in enumerate(words):
        noun = reading(word, {"NOUN"})
        adjective = reading(word, {"ADJF", "PRTF"})
        follows = any(reading(later, {"NOUN"}) for later in words[number + 1 :])
        if adjective and follows:
            adjectives.append(adjective)
        elif noun and noun.tag.gender in _GENDERS:
            agrees = all(adjective.tag.gender == noun.tag.gender for adjective in adjectives)
            sure = gender(name) in (None, _GENDERS[noun.tag.gender])
            rest = words[number + 1 :]
            return _Phrase(adjectives, noun, rest) if agrees and sure and "и" not in rest else None
        else:
            return None
    return None
