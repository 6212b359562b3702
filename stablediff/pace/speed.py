"""How fast this machine draws with a model: a timed call of each network a size, kept on disk, mended by every run."""

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from stablediff.conditioning import ConditionedUNet, Shortcuts, encode_prompts
from stablediff.fallback import dtype_of
from stablediff.pace.plan import Call, Plan
from stablediff.pace.store import cache_folder, median, read_times, write_times
from stablediff.pipeline import Pipeline
from stablediff.request import MAX_CACHE_INTERVAL

_BRIEF = 0.2  # seconds: when half a picture is decoded faster, the decoder is timed at its full size
_AGAIN = 1.0  # seconds: what is faster is timed three times
_DIGITS = 6  # of a size
_NOTHING = 1e-6  # seconds, that is: only what takes longer than 0 is kept
_FIRST = "first step"  # the name under which its surplus is kept

Cells = tuple[int, int]  # rows and columns of the latents


class Speed:
    """Seconds that the networks of one pipeline need. Nothing is measured before `measure` or `learn` is called.

    `folder` is where times are kept, by what they depend on: the networks' sizes, the device, the precision, the
    threads and torch. Weights of the same shapes are equally fast. A broken or read-only folder costs a measurement.
    """

    def __init__(self, pipeline: Pipeline, folder: Path | None = None) -> None:
        self.about = _about(pipeline)
        folder = folder or cache_folder()
        name = hashlib.sha256(self.about.encode()).hexdigest()[:24]
        self.path = folder / "speed" / f"{name}.json" if folder else None
        self.times = read_times(self.path)
        self.timed = False  # whether both networks were, and not only read about

    def text(self) -> float | None:
        """Of reading one prompt."""
        return self.times.get("text")

    def unet(self, cells: Cells, call: Call) -> float | None:
        """Of one call; in proportion from the nearest size that is known, or None if none is.

        Never more than a larger one took: if one was measured when others were at work, it may be seen by that.
        """
        return self._scaled(_part(call), cells, call.rows)

    def decoder(self, cells: Cells) -> float | None:
        """Of one picture, in the same way."""
        return self._scaled("decoder", cells, 1)

    def warm_up(self) -> float:
        """What the first step of a cold plan takes beyond the others: weights are read, and laid out."""
        return self.times.get(_FIRST, 0.0)

    def knows(self, cells: Cells, call: Call) -> bool:
        """Whether a call at this very size was timed."""
        return _name(_part(call), cells, call.rows) in self.times

    def _scaled(self, what: str, cells: Cells, rows: int) -> float | None:
        work = cells[0] * cells[1] * rows
        known = {_work(name): seconds for name, seconds in self.times.items() if name.startswith(f"{what} ")}
        known = {amount: seconds for amount, seconds in known.items() if amount}
        if not known:
            return None
        nearest = min(known, key=lambda amount: max(amount / work, work / amount))
        seconds = self.times.get(_name(what, cells, rows), known[nearest] * work / nearest)
        return min([seconds, *(other for amount, other in known.items() if amount > work)])

    def measure(self, pipeline: Pipeline, plan: Plan, *, again: bool = False, decoder: bool = False) -> None:
        """Times what is not yet known of a plan, or (`again`) the U-Net though it is, and so the decoder (`decoder`).

        As long as a few of its steps.
        """
        most = costliest(plan)
        cells = plan.canvas.cells
        new = {}
        if again or self.text() is None:
            new["text"] = median(_times(lambda: encode_prompts(pipeline, [""], 512, 512), pipeline.device))
        # With a cache, calls of two kinds have to be known.
        for call in dict.fromkeys((most, most._replace(whole=plan.request.cache_interval == 1))):
            if again or not self.knows(cells, call):
                times = _times(_call_unet(pipeline, cells, call), pipeline.device)
                new[_name(_part(call), cells, call.rows)] = median(times)
                if call.whole and not pipeline.is_warm(cells):
                    new[_FIRST] = max(times[0] - median(times), _NOTHING)
                pipeline.drawn_at = cells
        half = max(cells[0] // 2, 1), max(cells[1] // 2, 1)
        if decoder or not self.times.keys() & {_name("decoder", cells, 1), _name("decoder", half, 1)}:
            seconds = median(_times(_call_decoder(pipeline, half), pipeline.device))
            new[_name("decoder", half, 1)] = seconds
            if seconds < _BRIEF:
                new[_name("decoder", cells, 1)] = median(_times(_call_decoder(pipeline, cells), pipeline.device))
        self.timed |= {name.partition(" ")[0] for name in new} > {"decoder"}
        self._keep(new, pipeline)

    def learn(self, pipeline: Pipeline, plan: Plan, steps: Sequence[float], decode: float) -> None:
        """Takes in a run: the seconds of its steps (with full batches), and of decoding one picture.

        The first step of a cold plan also warms up, and says how long that takes. Of a call any first step says only
        that it takes no longer; a step of several calls that are not alike says nothing.
        """
        cells = plan.canvas.cells
        new = {_name("decoder", cells, 1): decode}
        calls_by_step = plan.calls_by_step(plan.batch_size)
        times: dict[Call, list[float]] = {}
        for number, seconds in list(enumerate(steps))[1:]:
            calls = calls_by_step[number % plan.steps]
            if len(set(calls)) == 1:
                times.setdefault(calls[0], []).append(seconds / len(calls))
        first = calls_by_step[0]
        if steps and len(set(first)) == 1:
            usual = median(times[first[0]]) if first[0] in times else self.unet(cells, first[0])
            surplus = None if usual is None else steps[0] - usual * len(first)
            if surplus is not None and plan.cold and (first[0] in times or self.knows(cells, first[0])):
                new[_FIRST] = max(surplus, _NOTHING)
            if surplus is not None and surplus < 0 and first[0] not in times:
                times[first[0]] = [steps[0] / len(first)]
        for call, each in times.items():
            new[_name(_part(call), cells, call.rows)] = median(each)
        self._keep(new, pipeline)

    def _keep(self, new: dict[str, float], pipeline: Pipeline) -> None:
        if new:
            self.times = self.times | new  # a new one, because other threads may be reading
        if new and _about(pipeline) == self.about:  # else it was widened meanwhile: for now only
            write_times(self.path, new, self.about)


def costliest(plan: Plan) -> Call:
    """Of a plan's calls."""
    return max(plan.calls(plan.batch_size), key=lambda call: (call.whole, call.rows))


def _part(call: Call) -> str:
    """The name under which such calls are kept."""
    merged = f"-merged-{call.merged_tokens:g}" if call.merged_tokens else ""
    return ("unet" if call.whole else "shallow") + merged


def _name(what: str, cells: Cells, rows: int) -> str:
    return f"{what} {cells[0]}x{cells[1]}x{rows}"


def _work(name: str) -> int:
    """ "unet 64x64x2" -> 8192; 0 for what is no such name."""
    factors = name.partition(" ")[2].split("x")
    if len(factors) != 3 or not all(factor.isdecimal() and len(factor) <= _DIGITS for factor in factors):
        return 0
    rows, columns, batch = (int(factor) for factor in factors)
    return rows * columns * batch


@torch.inference_mode()
def _times(work: Callable[[], object], device: torch.device) -> list[float]:
    """The seconds that it takes twice, and three times if it is brief.

    The first time reads weights and lays them out for its size, which of large models takes as long as the work.
    """
    times: list[float] = []
    while len(times) < (3 if times and times[0] < _AGAIN else 2):
        start = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - start)
    return times


