"""The training loop: every stage runs through it, on one process or many, and from where it was left."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stablediff.checkpoints.locate import RESULT, STATE
from stablediff.device import bfloat16_pays, computes_bfloat16
from stablediff.errors import ConfigError, NumericalError, StableDiffError
from stablediff.heap import keep_freed_memory
from stablediff.locks import alone_in
from stablediff.training import distributed
from stablediff.training.average import Average
from stablediff.training.config import LoopConfig
from stablediff.training.convolutions import quicken
from stablediff.training.log import Log
from stablediff.training.memory import checkpoint_activations
from stablediff.training.optimizers import learning_rate, make_optimizer, set_rate
from stablediff.training.stage import Batch, Stage
from stablediff.training.state import check_result_place, load_state, save_state

_AHEAD = 3  # batches made while one is computed
_MOST_BAD_STEPS = 20
_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: at which step, whether that was its last, and whether the result was written."""

    step: int
    finished: bool
    exported: bool


def train(
    stage: Stage,
    config: LoopConfig,
    folder: Path,
    *,
    device: torch.device | None = None,
    minutes: float = math.inf,
    sharded: bool = False,
) -> Outcome:
    """Runs `stage` from where `folder` left it until the last step, the time limit, Ctrl+C or SIGTERM; saves, exports.

    `sharded` splits weights over the processes (FSDP2) instead of copying them (DDP); no process has the whole model
    then, so that a run without it has to export. Raises ConfigError if the folder holds other networks or cannot be
    written to, NumericalError if the loss stays NaN.
    """
    with distributed.processes(device or torch.device("cpu")) as own_device, _stop_asked() as stop:
        return _Run(stage, config, folder, own_device, sharded).run(minutes, stop)


