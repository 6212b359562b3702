"""Files that are there whole or not at all, whenever somebody looks and whatever breaks off."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

DRAFT = ".stablediff."  # what the names of files begin with that are still being written


def check_place(path: Path) -> None:
    """Raises OSError where a file would take the place of a folder, a device, a pipe, or a file that is protected."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is protected against writing", str(path))


def why_unwritable(error: OSError) -> str:
    """What stands in the way of a folder, in the middle of a sentence."""
    return "it is no folder" if isinstance(error, FileExistsError) else error.strerror or str(error)


@contextlib.contextmanager
def draft_of(path: Path, *, lasting: bool = False) -> Iterator[Path]:
    """An empty file to write into, which takes the place of `path` at the end; a link stays one, and what it leads to
    is replaced. Who may read the former file may read this one, and a new one is as the system makes them.

    `lasting`: a machine that dies right after does not lose it. Raises OSError.
    """
    check_place(path)
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f"{DRAFT}{secrets.token_hex(8)}"
    try:
        draft.touch(exist_ok=False)
        mode = stat.S_IMODE((path if path.exists() else draft).stat().st_mode)
        yield draft
        draft.chmod(mode)  # what fills it may have put a private file there
        if lasting:
            sync(draft)
        draft.replace(path)
        if lasting:
            sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, *, lasting: bool = False) -> None:
    """As `draft_of`, with what is to be in it. Raises OSError."""
    with draft_of(path, lasting=lasting) as draft:
        draft.write_bytes(data)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    with contextlib.suppress(PermissionError):  # Windows does not open folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