@torch.inference_mode()
def _call_unet(pipeline: Pipeline, cells: Cells, call: Call) -> Callable[[], object]:
    """A call as `generate` makes them, for an empty prompt."""
    conditioning = encode_prompts(pipeline, [""], 512, 512)
    shortcuts = Shortcuts(1 if call.whole else MAX_CACHE_INTERVAL, call.merged_tokens)
    unet = ConditionedUNet(
        pipeline.present(pipeline.unet), conditioning, call.rows, guidance_scale=1.0, shortcuts=shortcuts
    )
    x = torch.randn(call.rows, pipeline.config.unet.in_channels, *cells, generator=torch.Generator().manual_seed(0))
    x = x.to(pipeline.device)
    if not call.whole:
        unet(x, 500.0, with_uncond=False)  # the deep layers have to be asked once
    return torch.inference_mode()(lambda: unet(x, 500.0, with_uncond=False))


@torch.inference_mode()
def _call_decoder(pipeline: Pipeline, cells: Cells) -> Callable[[], object]:
    latents = torch.zeros(1, pipeline.config.vae.latent_channels, *cells, device=pipeline.device)
    decoder = pipeline.present(pipeline.decoder)
    latents = latents.to(dtype_of(decoder))
    return torch.inference_mode()(lambda: decoder.decode(latents))


def _about(pipeline: Pipeline) -> str:
    """All that the times depend on, in a line."""
    config = pipeline.config
    networks = repr((config.text_encoders, config.unet, pipeline.decoder.config)).encode()
    return " · ".join(
        [
            f"model {hashlib.sha256(networks).hexdigest()[:16]}",
            _machine(pipeline.device),
            ("int8, " if pipeline.compute.int8 else "compiled, " if pipeline.unet.compiled else "")
            + ("offloaded, " if pipeline.turns else "")
            + f"{dtype_of(pipeline.unet)}, decoder {dtype_of(pipeline.decoder)}",
            f"torch {torch.__version__}",
        ]
    )


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{device.type}, {_processor()}, {torch.get_num_threads()} threads on {cores} cores"


def _processor() -> str:
    """Its model, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
