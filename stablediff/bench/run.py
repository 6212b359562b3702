"""Runs engines one after the other, each in a process of its own, and keeps every result as soon as it is there."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stablediff.bench.engines import ENGINES
from stablediff.bench.material import is_made
from stablediff.bench.workloads import Say, Workload
from stablediff.device import cpu_computes_bfloat16
from stablediff.errors import RequestError
from stablediff.files import write_whole
from stablediff.version import __version__


@dataclass(frozen=True)
class Settings:
    """`pictures` warm ones follow a cold one in each of `rounds` processes; the order of engines alternates."""

    out: Path
    workloads: tuple[Workload, ...]
    engines: tuple[str, ...]
    lanes: tuple[str, ...]
    threads: int
    quick: bool = False
    rounds: int = 2
    pictures: int = 3

    def about(self) -> dict[str, Any]:
        """What must be equal for results to stand side by side."""
        kept = {"quick": self.quick, "threads": self.threads, "rounds": self.rounds, "pictures": self.pictures}
        return {**kept, "stablediff": __version__, "torch": torch.__version__}


# What there is in a result that was measured, and in the count of the work.
_MEASURED = ("version", "load", "first", "warm", "forward", "decode", "forwards", "peak_rss")
_COUNTED = ("forward", "decode")


@dataclass(frozen=True)
class Turn:
    """One engine's process."""

    workload: Workload
    engine: str
    lane: str
    round: int

    def path(self, out: Path) -> Path:
        return out / self.workload.name / f"{self.engine}-{self.lane}-{self.round}.json"

    def outputs(self, out: Path) -> Path:
        return self.path(out).with_suffix(".safetensors")


def turns(settings: Settings) -> Iterator[Turn]:
    """Rounds go to and fro, so that a machine that gets warmer, or busier, is unfair to nobody."""
    for workload in settings.workloads:
        for number in range(settings.rounds):
            order = [
                (lane, engine)
                for lane in settings.lanes
                for engine in settings.engines
                if lane in ENGINES[engine].lanes
            ]
            for lane, engine in order if number % 2 == 0 else reversed(order):
                yield Turn(workload, engine, lane, number)


def run(settings: Settings, say: Say) -> None:
    """Leaves a JSON file a turn under `settings.out`. What is there already is not done again."""
    for workload in settings.workloads:
        _check_settings(settings, settings.out / workload.name)
    for workload in settings.workloads:
        folder = settings.out / workload.name
        if not is_made(workload, folder / "material"):
            for path in folder.glob("*-*.json"):  # results of another model, or of a damaged one
                path.unlink()
            (folder / "flops.json").unlink(missing_ok=True)
        if not read_result(folder / "flops.json", *_COUNTED):
            say(f"{workload.name}: making the model")
            _process(settings, workload, "material", folder / "flops.json")
            (folder / "reference.json").unlink(missing_ok=True)
        if not isinstance(read_result(folder / "peaks.json").get("float32"), dict):
            say(f"{workload.name}: measuring what this CPU can do")
            _process(settings, workload, "peaks", folder / "peaks.json")
        reference, wanted = read_tensors(folder / "reference.safetensors"), reference_of(settings, workload)
        whole = "picture" in reference or not wanted["draws_whole"]
        if not (read_result(folder / "reference.json") and reference and whole):
            say(f"{workload.name}: computing what all are compared with")
            _process(settings, workload, "reference", folder / "reference.json", wanted)
        if "openvino" in settings.engines and all(map(_installed, ENGINES["openvino"].needs)):
            say(f"{workload.name}: converting for OpenVINO")
            report = folder / "openvino.json"
            failure = _process(settings, workload, "convert", report, {"engine": "openvino", "lane": "float32"})
            say(f"  {failure}" if failure else "  done")
    todo = list(turns(settings))
    for number, turn in enumerate(todo, 1):
        name = f"[{number}/{len(todo)}] {turn.workload.name} {turn.lane} {turn.engine}, round {turn.round + 1}"
        path = turn.path(settings.out)
        if is_done(settings, turn):
            say(f"{name}: kept from before")
            continue
        say(f"{turn.workload.name} {turn.lane}: {turn.engine} is at work")
        result = _take(settings, turn)
        write_whole(path, json.dumps(result, indent=1).encode())
        warm = sorted(result.get("warm", []))
        say(
            f"{name}: {warm[len(warm) // 2]:.3g} s a picture"
            if warm
            else f"{name}: {result['status']}, {result['why']}"
        )


