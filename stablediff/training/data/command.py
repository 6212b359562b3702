"""`python -m stablediff train data`: fetches, renders and names the icons to learn from."""

import argparse
from collections import Counter
from pathlib import Path

from stablediff import typed
from stablediff.errors import DataError
from stablediff.training.data.cache import build

DEFAULT_FOLDER = Path("runs/data")


def add_data_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("data", help="fetch the icons to learn from and render them (10 GB)")
    command.set_defaults(run=_run)
    command.add_argument(
        "--folder", type=typed.folder, default=DEFAULT_FOLDER, help=f"where to keep them (default: {DEFAULT_FOLDER})"
    )
    command.add_argument("--processes", type=int, default=2, metavar="N", help="renderers at a time (default: 2)")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.processes < 1:
        raise DataError(f"--processes {arguments.processes}: it must be 1 or more")
    icons = build(arguments.folder, arguments.processes)
    styles = Counter(icon.style for icon in icons)
    print(f"{len(icons):,} pictures of {len({icon.thing for icon in icons}):,} things in {arguments.folder}")
    print(", ".join(f"{style} {count:,}" for style, count in styles.items()))
    return 0
