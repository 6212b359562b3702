"""A folder of one's own pictures, with a caption for each."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stablediff.errors import DataError, RequestError, one_line
from stablediff.images import fit_image, open_image, over_white

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_OTHER_ENDINGS = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jfif")  # pictures that are not read
_LONGEST = 2**16  # bytes of a caption file
_MOST_NAMED = 20
_NO_CAPTION = "it has no caption"


class FolderPictures:
    """Pictures in `path` or in `path/images`, cropped about the middle to `size` and scaled.

    Captions are lines {"file": …, "caption": … or "captions": […]} of `captions.jsonl`, or a .txt beside each picture.
    `channels` is 3 (over white) or 4 (RGB and straight alpha). What cannot be used is in `skipped` with the reason, and
    the first twenty are named. Raises DataError if nothing is left.
    """

    def __init__(self, path: str | Path, size: int, channels: int = 3) -> None:
        if channels not in (3, 4) or size < 8:
            raise DataError(f"pictures of {size} pixels with {channels} channels: use 8 or more, and 3 or 4")
        self.folder, self._size, self._channels = Path(path), size, channels
        self.skipped: list[tuple[Path, str]] = []
        self._entries: list[tuple[Path, tuple[str, ...]]] = []
        if not self.folder.is_dir():
            raise DataError(f"there is no folder {self.folder}: check its name")
        listed = self.folder / "captions.jsonl"
        for picture, captions in self._listed(listed) if listed.is_file() else self._beside():
            if why := self._why_not(picture) if captions else _NO_CAPTION:
                self.skipped.append((picture, why))
            else:
                self._entries.append((picture, captions))
        if not self._entries:
            first = one_line("; ".join(f"{picture.name}: {why}" for picture, why in self.skipped[:1]))
            raise DataError(
                f"{self.folder} has no picture with a caption that can be used ({first or 'no picture at all'}): each "
                "needs a .txt beside it, or a line in captions.jsonl, and enough pixels"
            )
        for picture, why in self.skipped[:_MOST_NAMED]:
            print(one_line(f"{picture} is left out: {why}"), file=sys.stderr)
        if more := len(self.skipped[_MOST_NAMED:]):
            print(f"and {more} more in {self.folder}", file=sys.stderr)

    def __len__(self) -> int:
        return len(self._entries)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """-> (size, size, channels)."""
        image = open_image(self.path(index))
        # Before scaling: over white it has one colour a pixel, RGBA Pillow scales premultiplied.
        image = over_white(image) if self._channels == 3 else image.convert("RGBA")
        return np.asarray(fit_image(image, self._size, self._size))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        captions = self._entries[index][1]
        return captions[int(rng.integers(len(captions)))]

    def path(self, index: int) -> Path:
        """Of the picture's file."""
        return self._entries[index][0]

    def fingerprint(self) -> str:
        """Changes when a picture does."""
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path, _ in self._entries]
        return hashlib.sha256(repr((self._channels, stats)).encode()).hexdigest()

    def _root(self) -> Path:
        return self.folder / "images" if (self.folder / "images").is_dir() else self.folder

    def _beside(self) -> Iterator[tuple[Path, tuple[str, ...]]]:
        for picture in sorted(self._root().iterdir()):
            ending, text = picture.suffix.lower(), picture.with_suffix(".txt")
            if ending in _ENDINGS:
                try:
                    yield picture, _tidy([_read_caption(text)])
                except FileNotFoundError:
                    self.skipped.append((picture, _NO_CAPTION))
                except OSError as error:
                    self.skipped.append((picture, f"cannot read {text.name} ({error.strerror})"))
                except ValueError:
                    self.skipped.append((picture, f"{text.name} is not in UTF-8: save it anew as UTF-8"))
            elif ending in _OTHER_ENDINGS and text.exists():
                self.skipped.append((picture, "it is no PNG, JPEG or WebP: save it as one of them"))

    def _listed(self, listed: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
        try:
            # Not splitlines(): in JSON, U+2028 and its like may stand within a line.
            lines = listed.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {listed} ({error}): it must be text in UTF-8") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                name, captions = _read_line(line)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                self.skipped.append((listed, f'line {number} is not {{"file": …, "caption": …}}'))
                continue
            if not all(map(_is_unicode, captions)):
                self.skipped.append((listed, f"line {number} has half a letter in its caption: write it in UTF-8"))
                continue
            try:
                picture = self._find(name)
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "it has letters that no file name has"
                self.skipped.append((listed, f"line {number} names the file {name[:60]!r}: {why}"))
                continue
            if picture is None:
                self.skipped.append((self.folder / name, "it lies outside of the folder"))
            else:
                yield picture, _tidy(captions)

    def _find(self, name: str) -> Path | None:
        """The picture of a line; None for one outside of the folder. Raises OSError or ValueError."""
        inner = self._root() / name
        picture = inner if inner.is_file() else self.folder / name
        return picture if picture.resolve().is_relative_to(self.folder.resolve()) else None

    def _why_not(self, picture: Path) -> str | None:
        """The reason why a picture cannot be learnt from."""
        try:
            image = open_image(picture)
        except RequestError as error:
            return str(error)
        if min(image.size) * 2 < self._size:
            return f"it has {image.width} x {image.height} pixels, too few to be shown at {self._size}"
        return None


def _tidy(captions: list[str]) -> tuple[str, ...]:
    """Without surplus blanks and lines, and without those that say nothing."""
    return tuple(text for text in (" ".join(caption.split()) for caption in captions) if text)


def _read_caption(text: Path) -> str:
    """Raises OSError, or ValueError for what is not in UTF-8."""
    with text.open(encoding="utf-8-sig") as stream:
        caption = stream.read(_LONGEST)
    if "\0" in caption:  # as UTF-16 has
        raise ValueError("NUL in a text")
    return caption


def _read_line(line: str) -> tuple[str, list[str]]:
    """-> file and captions. Raises whatever can be wrong with a line."""
    entry = json.loads(line)
    name, captions = entry["file"], entry.get("captions") or [entry["caption"]]
    if not isinstance(name, str) or not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise TypeError(line)
    return name, captions


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
