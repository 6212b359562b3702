"""Pictures on the server's disk, where it is configured: a folder a visitor, bounded, and there after a restart."""

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stablediff.errors import RequestError
from stablediff.files import DRAFT, write_whole
from stablediff.images import read_parameters
from stablediff.web.shelf import Drawn

KEPT = 200  # pictures of one visitor, as many as the browser keeps itself
_GIGABYTES = 2  # of all visitors, where nothing else is said

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A picture on the disk, named by the microsecond in which it was drawn."""

    path: Path
    recipe: str


class Archive:
    """Keeps each visitor's newest pictures, and of all visitors the newest that there is room for.

    `limit`: bytes of all pictures together.
    """

    def __init__(self, folder: Path, limit: float = _GIGABYTES * 1e9) -> None:
        self.folder, self.limit = folder, limit
        self._lock = threading.Lock()
        for draft in folder.glob(f"*/{DRAFT}*"):  # of a server that was killed
            draft.unlink(missing_ok=True)
        self._bytes = sum(path.stat().st_size for path in folder.glob("*/*.png"))

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> "Archive | None":
        """STABLEDIFF_HISTORY: the folder; STABLEDIFF_HISTORY_GB: its bound. Raises RequestError."""
        name, size = environment.get("STABLEDIFF_HISTORY", ""), environment.get("STABLEDIFF_HISTORY_GB", "")
        if not name:
            return None
        if size and not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", size):
            raise RequestError(f"STABLEDIFF_HISTORY_GB is {size[:50]!r}: it must be a number of gigabytes, such as 2.5")
        folder = Path(name).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / ".writable").touch()
            (folder / ".writable").unlink()
        except OSError as error:
            raise RequestError(f"STABLEDIFF_HISTORY is {name!r}, and nothing can be kept there ({error})") from error
        return Archive(folder, float(size or _GIGABYTES) * 1e9)

    def add(self, owner: str, pictures: Sequence[Drawn]) -> None:
        """`owner`: whose they are; "" is nobody. A full disk is told to the log, for the visitor has them anyway."""
        if owner == "":
            return
        try:
            with self._lock:
                home = self._home(owner)
                home.mkdir(exist_ok=True, mode=0o700)
                for picture in reversed(pictures):  # the first of them becomes the newest
                    self._write(home / f"{time.time_ns() // 1000:017d}.png", picture.png)
                self._drop(_newest(home)[KEPT:])
                if self._bytes > self.limit:
                    self._make_room()
        except OSError as error:
            _log.warning("pictures could not be kept: %s", error)

    def all(self, owner: str, but: Collection[str] = ()) -> Iterator[Kept]:
        """Newest first, without those of these recipes."""
        for path in _newest(self._home(owner)):
            recipe = read_parameters(path)  # None for a picture that was deleted meanwhile
            if recipe is not None and recipe not in but:
                yield Kept(path, recipe)

    def remove(self, owner: str, recipe: str | None = None) -> None:
        """The pictures of a recipe, or all of this owner."""
        with self._lock:
            self._drop(
                [path for path in _newest(self._home(owner)) if recipe is None or read_parameters(path) == recipe]
            )

    def _home(self, owner: str) -> Path:
        return self.folder / hashlib.sha256(owner.encode()).hexdigest()[:32]

    def _write(self, path: Path, data: bytes) -> None:
        while path.exists():  # a clock may stand still for a while
            path = path.with_name(f"{int(path.stem) + 1:017d}.png")
        write_whole(path, data)
        self._bytes += len(data)

    def _drop(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._bytes -= path.stat().st_size
            path.unlink()

    def _make_room(self) -> None:
        """The oldest of all go, until there is some room again."""
        paths = sorted(self.folder.glob("*/*.png"), key=lambda path: path.name)
        while paths and self._bytes > 0.9 * self.limit:
            self._drop([paths.pop(0)])


def _newest(home: Path) -> list[Path]:
    return sorted(home.glob("*.png"), key=lambda path: path.name, reverse=True)
