"""Builds the folder that `Icons` opens. What was broken off goes on where it was."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stablediff.errors import DataError
from stablediff.files import write_whole
from stablediff.training.data.colours import colours_of
from stablediff.training.data.icons import PIXELS, RECORDS, Icon
from stablediff.training.data.matching import Matcher
from stablediff.training.data.names import Thing, read_things
from stablediff.training.data.render import SIZE, check_renderer, render, to_svg
from stablediff.training.data.sources import ICON_SETS, KEYWORDS, LABELS, IconSet, fetch, read_json, write_licences
from stablediff.training.data.split import make_split
from stablediff.training.data.styles import DRAWN_STYLES

_CHUNK = 64  # pictures between two notes of how far it is
_SPARE = 2**28  # bytes to leave free


@dataclass(frozen=True)
class Planned:
    """A picture to render: which icon, and what it shows."""

    icon_set: IconSet
    name: str
    thing: Thing

    @property
    def source(self) -> str:
        return f"{self.icon_set.package}@{self.icon_set.version}/{self.name}"


def build(folder: Path, processes: int = 2, sets: tuple[IconSet, ...] = ICON_SETS) -> list[Icon]:
    """Fetches the packages, renders the icons, and fills `folder`: pixels, records, split and licences.

    A second run repeats only what is missing; names and colours are always written anew. Raises DataError.
    """
    check_renderer()
    packages = folder / "packages"
    for source in (*sets, LABELS, KEYWORDS):
        fetch(source, packages)
    plan = make_plan(packages, sets)
    try:
        write_licences(folder, (*sets, LABELS, KEYWORDS))
        pixels = _render_all(plan, packages, folder, processes)
        icons = [_describe(index, planned, pixels[index]) for index, planned in enumerate(plan)]
        icons += [
            _redrawn(icon, style) for style, how in DRAWN_STYLES.items() for icon in icons if icon.style == how.of
        ]
        make_split(icons).write(folder / "split.json")
        write_whole(folder / RECORDS, "".join(icon.to_json() + "\n" for icon in icons).encode())
    except OSError as error:
        raise DataError(f"cannot use {folder} ({error}): choose another data folder") from error
    return icons


def make_plan(packages: Path, sets: tuple[IconSet, ...]) -> list[Planned]:
    """All pictures in their order in the cache: by set, then by thing; one for each (set, thing)."""
    things = read_things(packages)
    matcher = Matcher(packages, sets, things)
    return [
        Planned(icon_set, name, things[code])
        for icon_set in sets
        for code, name in matcher.pictures(icon_set, read_json(packages / icon_set.file, "icons.json")).items()
    ]


def _describe(index: int, planned: Planned, picture: NDArray[np.uint8]) -> Icon:
    thing = planned.thing
    return Icon(
        index, planned.source, planned.icon_set.style, thing.label, thing.group, thing.names, colours_of(picture)
    )


def _redrawn(icon: Icon, style: str) -> Icon:
    """The same pixels, which a scene will show in another style."""
    colours = () if DRAWN_STYLES[style].colourless else icon.colours
    return replace(icon, style=style, source=f"{icon.source} in {style} style", colours=colours)


def _render_all(
    plan: Sequence[Planned], packages: Path, folder: Path, processes: int
) -> "np.memmap[Any, np.dtype[np.uint8]]":
    """Renders what is not yet in icons.npy, in the order of the plan. -> all pixels, mapped."""
    path, progress = folder / PIXELS, folder / "progress.json"
    shape = (len(plan), SIZE, SIZE, 4)
    # Names of things may change between two versions of this program without a new rendering: they are not in here.
    mark = hashlib.sha256("\n".join(planned.source for planned in plan).encode()).hexdigest()
    done = _read_progress(progress, mark) if path.is_file() else 0
    if done == 0:
        path.unlink(missing_ok=True)
        (folder / RECORDS).unlink(missing_ok=True)  # of a former plan
    if done < len(plan):
        _check_space(folder, len(plan) - done)
    try:
        pixels = np.lib.format.open_memmap(
            path, mode="r+" if done else "w+", dtype=np.uint8, shape=None if done else shape
        )
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): delete it and run this again") from error
    if pixels.shape != shape:
        raise DataError(f"{path} has another size than {progress} says: delete both and run this again")
    svgs = _svgs(plan, packages, done)
    try:
        with (
            ProcessPoolExecutor(processes, initializer=_prepare_renderer) as pool,
            tqdm(total=len(plan), initial=done, unit="icon", disable=None) as bar,
        ):
            for start in range(done, len(plan), _CHUNK):
                stop = min(start + _CHUNK, len(plan))
                pictures = pool.map(render, [next(svgs) for _ in range(start, stop)])
                for index, picture in zip(range(start, stop), pictures, strict=True):
                    pixels[index] = picture
                    bar.update()
                pixels.flush()
                write_whole(progress, json.dumps({"plan": mark, "done": stop}).encode())
    except BrokenProcessPool as error:
        raise DataError(
            "a renderer was killed: run this again to go on, with --processes 1 if memory is short"
        ) from error
    return pixels


def _prepare_renderer() -> None:
    """Ctrl+C is for the program that waits for this process; when that is killed, this process ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _svgs(plan: Sequence[Planned], packages: Path, start: int) -> Iterator[str]:
    current: IconSet | None = None
    icons: dict[str, Any] = {}
    for planned in plan[start:]:
        if planned.icon_set != current:
            current, icons = planned.icon_set, read_json(packages / planned.icon_set.file, "icons.json")
        yield to_svg(icons, planned.name)


def _check_space(folder: Path, num: int) -> None:
    """Before the work, because a mapped file that finds the disk full ends the program without a word."""
    need, free = num * SIZE * SIZE * 4, shutil.disk_usage(folder).free
    print(f"{num:,} icons need {need / 1e9:.1f} GB in {folder}; {free / 1e9:.1f} GB are free")
    if need + _SPARE > free:
        raise DataError(f"{folder} has {free / 1e9:.1f} GB free and needs {need / 1e9:.1f}: choose another data folder")


def _read_progress(path: Path, mark: str) -> int:
    """How many pictures of this very plan are whole."""
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
        return int(progress["done"]) if progress["plan"] == mark else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
