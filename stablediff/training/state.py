"""A run's state on disk: weights, their average, the optimiser's memory and the step, in one file, atomically.

There is nothing else to keep: batches and noise are functions of the step.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from stablediff.checkpoints.locate import RESULT, STATE
from stablediff.errors import ConfigError
from stablediff.files import DRAFT
from stablediff.training.average import Average
from stablediff.training.distributed import is_main, like, whole


def check_result_place(place: Path) -> None:
    """Raises ConfigError where a result could not stay. What killed runs left beside it is removed."""
    for parent in place.absolute().parents:
        if parent.name == RESULT and (parent.parent / STATE).is_file():
            raise ConfigError(f"{place.parent} lies in {parent}, which its run replaces: choose another --out")
    if place.exists() and not place.is_dir():
        raise ConfigError(f"{place} is a file, and the result is to be there: move it away, or choose another --out")
    if is_main():
        for left in place.parent.glob(f"{DRAFT}*"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def save_state(
    folder: Path, module: nn.Module, average: Average, optimizer: optim.Optimizer, progress: dict[str, float]
) -> None:
    """Replaces the former state in one step; killed at any moment, a whole state is left. Raises OSError."""
    tensors: dict[str, Tensor] = {f"weights.{name}": p for name, p in average.parameters.items()}
    tensors |= {f"average.{name}": value for name, value in average.values.items()}
    tensors |= {f"buffers.{name}": value for name, value in module.named_buffers()}
    for name, parameter in average.parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    complete = {name: whole(t.detach()).cpu().contiguous() for name, t in tensors.items()}
    if not is_main():
        return
    # Of runs that were killed while they saved: our drafts, and those that safetensors makes beside them.
    for left in (*folder.glob(f".{STATE}.*"), *folder.glob(".tmp??????")):
        left.unlink(missing_ok=True)
    draft = folder / f".{STATE}.{os.getpid()}"
    try:
        save_file(complete, draft, metadata={"progress": json.dumps(progress), "optimizer": _name(optimizer)})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(folder / STATE)
    except SafetensorError as error:  # what the library says of a full disk
        raise OSError(f"{error}") from error
    finally:
        draft.unlink(missing_ok=True)


@torch.no_grad()
def load_state(folder: Path, module: nn.Module, average: Average, optimizer: optim.Optimizer) -> tuple[int, float]:
    """Fills all in from `folder`. -> its step, and the seconds that it took to get there.

    Raises ConfigError if the state is of another network or optimiser.
    """
    path = folder / STATE
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            metadata = file.metadata() or {}
            progress = json.loads(metadata["progress"])
            step, seconds = int(progress["step"]), float(progress["seconds"])
            if step < 0:
                raise ValueError(f"step {step}")
            if metadata.get("optimizer", _name(optimizer)) != _name(optimizer):
                raise ConfigError(
                    f"{path} has the memory of {metadata['optimizer']}, not of {_name(optimizer)}: change the config "
                    "back, or choose another folder"
                )
            buffers = dict(module.named_buffers())
            expected = {f"weights.{name}" for name in average.parameters} | {f"buffers.{name}" for name in buffers}
            if {name for name in names if name.startswith(("weights.", "buffers."))} != expected:
                raise ConfigError(f"{path} belongs to other networks: change the config back, or choose another folder")
            for name, parameter in average.parameters.items():
                _fill(parameter, file.get_tensor(f"weights.{name}"), path, name)
                _fill(average.values[name], file.get_tensor(f"average.{name}"), path, name)
            for name, buffer in buffers.items():
                _fill(buffer, file.get_tensor(f"buffers.{name}"), path, name)
            by_parameter: dict[str, dict[str, Any]] = {}
            for name in sorted(names):
                if name.startswith("optimizer."):
                    _, key, parameter_name = name.split(".", 2)
                    by_parameter.setdefault(parameter_name, {})[key] = file.get_tensor(name)
        for name, memory in by_parameter.items():
            parameter = average.parameters[name]
            optimizer.state[parameter] = {key: _placed(value, parameter, optimizer) for key, value in memory.items()}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"cannot read {path} ({error}): remove it to start this run anew") from error
    return step, seconds


def _placed(value: Tensor, parameter: Tensor, optimizer: optim.Optimizer) -> Tensor:
    """A moment lies as its parameter does. A counter is on the CPU, or with a fused optimiser beside the weights."""
    if value.ndim == 0 and optimizer.defaults.get("fused"):
        return value.to(parameter.device)
    return like(value, parameter)


def _name(optimizer: optim.Optimizer) -> str:
    """As in the config."""
    return type(optimizer).__name__.lower()


def _fill(target: Tensor, value: Tensor, path: Path, name: str) -> None:
    if target.shape != value.shape:
        raise ConfigError(
            f"{path}: {name} is {tuple(value.shape)} there and {tuple(target.shape)} in the config: "
            "change the config back, or choose another folder"
        )
    target.copy_(like(value, target))
