"""How far the loading of a model has come, for those who wait for it."""

from collections.abc import Callable
from typing import Any

Progress = Callable[[str, float], None]  # "downloading" or "loading", and the share of it that is done


def silent(_what: str, _share: float) -> None:
    """For nobody."""


def counting_bar(report: Callable[[int], None]) -> type[Any]:
    """The hub's own progress bar, which also reports the bytes of the file that are there."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
            self.there = int(options.get("initial") or 0)  # of a former attempt

        def update(self, n: float | None = 1) -> bool | None:
            self.there += int(n or 0)
            report(self.there)
            return super().update(n)

    return Bar
