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
    pieces: list[str | int] = []  # text, and the brackets by their numbers: opened as they are, closed as ~number
    factors: list[float] = []  # of each bracket
    opened: list[tuple[str, int]] = []  # those still open, with their numbers

    def close(bracket: str, factor: float) -> bool:
        if not opened or opened[-1][0] != bracket:
            return False
        number = opened.pop()[1]
        factors[number] = factor
        pieces.append(~number)
        return True

    for match in _TOKEN.finditer(prompt):
        piece = match.group()
        if piece in "([" and len(opened) < _MAX_DEPTH:
            opened.append((piece, len(factors)))
            pieces.append(len(factors))
            factors.append(1.0)
        elif match.group(1) is not None and close("(", float(match.group(1))):
            pass
        elif piece == ")" and close("(", _STEP):
            pass
        elif piece == "]" and close("[", 1 / _STEP):
            pass
        else:
            pieces.append(piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece)
    while opened:
        bracket = opened[-1][0]
        close(bracket, _STEP if bracket == "(" else 1 / _STEP)
    return _weigh(pieces, factors)


def _weigh(pieces: list[str | int], factors: list[float]) -> list[Span]:
    """Text takes the product of all brackets about it."""
    weights = [1.0]
    runs: list[tuple[list[str], float]] = []
    for piece in pieces:
        if isinstance(piece, str):
            if not runs or not math.isclose(runs[-1][1], weights[-1], rel_tol=1e-9):
                runs.append(([], weights[-1]))
            runs[-1][0].append(piece)
        elif piece >= 0:
            weights.append(weights[-1] * factors[piece])
        else:
            weights.pop()
    return [Span("".join(texts), weight) for texts, weight in runs]
