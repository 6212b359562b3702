"""One run at a time where two would spoil each other's files. A killed run holds nothing."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from stablediff.errors import ConfigError


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Raises ConfigError while another run is in there."""
    with _held(folder / ".lock") as lock:
        if lock is None:
            raise ConfigError(f"another run is at work in {folder}: wait for it, or choose another --out")
        yield


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Behind whoever is making the same; `path` is the lock."""
    with _held(path) as lock:
        if lock is None:
            print(f"another run is making {path.with_suffix('').name}: waiting for it", file=sys.stderr, flush=True)
        with contextlib.nullcontext() if lock is not None else FileLock(path):
            yield


@contextlib.contextmanager
def _held(path: Path) -> Iterator[FileLock | None]:
    """None if another run holds it."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield None
        return
    except NotImplementedError:  # a disk without locks: nothing can be known of others
        yield lock
        return
    try:
        yield lock
    finally:
        lock.release()
