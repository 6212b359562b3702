"""The loop: resuming is exact, whatever happened; several processes learn what one would."""

import csv
import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from children import meeting_point
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stablediff.errors import ConfigError, NumericalError, StableDiffError
from stablediff.locks import alone_in
from stablediff.training import muon
from stablediff.training.config import LoopConfig
from stablediff.training.log import Log
from stablediff.training.loop import _stop_asked, train
from stablediff.training.stage import Batch, Stage

STEPS = 60


def _net(width: int) -> nn.Sequential:
    """With a convolution, whose weights have a memory format."""
    conv = nn.Conv2d(4, width, 3, padding=1)
    return nn.Sequential(nn.Unflatten(1, (4, 1, 1)), conv, nn.SiLU(), nn.Flatten(), nn.Linear(width, 2))


class Toy(Stage):
    """Learns y = A x from noisy rows; everything that a row has comes from the step and the row."""

    def __init__(self, bad_from: int | None = None, pause: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = _net(16)
        self.bad_from, self.pause = bad_from, pause
        self.truth = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))

    def batch(self, step: int, rows: slice) -> Batch:
        streams = [np.random.default_rng((step, row)) for row in range(rows.start, rows.stop)]
        x = torch.tensor(np.stack([s.standard_normal(4, dtype=np.float32) for s in streams]))
        factor = float("nan") if self.bad_from is not None and step >= self.bad_from else 1.0
        return {"x": x, "y": x @ self.truth * factor}

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        time.sleep(self.pause)
        error = (self.net(batch["x"]) - batch["y"]).square().mean()
        return {"loss": error, "progress": torch.tensor(progress)}

    def measure(self) -> dict[str, float]:
        return {"norm": sum(p.norm().item() for p in self.parameters())}

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(self.net.state_dict(), folder / "net.pt")


def config(**changes: object) -> LoopConfig:
    options = {"steps": STEPS, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 5, "log_steps": 5}
    # In float32 whatever the machine computes, because sums of parts are compared closely.
    return LoopConfig(**{**options, "sheet_steps": 30, "precision": "float32", **changes})  # type: ignore[arg-type]


def state(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "state.safetensors")


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_muon_multiplies_in_the_precision_of_the_run(tmp_path, monkeypatch, precision):
    seen = []
    rounds = muon._rounds
    monkeypatch.setattr(muon, "_rounds", lambda x: (seen.append(x.dtype), rounds(x))[1])
    train(Toy(), config(steps=2, optimizer="muon", precision=precision), tmp_path)
    assert set(seen) == ({torch.bfloat16} if precision == "bfloat16" else set())


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, Tensor]:
    assert train(Toy(), config(), tmp_path / "undisturbed").finished
    return state(tmp_path / "undisturbed")


def test_learns_and_exports_the_average(tmp_path: Path) -> None:
    train(Toy(), config(steps=400, learning_rate=3e-2), tmp_path)
    exported = torch.load(tmp_path / "model" / "net.pt", weights_only=True)
    stage = Toy()
    stage.net.load_state_dict(exported)
    assert stage(stage.batch(10**6, slice(0, 64)), 0.0)["loss"] < 0.05
    saved = state(tmp_path)
    assert torch.equal(exported["1.weight"], saved["average.net.1.weight"])
    assert not torch.equal(exported["1.weight"], saved["weights.net.1.weight"])


def test_a_run_at_its_end_says_that_it_learns_nothing_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Toy(), config(), tmp_path)
    assert "is at its end" not in capsys.readouterr().err
    assert train(Toy(), config(), tmp_path).finished
    assert "is at its end, and learns nothing more: choose another --out to begin anew" in capsys.readouterr().err


