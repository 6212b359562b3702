"""Networks without memory of their own -> networks with a checkpoint's tensors, strictly and one at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stablediff.checkpoints import layouts
from stablediff.checkpoints.layouts import Source
from stablediff.checkpoints.progress import Progress, silent
from stablediff.checkpoints.tensors import TensorSource
from stablediff.config import ModelConfig
from stablediff.device import Compute
from stablediff.errors import CheckpointError

ConfigT = TypeVar("ConfigT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)

KIND_NAMES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "custom": "Stable Diffusion of its own size",
}


@dataclass(frozen=True)
class LoadReport:
    """What was found, for the user to read."""

    kind: str
    path: Path
    stored_dtype: str
    dropped: tuple[str, ...] = ()


class NoInit(TorchFunctionMode):
    """Skips the random initialisation of weights that are about to be replaced (on "meta" it even takes seconds)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


@dataclass
class Builder:
    """Builds networks without memory of their own, fills them, and keeps the books."""

    compute: Compute
    dropped: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    progress: Progress = silent
    expected: int = 0  # numbers of all networks together
    filled: int = 0
    stored: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def build(network: Callable[[ConfigT], ModuleT], config: ConfigT) -> ModuleT:
        try:
            with torch.device("meta"), NoInit():
                return network(config).eval().requires_grad_(False)
        except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError) as error:
            raise CheckpointError(
                f"the sizes of this {network.__name__} do not fit together ({str(error)[:200]}): the model may be "
                "damaged, get it again."
            ) from error

    def expect(self, *networks: nn.Module) -> None:
        """What will be filled, so that progress can be told as a share of it."""
        self.expected = sum(parameter.numel() for network in networks for parameter in network.state_dict().values())

    def fill(
        self,
        module: nn.Module,
        tensors: TensorSource,
        find: Callable[[str], Source | None],
        *,
        used: Iterable[str],
        what: str,
        dtype: torch.dtype,
        dropped: Iterable[str],
    ) -> None:
        """Gives every parameter its tensor. Strict: nothing may be missing, misshapen, or left over unexplained."""
        state: dict[str, Tensor] = {}
        missing, misshapen, taken = [], [], set()
        for name, parameter in module.state_dict().items():
            source = find(name)
            if source is None or source.key not in tensors.shapes:
                missing.append(name)
                continue
            taken.add(source.key)
            self.stored[tensors.dtypes[source.key]] = self.stored.get(tensors.dtypes[source.key], 0) + 1
            if not _fits(tensors.shapes[source.key], source, parameter.shape):
                misshapen.append(f"{source.key} {list(tensors.shapes[source.key])}, not {list(parameter.shape)}")
                continue
            state[name] = tensors.read(source.key, self._converter(source, parameter.shape, dtype))
            self.filled += parameter.numel()
            self.progress("loading", self.filled / max(self.expected, self.filled))
        left = [key for key in used if key not in taken]
        unknown = [key for key in left if not layouts.is_dropped(key, dropped)]
        if missing or misshapen or unknown:
            raise CheckpointError(
                f"{what} does not hold the model that it should: {_first(missing, misshapen, unknown)}"
            )
        self.dropped += left
        self.used |= taken
        module.load_state_dict(state, strict=True, assign=True)

    def account_for_rest(self, tensors: TensorSource, what: str) -> None:
        known = self.used | set(self.dropped)
        rest = [key for key in tensors.shapes if key not in known]
        unknown = [key for key in rest if not layouts.is_dropped(key, layouts.LDM_DROPPED)]
        if unknown:
            raise CheckpointError(f"{what} is not the model it should be: {_first([], [], unknown)}")
        self.dropped += rest

    def _converter(self, source: Source, shape: torch.Size, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        def convert(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                raise CheckpointError(
                    f"{source.key} holds {tensor.dtype} numbers, which are not weights: get it again."
                )
            if source.third is not None:
                tensor = tensor.chunk(3)[source.third]
            if source.transposed:
                tensor = tensor.T
            if tensor.shape != shape:
                tensor = tensor.reshape(shape)
            device = tensor.device if tensor.is_meta else self.compute.device
            if tensor.ndim == 4:  # convolutions are fastest with channels last
                return tensor.to(device, dtype, memory_format=torch.channels_last)
            return tensor.to(device, dtype).contiguous()

        return convert

    def report(self, config: ModelConfig, path: Path) -> LoadReport:
        stored = max(self.stored, key=lambda name: self.stored[name]) if self.stored else "unknown"
        return LoadReport(KIND_NAMES[config.kind], path, stored, tuple(sorted(self.dropped)))


def _fits(stored: tuple[int, ...], source: Source, wanted: torch.Size) -> bool:
    """Equal but for trailing ones: LDM's 1x1 convolutions are our linear layers, and the other way round."""
    shape = list(stored)
    if source.third is not None and shape:
        shape[0] //= 3
    if source.transposed:
        shape.reverse()

    def core(s: list[int]) -> list[int]:
        return s[:2] if len(s) == 4 and s[2:] == [1, 1] else s

    return core(shape) == core(list(wanted))


def _first(missing: list[str], misshapen: list[str], unknown: list[str]) -> str:
    found = []
    for what, names in (("lacks", missing), ("wrong shape:", misshapen), ("unknown:", unknown)):
        if names:
            found.append(f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
    return "; ".join(found) + ". The file may be damaged or of another kind: get it again."
