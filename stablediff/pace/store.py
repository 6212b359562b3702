"""Numbers that this machine remembers from one run to the next, a small file a key. Without a disk it forgets them."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path

from stablediff.files import write_whole

_LONGEST = 1e6  # seconds: what takes longer was never measured


def cache_folder() -> Path | None:
    """STABLEDIFF_CACHE, or `stablediff` in the user's folder for such things; None if there is no user's folder."""
    if os.environ.get("STABLEDIFF_CACHE"):
        return Path(os.environ["STABLEDIFF_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stablediff"
    except RuntimeError:  # this user has no home
        return None


def read_times(path: Path | None) -> dict[str, float]:
    """Names and seconds. Whatever is broken, or no time at all, is as if it had never been measured."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        items = found["seconds"].items()
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}
    return {name: float(value) for name, value in items if _is_time(value)}


def write_times(path: Path | None, times: dict[str, float], about: str) -> None:
    """Whole or not at all; what another process has written meanwhile is kept. A disk that refuses is left alone."""
    if path is None:
        return
    text = json.dumps({"about": about, "seconds": read_times(path) | times}, indent=1)
    with suppress(OSError):
        write_whole(path, text.encode())


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _LONGEST


def median(times: list[float]) -> float:
    """The middle one, and of an even number the faster of both: disturbances only ever slow down."""
    return sorted(times)[(len(times) - 1) // 2] if times else math.nan
