"""Tensors by name from the weight files of one network, read one at a time."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stablediff.errors import CheckpointError

_PICKLES = {".ckpt", ".pt", ".pth", ".bin"}
_REMAP_BYTES = 64 * 2**20


class TensorSource(Protocol):
    """Names, shapes, and the tensors themselves on demand."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    def read(self, name: str, convert: Callable[[Tensor], Tensor]) -> Tensor: ...


def open_tensors(files: Sequence[Path], *, allow_pickle: bool = False) -> TensorSource:
    """Opens safetensors files, or one pickle if that is allowed. Raises CheckpointError with a remedy."""
    pickles = [file for file in files if file.suffix.lower() in _PICKLES]
    if not pickles:
        return SafetensorsSource(files)
    if not allow_pickle:
        raise CheckpointError(
            f"{pickles[0]} is a Python pickle, and opening a pickle can run code that its author put in. Take the "
            ".safetensors version of this model; or, if you trust its author, allow it: --allow-pickle on the command "
            "line, allow_pickle=True in Python (even then only tensors are read, never code)."
        )
    return PickleSource(pickles)


class SafetensorsSource:
    """Memory-mapped: a tensor that needs no conversion is used where it lies in the file's mapping.

    One that does is read through a short-lived second mapping, because pages once read through a mapping count as this
    process's memory until it goes away.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self._file_of: dict[str, Path] = {}
        self._mappings: dict[Path, Any] = {}
        self._passing: tuple[Path, Any] | None = None
        self._passed_bytes = 0
        for file in files:
            self._mappings[file] = mapping = _map(file)
            self.metadata |= mapping.metadata() or {}
            for name in mapping.keys():  # noqa: SIM118 (not a dictionary)
                view = mapping.get_slice(name)
                self.shapes[name], self.dtypes[name] = tuple(view.get_shape()), view.get_dtype()
                self._file_of[name] = file

    def read(self, name: str, convert: Callable[[Tensor], Tensor]) -> Tensor:
        """The tensor after `convert`, which returns its argument itself when there is nothing to do."""
        file = self._file_of[name]
        try:
            lasting = self._mappings[file].get_tensor(name)
            if lasting.is_meta or _is_noop(convert, lasting):
                return lasting
            if self._passing is None or self._passing[0] != file or self._passed_bytes > _REMAP_BYTES:
                self._passing, self._passed_bytes = (file, _map(file)), 0
            passing: Tensor = self._passing[1].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"cannot read {name} from {file}: {error}. Download the file again.") from error
        self._passed_bytes += passing.nbytes
        out = convert(passing)
        return out.clone() if out.untyped_storage().data_ptr() == passing.untyped_storage().data_ptr() else out


def _is_noop(convert: Callable[[Tensor], Tensor], tensor: Tensor) -> bool:
    """Whether `convert` leaves such a tensor alone, tried without touching its bytes."""
    likeness = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return convert(likeness) is likeness


def _map(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({error}). It may have been cut off while it was copied: "
            f"get it again (it has {file.stat().st_size:,} bytes here)."
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error


class PickleSource:
    """A `.ckpt` read with `weights_only`: tensors and plain containers, nothing that could run."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._tensors: dict[str, Tensor] = {}
        for file in files:
            try:
                loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
            except Exception as error:  # pickles fail in many ways, and torch's words advise to trust them
                raise CheckpointError(
                    f"cannot read {file} as plain tensors: it is damaged, no checkpoint, or holds what could run code, "
                    "which is never done here. Take the .safetensors version of this model."
                ) from error
            state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
            if not isinstance(state, dict):
                raise CheckpointError(
                    f"{file} holds no table of named tensors: take the .safetensors version of this model."
                )
            self._tensors.update({str(k): v for k, v in state.items() if isinstance(v, Tensor)})
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in self._tensors.items()}

    def read(self, name: str, convert: Callable[[Tensor], Tensor]) -> Tensor:
        return convert(self._tensors[name])
