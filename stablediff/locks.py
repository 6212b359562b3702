"""One run at a time where two would spoil each other's files. A killed run holds nothing."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from stablediff.errors import ConfigError

LOCK = ".lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder. Raises ConfigError where it cannot, and while another run is in there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}. Choose another --out") from error
    lock = FileLock(folder / LOCK)
    try:
        with contextlib.suppress(NotImplementedError):  # a disk without locks: nothing can be known of others
            lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"another run is at work in {folder}: wait for it, or choose another --out") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Behind whoever is making the same; `path` is the lock."""
    lock = FileLock(path)
    with contextlib.suppress(NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"another run is making {path.with_suffix('').name}: waiting for it", file=sys.stderr, flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
