"""Weights in a prompt: `(word)`, `(word:1.3)`, `[word]`, as people write them in other programs.

`(x)` is x with weight 1.1, `[x]` with weight 1/1.1, `(x:1.3)` with weight 1.3; they nest and multiply. A backslash
takes a bracket as it is: `\\(`. Brackets left open close at the end of the prompt; a closing one alone is text.
"""

import math
import re
from typing import NamedTuple

_STEP = 1.1
_MAX_DEPTH = 100  # further brackets are text
_TOKEN = re.compile(r"\\[\\()\[\]]|[\[()]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|\]|[^\\()\[\]:]+|:|\\")


class Span(NamedTuple):
    text: str
    weight: float


def parse_emphasis(prompt: str) -> list[Span]:
    """The prompt's pieces in order, without its weight marks; neighbours of one weight are joined."""
    spans: list[Span] = []
    opened: list[tuple[str, int]] = []  # each open bracket, and the number of spans before it

    def close(bracket: str, factor: float) -> bool:
        if not opened or opened[-1][0] != bracket:
            return False
        start = opened.pop()[1]
        spans[start:] = [Span(text, weight * factor) for text, weight in spans[start:]]
        return True

    for match in _TOKEN.finditer(prompt):
        piece = match.group()
        if piece in "([" and len(opened) < _MAX_DEPTH:
            opened.append((piece, len(spans)))
        elif match.group(1) is not None and close("(", float(match.group(1))):
            pass
        elif piece == ")" and close("(", _STEP):
            pass
        elif piece == "]" and close("[", 1 / _STEP):
            pass
        else:
            spans.append(Span(piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece, 1.0))
    while opened:
        bracket = opened[-1][0]
        close(bracket, _STEP if bracket == "(" else 1 / _STEP)
    return _join(spans)


def _join(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for text, weight in spans:
        if joined and math.isclose(joined[-1].weight, weight, rel_tol=1e-9):
            joined[-1] = Span(joined[-1].text + text, weight)
        else:
            joined.append(Span(text, weight))
    return joined