def test_stopped_and_resumed_is_bit_equal(tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    folder = tmp_path / "stopped"
    runs = 0
    while not train(Toy(pause=0.002), config(), folder, minutes=0.03 / 60).finished:
        runs += 1
    assert runs > 1
    assert_same(state(folder), undisturbed)


def test_killed_at_20_random_moments_and_resumed_is_bit_equal(tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    folder, chance = tmp_path / "killed", random.Random(0)
    context = multiprocessing.get_context("fork")

    def run() -> None:
        train(Toy(pause=0.004), config(save_minutes=1e-6), folder)

    for _ in range(20):
        child = context.Process(target=run)
        child.start()
        time.sleep(chance.uniform(0.005, 0.25))
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
    train(Toy(), config(), folder)
    assert_same(state(folder), undisturbed)
    assert [left.name for left in folder.glob(".*")] == [".lock"]  # nothing is left of the killed


def test_drafts_of_dead_runs_are_removed(tmp_path: Path) -> None:
    for left in (".state.safetensors.123", ".tmpXOhmom"):  # ours, and one of the library that writes it
        (tmp_path / left).touch()
    (tmp_path / ".stablediff.0123456789abcdef" / "unet").mkdir(parents=True)  # a result that was being written
    train(Toy(), config(steps=2), tmp_path)
    assert [left.name for left in tmp_path.glob(".*")] == [".lock"]


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(ConfigError, match=r"another run is at work in .*: wait for it, or choose"):
        train(Toy(), config(steps=2), tmp_path)
    assert train(Toy(), config(steps=2), tmp_path).finished


def test_a_place_where_no_result_can_stay_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ConfigError, match="model is a file, and the result is to be there"):
        train(Toy(), config(), tmp_path)
    assert not (tmp_path / "state.safetensors").exists()
    train(Toy(), config(steps=1), tmp_path / "other")
    with pytest.raises(ConfigError, match=r"lies in .*other/model, which its run replaces: choose another --out"):
        train(Toy(), config(), tmp_path / "other" / "model" / "mine")


def test_sigterm_saves_and_leaves(tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: train(Toy(pause=0.02), config(), tmp_path / "run"))
    child.start()
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert child.is_alive()
        time.sleep(0.01)
    time.sleep(0.2)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    child.join(600)
    assert child.exitcode == 0
    assert (tmp_path / "run" / "model").exists()
    train(Toy(), config(), tmp_path / "run")
    assert_same(state(tmp_path / "run"), undisturbed)


def test_micro_batches_add_up(tmp_path: Path, undisturbed: dict[str, Tensor]) -> None:
    train(Toy(), config(micro_batch=3), tmp_path / "micro")
    for name, value in state(tmp_path / "micro").items():
        torch.testing.assert_close(value, undisturbed[name], rtol=1e-3, atol=1e-5)


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _stop_asked() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.raised
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.raised
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def _in_group(environment: dict[str, str], folder: Path, sharded: bool, minutes: float) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    train(Toy(pause=0.002), config(), folder, minutes=minutes, sharded=sharded)


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_learn_what_one_does(tmp_path: Path, undisturbed: dict[str, Tensor], sharded: bool) -> None:
    context = multiprocessing.get_context("spawn")  # whole interpreters, which must also end well
    for minutes in (0.1 / 60, 1e9):  # broken off by one of them, and taken up again
        with meeting_point(2) as environments:
            limits = (minutes, 1e9)
            children = [
                context.Process(target=_in_group, args=(environment, tmp_path, sharded, limit))
                for environment, limit in zip(environments, limits, strict=True)
            ]
            for child in children:
                child.start()
            for child in children:
                child.join(600)
                assert child.exitcode == 0
    for name, value in state(tmp_path).items():
        torch.testing.assert_close(value, undisturbed[name], rtol=1e-3, atol=1e-5)
    assert (tmp_path / "model").exists() is not sharded
    assert train(Toy(), config(), tmp_path).exported  # one process alone writes what several have learnt
    exported = torch.load(tmp_path / "model" / "net.pt", weights_only=True)
    torch.testing.assert_close(exported["4.weight"], undisturbed["average.net.4.weight"], rtol=1e-3, atol=1e-5)


def test_metrics_have_each_step_once(tmp_path: Path) -> None:
    while not train(Toy(pause=0.002), config(), tmp_path, minutes=0.03 / 60).finished:
        pass
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    logged = [int(row["step"]) for row in rows if row["loss"]]
    assert logged == list(range(5, STEPS + 1, 5))
    assert [int(row["step"]) for row in rows if row["norm"]] == [30, 60]
    assert float(rows[-2]["loss"]) < float(rows[0]["loss"])


def test_nan_steps_are_left_out_and_many_end_the_run(tmp_path: Path) -> None:
    train(Toy(), config(), tmp_path, minutes=0)
    good = state(tmp_path)
    with pytest.raises(NumericalError, match="lower the learning rate"):
        train(Toy(bad_from=10), config(save_minutes=1e-9), tmp_path)
    assert all(value.isfinite().all() for value in state(tmp_path).values())
    assert good.keys() == state(tmp_path).keys()


@pytest.mark.parametrize("minutes", [0, 1e9])
def test_a_few_nan_steps_at_the_end_lose_nothing(tmp_path: Path, minutes: float) -> None:
    """They leave the weights as they were, be it the last step of a run or that at which it is broken off."""
    good = STEPS - 5 if minutes else 0
    outcome = train(Toy(bad_from=good), config(), tmp_path, minutes=minutes)
    assert outcome.step == (STEPS if minutes else 1)
    assert outcome.exported
    assert (tmp_path / "model").exists()
    assert all(value.isfinite().all() for value in state(tmp_path).values())
    assert train(Toy(), config(), tmp_path).finished


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    train(Toy(), config(), tmp_path, minutes=0)
    good = state(tmp_path)
    with pytest.raises(NumericalError, match="some weights are no numbers after step 2: lower the learning rate"):
        train(Toy(), config(learning_rate=1e39, warmup_steps=0), tmp_path, minutes=0)
    assert_same(state(tmp_path), good)


def test_another_network_in_the_folder_is_refused(tmp_path: Path) -> None:
    train(Toy(), config(steps=5), tmp_path)

    class Wider(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.net = _net(32)

    with pytest.raises(ConfigError, match="change the config back"):
        train(Wider(), config(), tmp_path)


def test_a_broken_state_is_named(tmp_path: Path) -> None:
    train(Toy(), config(steps=5), tmp_path)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="remove it to start"):
        train(Toy(), config(), tmp_path)


@pytest.mark.parametrize("progress", ["{}", "[]", '"a"', '{"step": -5, "seconds": 0}', '{"step": 1e999, "seconds": 0}'])
def test_a_state_of_no_known_step_is_named(tmp_path: Path, progress: str) -> None:
    train(Toy(), config(steps=5), tmp_path)
    save_file(state(tmp_path), tmp_path / "state.safetensors", {"progress": progress, "optimizer": "adamw"})
    with pytest.raises(ConfigError, match="remove it to start"):
        train(Toy(), config(), tmp_path)


@pytest.mark.parametrize("damage", [b"\xff,1", b"1.2.3,0", b"\xc2\xb2,0", b"nan" + 99 * b",1", b"9" * 150_000])
def test_damaged_metrics_do_not_stop_a_run(tmp_path: Path, damage: bytes) -> None:
    train(Toy(), config(steps=20), tmp_path)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes() + damage + b"\n")
    assert train(Toy(), config(), tmp_path).finished
    steps = [int(row["step"]) for row in csv.DictReader(path.open()) if row["loss"]]
    assert steps == list(range(5, STEPS + 1, 5))


