"""Files that are there whole or not at all, whenever somebody looks and whatever breaks off."""

import errno
import os
import tempfile
from pathlib import Path


def check_place(path: Path) -> None:
    """Raises OSError where a file would take the place of a folder, a device or a pipe."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))


def write_whole(path: Path, data: bytes, *, lasting: bool = False) -> None:
    """Writes `path`, or puts it in the former one's place; a link stays one, and what it leads to is written.

    `lasting`: a machine that dies right after does not lose it. Raises OSError.
    """
    check_place(path)
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=".stablediff.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            if lasting:
                stream.flush()
                os.fsync(stream.fileno())
        Path(draft).chmod(0o644)  # temporary files are private
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
