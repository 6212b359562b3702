"""The rendered icons on this disk, and what is known of each."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stablediff.errors import DataError
from stablediff.training.data.render import SIZE

PIXELS, RECORDS = "icons.npy", "icons.jsonl"


@dataclass(frozen=True)
class Icon:
    """One picture: which thing, in which style, and what both are called."""

    index: int  # of the pixels that it is drawn from
    source: str  # package@version/icon
    style: str
    thing: str  # one English label a concept
    group: str  # of emojibase, as "food-drink"
    names: dict[str, tuple[str, ...]]  # language -> label and synonyms, best first
    colours: tuple[str, ...]  # most area first, at most 3

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def read_icon(line: str) -> Icon:
    """Raises ValueError, TypeError or KeyError for what `to_json` did not write."""
    fields = json.loads(line)
    names = {language: tuple(names) for language, names in fields.pop("names").items()}
    return Icon(names=names, colours=tuple(fields.pop("colours")), **fields)


class Icons:
    """The cache that `train data` wrote into `folder`. Raises DataError if it is not there or not whole."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        remedy = f"run: python -m stablediff train data --folder {self.folder}"
        try:
            lines = (self.folder / RECORDS).read_text(encoding="utf-8").splitlines()
            self.records: tuple[Icon, ...] = tuple(read_icon(line) for line in lines)
            self._pixels: NDArray[np.uint8] = np.load(self.folder / PIXELS, mmap_mode="r")
        except FileNotFoundError as error:
            raise DataError(f"there are no icons in {self.folder}: {remedy}") from error
        except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"the icons in {self.folder} cannot be read ({error}): {remedy}") from error
        num = len({icon.index for icon in self.records})
        if self._pixels.shape != (num, SIZE, SIZE, 4) or self._pixels.dtype != np.uint8:
            raise DataError(f"{RECORDS} and {PIXELS} in {self.folder} do not belong together: {remedy}")
        self.things: tuple[str, ...] = tuple(dict.fromkeys(icon.thing for icon in self.records))
        self.styles: tuple[str, ...] = tuple(dict.fromkeys(icon.style for icon in self.records))
        self._found = {(icon.thing, icon.style): icon for icon in self.records}

    def __reduce__(self) -> tuple[type["Icons"], tuple[Path]]:
        return Icons, (self.folder,)  # another process maps the pixels itself instead of being sent them

    def __len__(self) -> int:
        return len(self.records)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """-> (512, 512, 4), RGB and straight alpha, as its set has it; not to be written to."""
        return self._pixels[index]

    def chosen_styles(self, styles: Sequence[str]) -> tuple[str, ...]:
        """`styles`, each once, or all if none is named. Raises DataError for one that there is not."""
        if strange := sorted(set(styles) - set(self.styles)):
            raise DataError(f"there is no style {strange[0]!r} among the icons: choose of {', '.join(self.styles)}")
        return tuple(dict.fromkeys(styles)) or self.styles

    def find(self, thing: str, style: str) -> Icon | None:
        return self._found.get((thing, style))
