"""Which words on the page stand in which component, so that a switch of language changes them all."""

from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from stablediff.web import lenient
from stablediff.web.texts import FIRST, text

ComponentT = TypeVar("ComponentT")
Words = str | Callable[[str], Any]  # a key of texts.py, or what makes the value for a language


class Voice:
    """Makes components with their words in the first language, and says them again in another."""

    def __init__(self) -> None:
        self.spoken: list[tuple[Any, dict[str, Words]]] = []

    def __call__(self, make: Callable[..., ComponentT], words: dict[str, Words], **others: Any) -> ComponentT:
        """make(**words, **others): `words` maps an argument to what stands there."""
        component = lenient.KINDS.get(make, make)(**_in(FIRST, words), **others)
        self.spoken.append((component, words))
        return component

    @property
    def components(self) -> list[Any]:
        return [component for component, _ in self.spoken]

    def say(self, language: str) -> list[Any]:
        """An update for each of `components`."""
        return [gr.update(**_in(language, words)) for _, words in self.spoken]


def _in(language: str, words: dict[str, Words]) -> dict[str, Any]:
    return {name: word(language) if callable(word) else text(word, language) for name, word in words.items()}
