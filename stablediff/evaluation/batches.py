"""Pictures in batches, so that no more of them are in memory than a network takes at once."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """In their order, so many at a time; the last ones may be fewer."""
    waiting = iter(items)
    while some := list(islice(waiting, size)):
        yield some
