"""One engine in a fresh process: `python -m stablediff.bench.worker SPEC.json`. Writes what it measured, or why not."""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stablediff.bench.engines import UnableError, engine_class
from stablediff.bench.material import count_flops, make_material, read_material
from stablediff.bench.peaks import measure_peaks
from stablediff.bench.workloads import choose_workloads
from stablediff.diffusion.denoiser import Denoiser, Guidance
from stablediff.diffusion.noise import SeededNoise
from stablediff.diffusion.samplers import euler
from stablediff.diffusion.schedule import NoiseSchedule

_MIDDLE = 500.0  # the timestep of the forward that is compared


@dataclass
class Times:
    """Seconds of every call, in its order."""

    forward: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def of(self, times: list[float], work: Callable[[], Tensor]) -> Tensor:
        start = time.perf_counter()
        out = work()
        times.append(time.perf_counter() - start)
        return out


def main(path: Path) -> None:
    spec = json.loads(path.read_text(encoding="utf-8"))
    (workload,) = choose_workloads(spec["workload"], quick=spec["quick"])
    folder = Path(spec["folder"])
    if spec["task"] == "peaks":
        found: dict[str, Any] = measure_peaks(spec["threads"], quick=spec["quick"])
    elif spec["task"] == "material":
        make_material(workload, folder)
        found = count_flops(read_material(workload, folder))
    elif spec["task"] == "reference":
        found = _reference(spec)
    else:
        found = _measure(spec)
    Path(spec["out"]).write_text(json.dumps(found, indent=1), encoding="utf-8")


def _measure(spec: dict[str, Any]) -> dict[str, Any]:
    (workload,) = choose_workloads(spec["workload"], quick=spec["quick"])
    material = read_material(workload, Path(spec["folder"]))
    if spec["task"] == "convert":
        convert(spec["engine"], material)
        return {"status": "done"}
    kind = engine_class(spec["engine"])  # importing the libraries is no part of the load
    start = time.perf_counter()
    try:
        engine: Any = kind(material, spec["lane"], spec["threads"])
    except UnableError as error:
        return {"status": "unable", "why": str(error)}
    load = time.perf_counter() - start

    times, totals = Times(), []
    outputs: dict[str, Tensor] = {}
    single = hasattr(engine, "forward")
    for _ in range(1 + spec["pictures"]):
        start = time.perf_counter()
        outputs = _draw(engine, material, times) if single else {"picture": engine.picture(seed=0)}
        totals.append(time.perf_counter() - start)
    peak = _peak_rss()  # before what is done for the comparison alone
    if single:
        outputs |= _to_compare(engine, material)
    finite = _save(outputs, spec["outputs"])
    forwards = len(times.forward) // len(totals)
    return {
        "status": "done" if finite else "failed",
        "why": "" if finite else "it gave numbers that are not finite",
        "version": engine.version(),
        "load": load,
        "first": totals[0],
        "warm": totals[1:],
        "forward": times.forward[forwards:],
        "decode": times.decode[1:],
        "forwards": forwards,
        "peak_rss": peak,
    }


def _reference(spec: dict[str, Any]) -> dict[str, Any]:
    """What all others are compared with. Raises ValueError if it is no numbers."""
    (workload,) = choose_workloads(spec["workload"], quick=spec["quick"])
    material = read_material(workload, Path(spec["folder"]))
    engine: Any = engine_class(spec["engine"])(material, spec["lane"], spec["threads"])
    engine.begin()
    outputs = _to_compare(engine, material)
    if spec["draws_whole"]:
        ours: Any = engine_class("stablediff")(material, spec["lane"], spec["threads"])
        outputs["picture"] = ours.picture(seed=0)
    if not _save(outputs, spec["outputs"]):
        raise ValueError(f"{spec['engine']} gave numbers that are not finite")
    return {"engine": spec["engine"]}


def _save(outputs: dict[str, Tensor], path: str) -> bool:
    """-> whether they are all finite."""
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, path)
    return all(bool(torch.isfinite(tensor).all()) for tensor in outputs.values())


@torch.inference_mode()
def _draw(engine: Any, material: Any, times: Times) -> dict[str, Tensor]:
    """The same walk for all: Euler along the same noise levels, from the same noise."""
    config, workload = material.config, material.workload
    engine.begin()

    def network(x: Tensor, t: float, *, with_uncond: bool) -> Tensor:
        rows = x.repeat(2, 1, 1, 1) if with_uncond else x
        return times.of(times.forward, lambda: engine.forward(rows, t))

    guided = len(material.inputs["context"]) == 2
    guidance = Guidance(workload.guidance if guided else 1.0)
    denoise = Denoiser(network, NoiseSchedule(config.schedule), config.schedule.prediction_type, guidance)
    x = material.inputs["latents"] * material.sigmas[0]
    for step in euler(denoise, x, material.sigmas, SeededNoise([0])):
        x = step.x
    if not workload.decodes:
        return {"latents": x}
    return {"latents": x, "decode": times.of(times.decode, lambda: engine.decode(x))}


@torch.inference_mode()
def _to_compare(engine: Any, material: Any) -> dict[str, Tensor]:
    """A forward and a decoding of what all are given, so that no error of before adds to them."""
    latents = material.inputs["latents"]
    rows = len(material.inputs["context"])
    compared = {"forward": engine.forward(latents.repeat(rows, 1, 1, 1), _MIDDLE)}
    return {**compared, "decode": engine.decode(latents)} if material.workload.decodes else compared


def convert(name: str, material: Any) -> None:
    """What an engine makes of the model once and keeps, so that it is no part of its load and memory."""
    if name == "openvino":
        from stablediff.bench.engines.openvino_ import converted

        converted(material)


def _peak_rss() -> int:
    """Bytes. Not of getrusage, which on Linux still counts what this process was before it became itself."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
