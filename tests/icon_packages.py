"""Tiny packages in the shape of the real icon sets, and an npm that hands them out."""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from stablediff.training.data.sources import ICON_SETS, KEYWORDS, LABELS, Source

# Three styles: one set that lists code points, one that has names alone, and fxemoji with its own names.
SETS = tuple(s for s in ICON_SETS if s.style in ("flat", "classic", "simple"))

THINGS = [  # code, English label and tags, Russian label and tags, group, subgroup
    ("1F34E", "red apple", ["fruit", "ringo"], "красное яблоко", ["яблоко", "спелый"], 4, 42),
    ("1F408", "cat", ["pet", "feline", "mouser"], "кошка", ["питомец"], 3, 34),
    ("1F431", "cat face", ["pet"], "морда кошки", [], 3, 34),
    ("1F415", "dog", ["pet"], "собака", [], 3, 34),
    ("2602-FE0F", "umbrella", ["rain"], "зонт", [], 5, 59),
    ("1F511", "key", ["lock"], "ключ", [], 7, 77),
    ("1F1EB-1F1F7", "flag: France", [], "флаг: Франция", [], 9, 98),
    ("0031-FE0F-20E3", "keycap: 1", [], "клавиша: 1", [], 8, 94),
    ("1F3C3-200D-27A1-FE0F", "person running: facing right", [], "бежит: , направленные вправо", [], 1, 27),
]
GROUPS = {1: "people-body", 3: "animals-nature", 4: "food-drink", 5: "travel-places"}
GROUPS |= {7: "objects", 8: "symbols", 9: "flags"}
SUBGROUPS = {27: "person-activity", 34: "animal-mammal", 42: "food-fruit", 59: "sky-weather"}
SUBGROUPS |= {77: "lock", 94: "keycap", 98: "country-flag"}


def disc(colour: str, more: str = "") -> str:
    return f'<circle cx="8" cy="8" r="7" fill="{colour}"/>{more}'


# The right half of an arrow, to be told from its mirror image.
ARROW = '<path fill="#000" d="M8 0h8v16h-8z"/>'
FLAT = {
    "red-apple": disc("#dd2e44"),
    "cat": disc("#ffcc4d"),
    "cat-face": disc("#ffcc4d"),
    "key": ARROW,
    "letter-a": ARROW,
}
CLASSIC = {"red-apple": disc("#ee3333"), "dog": disc("#c1694f"), "umbrella": disc("#744eaa"), "flag-for-france": ARROW}
SIMPLE = {
    "redapple": disc("#ff473e"),
    "cat": disc("#fdd"),
    "catside": disc("#ffb636"),
    "dogside": disc("#a57"),
    "fog": ARROW,
}


def files(source: Source) -> dict[str, Any]:
    """Member -> content of one package."""
    if source == LABELS:
        return _labels()
    if source == KEYWORDS:
        return {"dist/emoji-en-US.json": {"🍎": ["red_apple", "fruit", "ringo"], "🐈": ["cat", "feline", "mouser"]}}
    style = {s.package: s.style for s in SETS}[source.package]
    icons = {"flat": FLAT, "classic": CLASSIC, "simple": SIMPLE}[style]
    aliases: dict[str, Any] = {"house-cat": {"parent": "cat"}, "yek": {"parent": "key", "hFlip": True}}
    return {
        "icons.json": {
            "prefix": source.file,
            "width": 16,
            "height": 16,
            "icons": {name: {"body": body} for name, body in icons.items()},
            "aliases": aliases if style == "flat" else {},
        },
        "chars.json": {"1f34e": "red-apple", "1f408": "cat", "1f511": "key"} if style == "flat" else {},
    }


def _labels() -> dict[str, Any]:
    content: dict[str, Any] = {
        "en/messages.json": {
            "groups": [{"order": order, "key": key} for order, key in GROUPS.items()],
            "subgroups": [{"order": order, "key": key} for order, key in SUBGROUPS.items()],
        },
        "en/data.json": [
            {"hexcode": code, "label": label, "tags": tags, "group": group, "subgroup": subgroup, "order": order}
            for order, (code, label, tags, _, _, group, subgroup) in enumerate(THINGS)
        ],
        "ru/data.json": [{"hexcode": code, "label": label, "tags": tags} for code, _, _, label, tags, _, _ in THINGS],
    }
    tables = ("cldr", "emojibase", "github", "iamcal", "joypixels", "emojibase-legacy")
    content |= {f"en/shortcodes/{table}.json": {} for table in tables}
    content["en/shortcodes/github.json"] = {"1F34E": "apple", "1F408": ["cat2", "kitty"], "1F431": "cat"}
    return content


def write_package(source: Source, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / source.file, "w:gz") as archive:
        for name, content in files(source).items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return folder / source.file


def write_packages(folder: Path) -> None:
    for source in (*SETS, LABELS, KEYWORDS):
        write_package(source, folder)


NPM = """#!{python}
import pathlib, shutil, sys
with open({log!r}, "a") as stream:
    print(*sys.argv[1:3], file=stream)
name, _, version = sys.argv[2].rpartition("@")
file = name.lstrip("@").replace("/", "-") + "-" + version + ".tgz"
try:
    shutil.copy(pathlib.Path({shelf!r}, file), sys.argv[sys.argv.index("--pack-destination") + 1])
except FileNotFoundError:
    sys.exit("npm error code ENOTFOUND\\nnpm error network request failed\\nnpm error A complete log is in x")
"""


def install_npm(folder: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only program on the PATH is an npm that copies from `shelf`. -> its log, a line for each call."""
    (folder / "bin").mkdir()
    program, log = folder / "bin" / "npm", folder / "npm.log"
    program.write_text(NPM.format(python=sys.executable, shelf=str(shelf), log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    log.touch()
    return log
