"""What to do when numbers overflow or memory runs out: never a black picture, never a crash without a word."""

import gc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stablediff.errors import NumericalError

_WIDER = {torch.float16: torch.bfloat16, torch.bfloat16: torch.float32}
# What others than CUDA's allocator say, as plain RuntimeErrors: the CPU's on Linux and Windows, Apple's, and libraries.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "Invalid buffer size",
)


class NotFiniteError(Exception):
    """A part produced NaN or infinity (at a sampling step, if there is one)."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step


def dtype_of(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


class Precisions:
    """Parts that overflow go on in a wider precision, and stay there if it helps: the model needs it.

    If not even float32 helps, the request is to blame, and all parts are as before, to the bit.
    """

    def __init__(self) -> None:
        self._before: dict[nn.Module, tuple[torch.dtype, dict[str, Tensor]]] = {}

    def widen(self, parts: Sequence[nn.Module], stage: str, step: int | None) -> str:
        """float16 -> bfloat16 -> float32, and a note for the user; from float32 on, NumericalError."""
        dtype = dtype_of(parts[0])
        where = f"stage {stage}" + (f", step {step}" if step else "")
        if dtype not in _WIDER:
            self._undo()
            raise NumericalError(
                f"the model gave numbers that are not finite ({where}, in {_name(dtype)}): try less guidance, smaller "
                "prompt weights or another sampler; if that does not help, the checkpoint is damaged"
            )
        for part in parts:
            # bfloat16 has fewer digits than float16, and would lose them.
            exact = {n: t.cpu() for n, t in part.state_dict().items()} if dtype == torch.float16 else {}
            self._before.setdefault(part, (dtype, exact))
            part.to(_WIDER[dtype])
        return f"{_name(dtype)} overflowed ({where}), so that part was done again in {_name(_WIDER[dtype])}"

    def _undo(self) -> None:
        for part, (dtype, exact) in self._before.items():
            part.to(dtype)
            if exact:
                part.load_state_dict(exact)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in _NO_MEMORY)


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
