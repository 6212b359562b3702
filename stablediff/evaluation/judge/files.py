"""The judge on disk: `judge.json` and `judge.safetensors` in float16."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stablediff.checkpoints.locate import ASSETS
from stablediff.errors import EvaluationError
from stablediff.evaluation.judge.network import Judge, JudgeConfig
from stablediff.files import draft_of, write_whole

SETTINGS, WEIGHTS = "judge.json", "judge.safetensors"
BUNDLED_JUDGE = ASSETS / "judge"
_REMEDY = "train one: python -m stablediff evaluate judge configs/judge.toml"


def save_judge(judge: Judge, folder: Path) -> None:
    """Writes both files, each whole or not at all. Raises EvaluationError where the disk is full."""
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in judge.state_dict().items()}
    try:
        with draft_of(folder / WEIGHTS) as draft:
            save_file(tensors, draft)
        settings = json.dumps(asdict(judge.config), ensure_ascii=False, indent=1) + "\n"
        write_whole(folder / SETTINGS, settings.encode())
    except (OSError, SafetensorError) as error:
        raise EvaluationError(f"cannot save the judge to {folder} ({error}): free some space") from error


def take_over(judge: Judge, folder: Path) -> None:
    """Gives `judge` what another one knows: of the last layers the rows of things and styles that both know, and
    all other weights of the same name and shape. Raises EvaluationError.
    """
    with _reading(folder):
        config, given = _read(folder)
    rows = {
        "things": (judge.config.things, config.things),
        f"style.{len(judge.style) - 1}": (judge.config.styles, config.styles),
    }
    for name, own in judge.state_dict().items():
        value = given.get(name)
        if value is None or own.shape[1:] != value.shape[1:]:
            continue
        if kinds := rows.get(name.rpartition(".")[0]):
            mine, theirs = kinds
            for row in (row for row, kind in enumerate(mine) if kind in theirs):
                own[row] = value[theirs.index(mine[row])]
        elif own.shape == value.shape:
            own.copy_(value)


def load_judge(folder: Path) -> Judge:
    """In float32, ready to judge. Raises EvaluationError."""
    with _reading(folder):
        config, weights = _read(folder)
        judge = Judge(config)
        judge.load_state_dict(weights)
    if not all(torch.isfinite(value).all() for value in judge.state_dict().values()):
        raise EvaluationError(f"the judge in {folder} holds NaN or infinity: {_REMEDY}")
    return judge.eval().requires_grad_(requires_grad=False)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Says of whatever is wrong with the files what to do about it. Raises EvaluationError."""
    if not (folder / SETTINGS).is_file():
        raise EvaluationError(f"there is no judge in {folder}: {_REMEDY}, or name its folder with --judge")
    try:
        yield
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise EvaluationError(f"the judge in {folder} cannot be read ({str(error)[:200]}): {_REMEDY}") from error


def _read(folder: Path) -> tuple[JudgeConfig, dict[str, Tensor]]:
    """-> what it tells apart, and its weights in float32."""
    fields = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    config = JudgeConfig(**{name: tuple(value) for name, value in fields.items()})
    if not all(isinstance(name, str) for name in (*config.things, *config.styles)):
        raise TypeError("its names are no text")
    return config, {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
