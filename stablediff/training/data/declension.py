"""Russian names as sentences want them: "два кота", "слева от кота", "над котом".

By a dictionary (pymorphy3), and silent where that may err: of what is no noun, stands in the plural, or has a gender
that its ending contradicts.
"""

from functools import cache
from typing import Any

from stablediff.errors import DataError
from stablediff.training.data.agreement import gender

GENITIVE, INSTRUMENTAL = "gent", "ablt"  # as the dictionary calls them
_GENDERS = {"masc": "m", "femn": "f", "neut": "n"}
_TWO = {"m": "два", "f": "две", "n": "два"}
_MORE = {3: "три", 4: "четыре"}


@cache
def declined(name: str, case: str) -> str | None:
    """ "красное яблоко", GENITIVE -> "красного яблока"; None where that is not known."""
    phrase = _parse(name)
    if phrase is None:
        return None
    adjectives, noun, rest = phrase
    own = {case, "sing", noun.tag.gender}
    return _join([word.inflect(own) for word in adjectives], noun.inflect({case, "sing"}), rest)


@cache
def counted(name: str, number: int) -> str | None:
    """ "красное яблоко", 2 -> "два красных яблока", and so up to four; None where that is not known."""
    phrase = _parse(name)
    if phrase is None:
        return None
    adjectives, noun, rest = phrase
    kind = _GENDERS[noun.tag.gender]
    form = {"nomn" if kind == "f" else GENITIVE, "plur"}  # "две красные рыбы", but "два красных шара"
    many = _join([word.inflect(form) for word in adjectives], noun.inflect({GENITIVE, "sing"}), rest)
    return None if many is None else f"{_TWO[kind] if number == 2 else _MORE[number]} {many}"


def _parse(name: str) -> tuple[list[Any], Any, list[str]] | None:
    """Adjectives, the noun that they belong to, and what follows it and stays as it is."""
    words = name.split()
    adjectives: list[Any] = []
    for number, word in enumerate(words):
        noun = _reading(word, {"NOUN"})
        adjective = _reading(word, {"ADJF", "PRTF"})
        follows = any(_reading(later, {"NOUN"}) for later in words[number + 1 :])
        if adjective and follows:
            adjectives.append(adjective)
        elif noun and noun.tag.gender in _GENDERS:
            agrees = all(adjective.tag.gender == noun.tag.gender for adjective in adjectives)
            sure = gender(name) in (None, _GENDERS[noun.tag.gender])
            rest = words[number + 1 :]
            return (adjectives, noun, rest) if agrees and sure and "и" not in rest else None
        else:
            return None
    return None


def _reading(word: str, kinds: set[str]) -> Any | None:
    """As one of these parts of speech, in the nominative singular; None of words that are prepositions as well."""
    readings = _dictionary().parse(word)
    if readings[0].tag.POS in ("PREP", "CONJ"):
        return None
    for reading in readings:
        if reading.tag.POS in kinds and reading.tag.case == "nomn" and reading.tag.number == "sing":
            return reading
    return None


def _join(adjectives: list[Any], noun: Any, rest: list[str]) -> str | None:
    if noun is None or None in adjectives:
        return None
    return " ".join([*(word.word for word in (*adjectives, noun)), *rest]).replace("ё", "е")


@cache
def _dictionary() -> Any:
    """Raises DataError where pymorphy3 is not installed."""
    try:
        from pymorphy3 import MorphAnalyzer
    except ImportError as error:
        raise DataError("pymorphy3 is needed for Russian captions: run make train") from error
    return MorphAnalyzer(lang="ru")
