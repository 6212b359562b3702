"""Which of the words that a thing is found by can stand for it in a sentence."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stablediff.training.data.colours import COLOURS
from stablediff.training.data.words import names_a_colour, plural

_MOST = 6
# Adjectives, verbs and oblique cases: what Russian tags have beside nouns.
_NO_RUSSIAN_NOUN = re.compile(
    r"(ый|ий|ья|ая|яя|ое|ее|ые|ие|ой|ую|юю|ого|его|ому|ым|им|ых|их|ию|ами|ать|ять|ить|еть|уть|ти|чь|ет|ит|ют|ут|ят"
    r"|ешь|ишь|ал|ял|ил|ел|ала|ила|ела|али|или|ели|ло|ться|тся|лся|лась|лись|ски|ему|ю|у)$"
)
_NAME = re.compile(r"(?!.*\b[mwgb]{2,}\b)[a-z' -]+")  # not "family mwgb"
# Words that captions use for something else.
_NEVER = {*COLOURS, "gray", "color", "style", "background", "стиль", "фон", "вид", "цвет", "размер", "стикер"}


def squash(name: str) -> str:
    """ "Piñata!" -> "pinata": what is left of a name when nobody agrees on blanks, hyphens and accents."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKD", name.casefold()))


def english(
    labels: Mapping[str, str],
    shortcodes: Mapping[str, Iterable[str]],
    tags: Mapping[str, Iterable[str]],
    keywords: Mapping[str, Iterable[str]],
) -> dict[str, tuple[str, ...]]:
    """All by code -> the best synonyms: names used in chats, then what two independent lists find the thing by."""
    words = {}
    for code, label in labels.items():
        chat = [word for word in map(_tidy, shortcodes.get(code, ())) if _NAME.fullmatch(word)]
        known = {_tidy(word) for word in tags.get(code, ())}
        agreed = [word for word in map(_tidy, keywords.get(code, ())) if word in known and not word.endswith("ing")]
        # Only a name may say a colour, and another number says nothing new.
        words[code] = [
            word
            for word in chat + agreed
            if word not in (f"{label.casefold()}s", label.casefold().removesuffix("s"))
            and (names_a_colour(label) or not names_a_colour(word))
        ]
    return _alone(labels, words)


def russian(labels: Mapping[str, str], tags: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Code -> the tags that look like nouns in the nominative."""
    words = {code: [_tidy(word) for word in tags.get(code, ())] for code in labels}
    return _alone(
        labels,
        {code: [w for w in those if " " not in w and not _NO_RUSSIAN_NOUN.search(w)] for code, those in words.items()},
    )


def _alone(labels: Mapping[str, str], words: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Drops what many things are found by (their surroundings: "nature", "sport") and what another thing is called.

    A shooting star is found by "stars", but three stars are no shooting stars.
    """
    used = Counter(word for those in words.values() for word in set(those))
    taken = {squash(form) for label in labels.values() for form in (label, plural(label.casefold()))}
    result = {}
    for code, those in words.items():
        chosen: dict[str, str] = {}
        for word in those:
            if used[word] <= 2 and len(word) > 2 and word not in _NEVER and squash(word) not in taken:
                chosen.setdefault(squash(word), word)
        result[code] = tuple(chosen.values())[:_MOST]
    return result


def _tidy(word: str) -> str:
    return re.sub(r"[\s_]+", " ", word).strip().casefold()