def test_a_full_disk_does_not_end_a_run_before_its_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("stablediff.training.state.save_file", full)
    with pytest.raises(StableDiffError, match=f"free some space; the result up to step {STEPS} is in .*model$"):
        train(Toy(), config(save_minutes=1e-6), tmp_path)
    assert "saving is tried again" in capsys.readouterr().err
    assert (tmp_path / "model" / "net.pt").exists()  # it needs less room


def test_the_log_waits_for_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Log(tmp_path, 10, 0) as log:
        log.step(1, 1, {"loss": 3.0})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full)
            log.step(2, 1, {"loss": 2.0})
            log.step(3, 1, {"loss": 1.5, "norm": 1.0})
        log.step(4, 1, {"loss": 1.0})
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [(row["step"], row["loss"]) for row in rows] == [("1", "3"), ("2", "2"), ("3", "1.5"), ("4", "1")]
    assert capsys.readouterr().err.count("No space left on device): free some space; training goes on") == 1
    assert not list(tmp_path.glob(".*"))


def test_a_thread_that_a_full_disk_ends_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", others.append)

    def write(error: Exception) -> None:
        raise error

    with Log(tmp_path, 10, 0):
        for error in (OSError(errno.ENOSPC, "No space left on device"), OverflowError("of another kind")):
            thread = threading.Thread(target=write, args=(error,))
            thread.start()
            thread.join()
    told = capsys.readouterr().err
    assert "cannot write what TensorBoard shows (No space left on device): training goes on" in told
    assert "Traceback" not in told
    assert [type(other.exc_value) for other in others] == [OverflowError]


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    train(Toy(), config(steps=5), tmp_path)
    for other in ("muon", "radam", "adafactor", "sgd"):
        with pytest.raises(ConfigError, match=f"the memory of adamw, not of {other}: change the config back"):
            train(Toy(), config(optimizer=other), tmp_path)


def test_rows_that_a_stage_cannot_divide_are_refused(tmp_path: Path) -> None:
    stage = Toy()
    stage.rows_multiple = 4
    with pytest.raises(ConfigError, match="batch_size is 6: choose a multiple of 4"):
        train(stage, config(batch_size=6), tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "radam", "adafactor", "sgd"])
@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_every_optimizer_learns_and_resumes(tmp_path: Path, optimizer: str, decay: str) -> None:
    rate = 1e-2 if optimizer != "sgd" else 5e-2
    whole = config(optimizer=optimizer, decay=decay, learning_rate=rate)
    train(Toy(), whole, tmp_path / "a")
    while not train(Toy(pause=0.002), whole, tmp_path / "b", minutes=0.08 / 60).finished:
        pass
    assert_same(state(tmp_path / "a"), state(tmp_path / "b"))
