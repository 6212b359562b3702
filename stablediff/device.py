"""Where to compute and in which precision: decided once, and explained in a sentence."""

import time
from dataclasses import dataclass
from functools import cache

import torch

from stablediff.errors import DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Compute:
    """A device, the precision of the networks on it, and why."""

    device: torch.device
    dtype: torch.dtype
    reason: str
    int8: bool = False  # the U-Net's large products, by models/int8.py

    @property
    def name(self) -> str:
        """What the user asks for to have it, as "bfloat16"."""
        return "int8" if self.int8 else _name(self.dtype)

    def vae_dtype(self, force_upcast: bool) -> torch.dtype:
        """The autoencoder's precision: some overflow in float16."""
        if self.dtype != torch.float16 or not force_upcast:
            return self.dtype
        return torch.bfloat16 if self.device.type == "cuda" and computes_bfloat16(self.device) else torch.float32


def computes_bfloat16(device: torch.device) -> bool:
    """Of a CUDA device: itself, and not by other numbers, which is slower than float32 and takes more memory."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def choose_compute(device: str | None = None, dtype: str | None = None) -> Compute:
    """The best device here (or the one asked for) and the fastest precision that is safe on it.

    Raises DeviceError for a device that is not there, or a precision that it does not compute.
    """
    chosen = _device(device)
    best, reason = _best_dtype(chosen)
    if dtype is None or dtype == "auto":
        return Compute(chosen, best, reason)
    name = DTYPE_ALIASES.get(dtype, dtype)
    if name == "int8":
        if chosen.type != "cpu" or not cpu_computes_int8():
            raise DeviceError("int8 is for CPUs with instructions for it (AVX-VNNI or AVX512-VNNI): leave --dtype away")
        return Compute(chosen, best, f"{_describe(chosen)}, the U-Net in int8, the rest in {_name(best)}", int8=True)
    if name not in DTYPES:
        raise DeviceError(f"dtype {dtype!r} is not known: choose one of {', '.join(DTYPES)}, int8, or auto")
    if chosen.type == "cpu" and name == "float16":
        raise DeviceError(
            "float16 is hundreds of times slower than float32 on a CPU: leave --dtype away (a float16 checkpoint is "
            "converted while it loads), or choose float32 or bfloat16"
        )
    asked = f"{name} as asked for"
    if chosen.type == "cpu" and name == "bfloat16" and best != torch.bfloat16:
        asked += f", though this CPU {_why_not_bfloat16()}"
    return Compute(chosen, DTYPES[name], f"{_describe(chosen)}, {asked}")


def _device(name: str | None) -> torch.device:
    if name is None or name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(f"device {name!r} is not known: choose auto, cpu, cuda, cuda:0 or mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type)
    if available is None:
        raise DeviceError(f"device {name!r} is not supported: choose auto, cpu, cuda or mps")
    if not available:
        raise DeviceError(f"there is no device {name!r} on this machine: choose auto or cpu")
    return device


def _best_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    where = _describe(device)
    if device.type == "cuda":
        return torch.float16, f"{where}, float16 (half the memory, full speed of its matrix units)"
    if device.type == "mps":
        return torch.float16, f"{where}, float16 (half of the shared memory)"
    if bfloat16_pays():
        return torch.bfloat16, f"{where}, bfloat16 (this CPU computes it faster than float32)"
    return torch.float32, f"{where}, float32 (bfloat16: this CPU {_why_not_bfloat16()})"


def bfloat16_pays() -> bool:
    """Whether the CPU has instructions for bfloat16 products, and they are faster than those for float32."""
    return cpu_computes_bfloat16() and _bfloat16_is_faster()


def cpu_computes_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 products; without them it would be several times slower."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def has_matrix_unit() -> bool:
    """Whether the CPU multiplies whole tiles (AMX)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


_CLEARLY = 1.2  # times faster: in the middle between half and twice as fast, so that no noise makes the choice


@cache
def _bfloat16_is_faster() -> bool:
    """By trying, in some hundredths of a second, because the instructions alone do not tell: AMD's Zen 4 and 5 multiply
    twice as fast with them, Intel's matrix units six times, and Intel's cores half as fast where the units are hidden
    from a virtual machine."""
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    side = 640
    matrices = {dtype: torch.full((side, side), 1 / side, dtype=dtype) for dtype in seconds}
    for _ in range(8):  # the fastest counts: the first lays things out, and others may be at work on this machine
        for dtype, matrix in matrices.items():
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return _CLEARLY * seconds[torch.bfloat16] < seconds[torch.float32]


def _why_not_bfloat16() -> str:
    return "multiplies it no faster than float32" if cpu_computes_bfloat16() else "only emulates it, slowly"


def cpu_computes_int8() -> bool:
    """Whether the CPU multiplies eight-bit numbers at twice the speed of bfloat16, and torch can let it."""
    has = torch.cpu.get_capabilities()
    vnni = has.get("avx512_vnni") or has.get("avx_vnni") or has.get("amx_int8")
    return bool(vnni) and hasattr(torch.ops.onednn, "qconv_pointwise")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU with {threads} thread{'s' if threads != 1 else ''}"
