"""The words that a small model has learnt, and what to say of those that it has not."""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stablediff.errors import CheckpointError

FILE = "words.txt"
NOT_LEARNT = "the model has not learnt these words, and can only guess"
CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+|[\u2600-\u27bf\U0001f000-\U0001faff]")  # emoji are words, too
_YO = str.maketrans("ёЁ", "еЕ")
_MOST = 4  # unknown words to name
_SHORTEST = 4  # letters of a word that may be a misspelt one
_LARGEST = 2**22  # bytes


@dataclass(frozen=True)
class Lexicon:
    """Lower-case words of any language. Big models have none: nobody knows what they have seen."""

    words: frozenset[str]

    @staticmethod
    def of(texts: Iterable[str]) -> "Lexicon":
        return Lexicon(frozenset(word for text in texts for word in split(text)))

    def spell(self, text: str) -> str:
        """As the model has seen it spelt: Russian is mostly written without ё, word by word."""
        composed = unicodedata.normalize("NFC", text)
        return _WORD.sub(lambda word: self._spelt(word.group()), composed)

    def _spelt(self, word: str) -> str:
        return word if word.lower() in self.words else word.translate(_YO)

    def strangers(self, text: str) -> dict[str, list[str]]:
        """The words of `text` that are not known, in order, each with the nearest that are."""
        unknown = dict.fromkeys(word for word in split(text) if self.spell(word) not in self.words)
        return {word: self._near(word) for word in list(unknown)[:_MOST]}

    def _near(self, word: str) -> list[str]:
        """Of a short word every other is a neighbour: "at" is not a "hat"."""
        if len(word) < _SHORTEST:
            return []
        word = self.spell(word)
        near = difflib.get_close_matches(word, self.words, n=2, cutoff=0.7)
        if not near and CYRILLIC.search(word):  # whose endings change more than that
            near = sorted(known for known in self.words if known.startswith(word[: max(3, len(word) - 2)]))[:2]
        return near

    def remark(self, text: str) -> str | None:
        """What to tell the user of the unknown words, if there are any."""
        strangers = self.strangers(text)
        if not strangers:
            return None
        told = [f"{word} (near: {', '.join(near)})" if near else word for word, near in strangers.items()]
        return f"{NOT_LEARNT}: {'; '.join(told)}"

    def to_text(self) -> str:
        return "".join(f"{word}\n" for word in sorted(self.words))


def split(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def read_things(folder: Path, language: str) -> list[str]:
    """What a model has learnt to draw, from the list beside it; empty where there is none."""
    path = next((p for p in (folder / f"known.{language}.txt", folder / "known.txt") if p.is_file()), None)
    return path.read_text(encoding="utf-8").splitlines() if path else []


def read_lexicon(folder: Path) -> Lexicon | None:
    """The folder's words.txt, if it has one. Raises CheckpointError."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is larger than any list of words")
        return Lexicon(frozenset(path.read_text(encoding="utf-8").split()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path} ({error}): get the model again, or delete this file.") from error