class _Run:
    def __init__(self, stage: Stage, config: LoopConfig, folder: Path, device: torch.device, sharded: bool) -> None:
        world = distributed.world_size()
        if config.batch_size % world:
            raise ConfigError(f"batch_size is {config.batch_size}: choose a multiple of the {world} processes")
        self.stage, self.config, self.folder, self.device = stage, config, folder, device
        self.sharded = sharded and world > 1
        if self.sharded and config.optimizer == "muon":
            raise ConfigError('optimizer "muon" needs whole matrices, which --sharded splits: choose "adamw"')
        rows = config.batch_size // world
        if rows % stage.rows_multiple:
            raise ConfigError(
                f"batch_size is {config.batch_size}: choose a multiple of {stage.rows_multiple * world}, which is "
                f"{stage.rows_multiple} for each process"
            )
        self.rows = slice(distributed.rank() * rows, (distributed.rank() + 1) * rows)
        self.micro = min(config.micro_batch or rows, rows)
        self.autocast = autocast(config, device)
        if device.type == "cpu":
            keep_freed_memory()
            if not (uses_bfloat16(config, device) or config.compile):
                quicken(stage)

        stage.to(device)
        # FSDP2 takes plain tensors only.
        memory_format = torch.contiguous_format if self.sharded else torch.channels_last
        stage.to(memory_format=memory_format)  # type: ignore[call-overload]
        stage.train()
        if config.gradient_checkpointing:
            checkpoint_activations(stage)
        self.parallel: nn.Module = stage
        if self.sharded:
            distributed.shard(stage)
        elif world > 1:
            self.parallel = DistributedDataParallel(stage, find_unused_parameters=stage.has_idle_parameters)
        self.forward: Any = torch.compile(self.parallel) if config.compile else self.parallel
        self.average = Average(stage, config.ema_decay)
        groups = stage.parameter_groups()
        self.parameters = [p for parameters, _ in groups for p in parameters]
        tables = [module.weight for module in stage.modules() if isinstance(module, nn.Embedding)]
        precision = torch.bfloat16 if uses_bfloat16(config, device) else torch.float32
        self.optimizer = make_optimizer(groups, config, tables, precision)
        self.step, self.seconds, self.bad_steps = 0, 0.0, 0
        self.since_log: dict[str, list[Tensor]] = {}

    def run(self, minutes: float, stop: "_Flag") -> Outcome:
        with alone_in(self.folder) if distributed.is_main() else contextlib.nullcontext():
            return self._run(minutes, stop)

    def _run(self, minutes: float, stop: "_Flag") -> Outcome:
        check_result_place(self.folder / RESULT)
        if (self.folder / STATE).exists():
            self.step, self.seconds = load_state(self.folder, self.stage, self.average, self.optimizer)
        begun, saved = time.monotonic(), time.monotonic()
        with Log(self.folder, self.config.steps, self.step, silent=not distributed.is_main()) as log:
            if self.step >= self.config.steps:
                log.note(f"{self.folder} is at its end, and learns nothing more: choose another --out to begin anew")
            for batch in self._batches():
                self._learn(batch)
                self.step += 1
                now = time.monotonic()
                log.step(self.step, self.config.batch_size, self._figures())
                over = stop.raised or now - begun > 60 * minutes
                over = distributed.any_process(over, self.device)
                done = self.step >= self.config.steps
                due = distributed.any_process(now - saved > 60 * self.config.save_minutes, self.device)
                if over or done or due:
                    self._save(log, self.seconds + now - begun, must=over or done)
                    saved = time.monotonic()
                if self.step % self.config.sheet_steps == 0 or done:
                    self._show(log)
                if over:
                    break
        self._export()
        return Outcome(self.step, self.step >= self.config.steps, exported=not self.sharded)

    def _export(self) -> None:
        if distributed.is_main() and not self.sharded:
            with self.average.in_place(), torch.no_grad():
                self.stage.export(self.folder / RESULT)

    def _batches(self) -> Iterator[Batch]:
        """The batches from this step on, made ahead of time in another thread.

        It computes on one core: a second team of threads would halve the speed of the first.
        """
        with ThreadPoolExecutor(max_workers=1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            steps = range(self.step, self.config.steps)
            waiting: list[Future[Batch]] = []
            for step in steps:
                while len(waiting) < min(_AHEAD, steps.stop - step):
                    waiting.append(pool.submit(self.stage.batch, step + len(waiting), self.rows))
                try:
                    yield waiting.pop(0).result()
                except GeneratorExit:
                    pool.shutdown(cancel_futures=True)
                    raise

    def _learn(self, batch: Batch) -> None:
        """One step of the optimiser."""
        set_rate(self.optimizer, learning_rate(self.step, self.config))
        self.optimizer.zero_grad(set_to_none=True)
        total = len(next(iter(batch.values())))
        micro = max(self.micro * total // (self.rows.stop - self.rows.start), 1)  # fewer rows are larger ones
        for start in range(0, total, micro):
            part = {name: move(rows[start : start + micro], self.device) for name, rows in batch.items()}
            share = min(micro, total - start) / total
            last = start + micro >= total
            with self._gradients_sync(last), self.autocast:
                results = self.forward(part, self.step / self.config.steps)
                (results["loss"] * share).backward()
            self._note(results)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.bad_steps = 0
        else:
            self._bear_with()
        self.average.update(self.step)
        self._note({"gradient_norm": norm})

    def _gradients_sync(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients cross between processes once a batch, with its last rows."""
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return contextlib.nullcontext()

    def _bear_with(self) -> None:
        """A step whose gradients are not numbers is left out; many in a row mean that the run is lost."""
        self.bad_steps += 1
        if self.bad_steps >= _MOST_BAD_STEPS:
            raise self._lost(f"the gradients were no numbers for the last {self.bad_steps} steps up to {self.step}")

    @staticmethod
    def _lost(what: str) -> NumericalError:
        remedy = 'lower the learning rate, or choose precision = "float32"; the state saved before is good'
        return NumericalError(f"{what}: {remedy}")

    def _note(self, figures: dict[str, Tensor]) -> None:
        for name, value in figures.items():
            self.since_log.setdefault(name, []).append(distributed.whole(value.detach()).float())

    def _figures(self) -> dict[str, float]:
        """Every `log_steps`: means since the last time, over all processes; what is NaN was not measured."""
        if self.step % self.config.log_steps and self.step != self.config.steps:
            return {}
        names = list(self.since_log)
        means = torch.stack([torch.stack(self.since_log[name]).nanmean() for name in names])
        self.since_log = {}
        values = distributed.mean_over_processes(means).tolist()
        rate = learning_rate(self.step - 1, self.config)
        return {**dict(zip(names, values, strict=True)), "learning_rate": rate}

    def _show(self, log: Log) -> None:
        """Measures, and draws the sheet, with the averaged weights."""
        with self.average.in_place(), distributed.by_parts(self.stage), torch.no_grad():
            self.stage.eval()
            measured, sheet = self.stage.measure(), self._sheet(log)
            self.stage.train()
        log.step(self.step, self.config.batch_size, measured)
        if measured:
            log.note(f"step {self.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in measured.items()))
        if sheet is not None and distributed.is_main():
            try:
                (self.folder / "sheets").mkdir(exist_ok=True)
                sheet.save(self.folder / "sheets" / f"{self.step:07d}.png")
            except OSError as error:
                log.note(f"cannot write the sheet of step {self.step} ({error.strerror or error}): free some space")

    def _sheet(self, log: Log) -> Image.Image | None:
        """What cannot be drawn, for want of memory say, is no reason to end; but sharded weights must draw together."""
        try:
            return self.stage.sheet()
        except StableDiffError as error:
            if self.sharded:
                raise
            log.note(f"no sheet of step {self.step}: {error}")
            return None

    def _save(self, log: Log, seconds: float, *, must: bool) -> None:
        """A bad step is no reason to save nothing, because it leaves the weights as they were."""
        spoilt = not all(distributed.own_part(p.detach()).isfinite().all() for p in self.parameters)
        if distributed.any_process(spoilt, self.device):
            raise self._lost(f"some weights are no numbers after step {self.step}")
        try:
            progress = {"step": self.step, "seconds": seconds, "samples": self.step * self.config.batch_size}
            save_state(self.folder, self.stage, self.average, self.optimizer, progress)
        except OSError as error:
            message = f"cannot save to {self.folder} ({error.strerror or error}): free some space"
            if must:
                kept = "; the state saved before is whole" if (self.folder / STATE).exists() else ""
                with contextlib.suppress(OSError, StableDiffError):  # it needs less room than the state
                    self._export()
                    kept = f"{kept}; the result up to step {self.step} is in {self.folder / RESULT}"
                raise StableDiffError(message + kept) from error
            log.note(f"{message}; training goes on, and saving is tried again")


@dataclass
class _Flag:
    raised: bool = False


@contextlib.contextmanager
def _stop_asked() -> Iterator[_Flag]:
    """Ctrl+C and SIGTERM raise a flag, and the run saves and leaves after its step; a second one breaks off.

    What was ignored before stays so, as nohup wants it.
    """
    flag = _Flag()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if flag.raised:
            raise KeyboardInterrupt
        flag.raised = True

    try:
        heeded = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        former = {number: signal.signal(number, stop) for number in heeded}
    except ValueError:  # not the main thread: whoever runs us has its own way to stop
        former = {}
    try:
        yield flag
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def uses_bfloat16(config: LoopConfig, device: torch.device) -> bool:
    """As the config says, or where the device computes it faster."""
    can = computes_bfloat16(device) if device.type == "cuda" else device.type == "cpu" and bfloat16_pays()
    return config.precision == "bfloat16" or (config.precision == "auto" and can)


def autocast(config: LoopConfig, device: torch.device) -> torch.autocast:
    """With the weights kept in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config, device))


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting, pictures and latents channels-last."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    if tensor.ndim == 4 and tensor.is_floating_point():
        return tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
    return tensor.to(device, non_blocking=True)
