"""What a dictionary of Russian (pymorphy3) says of a word."""

from functools import cache
from typing import Any

from stablediff.errors import DataError


def reading(word: str, kinds: set[str], number: str | None = "sing") -> Any | None:
    """As one of these parts of speech, in the nominative; None of words that are prepositions as well.

    `number` is "sing", "plur", or None for either. Raises DataError where the dictionary is not installed.
    """
    readings = _dictionary().parse(word)
    if readings[0].tag.POS in ("PREP", "CONJ"):
        return None
    for one in readings:
        if one.tag.POS in kinds and one.tag.case == "nomn" and number in (None, one.tag.number):
            return one
    return None


@cache
def _dictionary() -> Any:
    try:
        from pymorphy3 import MorphAnalyzer
    except ImportError as error:
        raise DataError("pymorphy3 is needed for Russian captions: run make train") from error
    return MorphAnalyzer(lang="ru")
