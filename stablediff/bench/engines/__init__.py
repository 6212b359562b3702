"""Who takes part: one file an engine. An engine does the same forwards and the same decoding as all others."""

import importlib
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stablediff.bench.material import Material


class Loaded(Protocol):
    """`__init__` loads; it raises UnableError for a workload that is none for this engine."""

    def __init__(self, material: Material, lane: str, threads: int) -> None: ...

    def version(self) -> str: ...


class Engine(Loaded, Protocol):
    """One that can be asked for single forwards. Everything in and out is float32, on the CPU."""

    def begin(self) -> None:
        """A picture starts: what is computed once for all its steps, is computed here."""
        ...

    def forward(self, x: Tensor, t: float) -> Tensor:
        """x (rows,L,h,w) -> (rows,L,h,w)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(1,L,h,w) of unit variance -> (1,C,H,W)."""
        ...


class Painter(Loaded, Protocol):
    """One that only draws whole pictures, from a prompt and a seed."""

    def picture(self, seed: int) -> Tensor:
        """-> (1,3,H,W) in [-1, 1]."""
        ...


@dataclass(frozen=True)
class Entry:
    """Where an engine is, what it needs installed, how it is named in tables, and in which precisions it computes."""

    module: str
    needs: tuple[str, ...]
    title: str
    lanes: tuple[str, ...] = ("float32", "bfloat16")


ENGINES = {
    "stablediff": Entry("ours:Ours", (), "stablediff", ("float32", "bfloat16", "int8")),
    "diffusers": Entry("diffusers_:Stock", ("diffusers",), "diffusers, stock"),
    "diffusers-tuned": Entry("diffusers_:Tuned", ("diffusers",), "diffusers, channels-last, torch.compile"),
    "openvino": Entry("openvino_:OpenVino", ("diffusers", "openvino"), "OpenVINO"),
    "sd.cpp": Entry("sdcpp:SdCpp", ("stable_diffusion_cpp",), "stable-diffusion.cpp", ("float32", "int8")),
    "sd.cpp-flash": Entry(
        "sdcpp:Flash", ("stable_diffusion_cpp",), "stable-diffusion.cpp, flash attention", ("float32", "int8")
    ),
}


def engine_class(name: str) -> type[Engine] | type[Painter]:
    module, _, attribute = ENGINES[name].module.partition(":")
    found: type[Engine] | type[Painter] = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return found


class UnableError(Exception):
    """This engine cannot do this workload; the text says why, and stands in the report."""