def _take(settings: Settings, turn: Turn) -> dict[str, Any]:
    if turn.lane == "bfloat16" and not cpu_computes_bfloat16():
        return {"status": "unable", "why": "this CPU has no bfloat16 arithmetic"}
    missing = [module for module in ENGINES[turn.engine].needs if not _installed(module)]
    if missing:
        return {"status": "missing", "why": f"not installed: {', '.join(missing)} (`make bench` sets up all peers)"}
    path = turn.path(settings.out).with_suffix(".part")
    more = {
        "engine": turn.engine,
        "lane": turn.lane,
        "pictures": settings.pictures,
        "outputs": str(turn.outputs(settings.out)),
    }
    failure = _process(settings, turn.workload, "measure", path, more)
    if failure is not None:
        return {"status": "failed", "why": failure}
    result = read_result(path)
    path.unlink(missing_ok=True)
    return result


def reference_of(settings: Settings, workload: Workload) -> dict[str, Any]:
    """What errors are against: diffusers in float32, or this package where that is not there.

    Peers that do nothing but draw from a prompt are compared with a whole picture of ours.
    """
    engine = "diffusers" if _installed("diffusers") else "stablediff"
    whole = _installed("stable_diffusion_cpp") and workload.name == "sd15"
    outputs = settings.out / workload.name / "reference.safetensors"
    return {"engine": engine, "lane": "float32", "outputs": str(outputs), "draws_whole": whole}


def _process(
    settings: Settings, workload: Workload, task: str, out: Path, more: dict[str, Any] | None = None
) -> str | None:
    """-> None, or what went wrong, in a line. Ctrl+C ends the process too, and loses only its own turn."""
    out.parent.mkdir(parents=True, exist_ok=True)
    spec = {
        "task": task,
        "workload": workload.name,
        "quick": settings.quick,
        "folder": str(settings.out / workload.name / "material"),
        "threads": settings.threads,
        "out": str(out),
        **(more or {}),
    }
    path = out.with_suffix(".spec")
    path.write_text(json.dumps(spec), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "stablediff.bench.worker", str(path)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    finally:
        path.unlink(missing_ok=True)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    why = lines[-1].strip()[:300] if lines else f"it ended with {done.returncode}"
    if done.returncode == -signal.SIGKILL:
        why = "it was killed, as the system does with what takes too much memory"
    if task in ("peaks", "material", "reference"):
        raise RequestError(f"the bench cannot begin: {why}")
    return why


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def read_result(path: Path, *keys: str) -> dict[str, Any]:
    """{} for what is not there, was cut off, or lacks one of the keys."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.keys() >= set(keys) else {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """{} for what is not there, or was cut off."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return {}


def is_done(settings: Settings, turn: Turn) -> bool:
    """Whether a turn was measured, and all that it left can be read."""
    found = read_result(turn.path(settings.out), *_MEASURED)
    return found.get("status") == "done" and bool(found.get("warm")) and bool(read_tensors(turn.outputs(settings.out)))


def _check_settings(settings: Settings, folder: Path) -> None:
    """Raises RequestError rather than mixing what cannot be compared."""
    path = folder / "settings.json"
    before, now = read_result(path), settings.about()
    if path.is_file() and before != now:
        other = next((name for name in now | before if before.get(name) != now.get(name)), "settings")
        raise RequestError(
            f"{folder} has results with {other} {before.get(other, 'unknown')}, not {now.get(other, 'unknown')}: "
            "choose another --out, or --fresh to begin anew"
        )
    write_whole(path, json.dumps(now, indent=1).encode())


def workload_about(workload: Workload) -> dict[str, Any]:
    """For the report: without the networks' sizes."""
    return {name: value for name, value in asdict(workload).items() if name != "config"}
