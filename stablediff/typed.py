"""What stands on a command line -> values. What is none raises argparse.ArgumentTypeError, which is told in a line."""

import argparse
from pathlib import Path

from stablediff.errors import RequestError
from stablediff.request import parse_interval, parse_size


def file(text: str) -> Path:
    return _path(text, "file", "photo.png")


def folder(text: str) -> Path:
    return _path(text, "folder", "runs/mine")


def _path(text: str, what: str, example: str) -> Path:
    """Of an empty name Python would make the current folder."""
    if not text:
        raise argparse.ArgumentTypeError(f"an empty name is no {what}: write one, as {example}")
    return Path(text)


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number (or has too many digits)") from error


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from error


def interval(text: str) -> tuple[float, float]:
    try:
        return parse_interval(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def lora(text: str) -> tuple[str, float]:
    """FILE or FILE:SCALE; a colon with no number behind it is a part of the name."""
    name, colon, scale = text.rpartition(":")
    try:
        return (name, float(scale)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0
