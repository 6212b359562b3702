"""How a training run is told what to do: a TOML file -> a frozen dataclass, strictly."""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from stablediff.errors import ConfigError

T = TypeVar("T")
_LARGEST_BATCH = 2**20


@dataclass(frozen=True)
class LoopConfig:
    """What all stages share. Batches and rates are for all processes together.

    `micro_batch` rows go through the networks at a time, and their gradients add up to the batch's; only the text
    encoder's contrast is then one among so few rows.
    """

    steps: int
    batch_size: int
    learning_rate: float
    micro_batch: int | None = None
    optimizer: Literal["adamw", "muon", "radam", "adafactor", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 200
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: float = 1.0
    # The average's time constant is at most 1 / (1 - ema_decay) steps.
    ema_decay: float = 0.999
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = 0
    save_minutes: float = 5.0
    log_steps: int = 20
    sheet_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "save_minutes", "log_steps", "sheet_steps"):
            _check(0 < getattr(self, name) < math.inf, name, getattr(self, name), "more than 0")
        _check(self.batch_size <= _LARGEST_BATCH, "batch_size", self.batch_size, f"at most {_LARGEST_BATCH:,}")
        _check(self.micro_batch is None or self.micro_batch > 0, "micro_batch", self.micro_batch, "more than 0")
        _check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "0 to less than 1")
        for name in ("clip_norm", "weight_decay", "warmup_steps", "seed"):
            _check(0 <= getattr(self, name) < 2**63, name, getattr(self, name), "0 or more")
        _check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "betas",
            self.betas,
            "two numbers from 0 to less than 1",
        )


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises ConfigError; infinity and NaN are in no range."""
    allowed = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
    _check(low <= value <= high and math.isfinite(value), name, value, allowed)


def _check(good: bool, name: str, value: object, allowed: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {value}: choose {allowed}")


def read_table(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no config file {path}: the ready ones are in configs/ of the project") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}. Mend the file; the ready ones are in configs/") from error


def override(table: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """`loop.steps=100` -> the table with that entry replaced; values are written as in TOML."""
    result = dict(table)
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"{setting!r} is not a setting: write it as name=value, such as loop.steps=100")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word is a string
        except (ValueError, RecursionError) as error:  # thousands of digits or brackets
            raise ConfigError(f"{name} cannot be read: write a shorter value") from error
        *path, last = name.strip().split(".")
        inner = result
        for part in path:
            former = inner.get(part, {})
            if not isinstance(former, dict):
                raise ConfigError(f"{setting} cannot be set: {part} is {former!r}, and no table")
            inner[part] = dict(former)
            inner = inner[part]
        inner[last] = value
    return result


def from_table(kind: type[T], table: dict[str, Any], where: str = "") -> T:
    """A TOML table -> `kind`, field by field: no unknown names, no wrong types, nothing that is missing."""
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    for name in table:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known here: {', '.join(hints)}"
            raise ConfigError(f"{where}{name} is not known: {advice}")
    values = {name: _convert(hints[name], value, f"{where}{name}") for name, value in table.items()}
    for entry in dataclasses.fields(kind):
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and entry.name not in values:
            raise ConfigError(f"{where}{entry.name} is missing: write it into the file")
    return kind(**values)


def _path(text: str, where: str) -> Path:
    if not text:
        raise ConfigError(f"{where} is empty: name a file or folder, or leave it away")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{where} is {text}, and there is no such user here: check the name") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}: it must be a table, [{where}]")
        return from_table(hint, value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = next(a for a in arguments if a is not type(None))
        return _convert(inner, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where} is {value!r}: choose one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}: it must be a list")
        return tuple(_convert(arguments[0], v, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}: it must be a table")
        return {str(k): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{where} is too large: choose a number that a float can hold") from error
    if hint is Path and isinstance(value, str):
        return _path(value, where)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {value!r}: it must be {getattr(hint, '__name__', hint)}")
    return value
