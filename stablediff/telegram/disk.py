"""What happens to files: no room for them, or somebody takes them away."""

import errno
import sqlite3
from pathlib import Path

_NO_ROOM = ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_TRUNCATE")


def is_full(error: BaseException) -> bool:
    """Whether it says that the disk has no room."""
    if isinstance(error, sqlite3.OperationalError):
        return "full" in str(error) or getattr(error, "sqlite_errorname", "") in _NO_ROOM
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def identity(file: Path) -> tuple[int, bool] | None:
    """None for a file that is gone; another value for one that is another, or empty."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size > 0
