"""What a run tells: a progress bar, `metrics.csv`, and TensorBoard where it is installed."""

import contextlib
import csv
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

METRICS = "metrics.csv"


class Log:
    """Figures by step. A resumed run goes on in the same file, with the rows behind its step taken out.

    A disk that is full does not end the run: what could not be written comes with the next row that can.
    """

    def __init__(self, folder: Path, total: int, step: int, *, silent: bool = False) -> None:
        self.path, self.silent = folder / METRICS, silent
        self.start, self.first, self.told = time.monotonic(), step, 0.0
        self.total, self.whole = total, True
        if silent:
            return
        self.rows = [row for row in _read(self.path) if int(float(row["step"])) <= step]
        self._write(anew=True)
        self.bar = tqdm(total=total, initial=step, unit="step", disable=None, dynamic_ncols=True)
        self.board = _tensorboard(folder)

    def __enter__(self) -> "Log":
        self.hook, threading.excepthook = threading.excepthook, self._ended
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.silent:
            self.bar.close()
            if self.board is not None:
                with contextlib.suppress(OSError):
                    self.board.close()
        threading.excepthook = self.hook

    def step(self, step: int, batch_size: int, figures: dict[str, float]) -> None:
        """`step` steps are done. Figures are written down if there are any."""
        if self.silent:
            return
        self.bar.update(step - self.bar.n)
        if not figures:
            return
        seconds = time.monotonic() - self.start
        rate = batch_size * (step - self.first) / max(seconds, 1e-9)
        self._append({"step": step, "samples": step * batch_size, "samples_per_second": rate, **figures})
        shown = {"loss": f"{figures['loss']:.4f}", "samples/s": f"{rate:.1f}"} if "loss" in figures else {}
        self.bar.set_postfix(shown, refresh=False)
        if self.board is not None:
            with contextlib.suppress(OSError):
                for name, value in figures.items():
                    self.board.add_scalar(name, value, step)
        if self.bar.disable and time.monotonic() - self.told > 60:  # no terminal: a line a minute
            self.told = time.monotonic()
            left = (self.total - step) * batch_size / max(rate, 1e-9)
            words = ", ".join(f"{k} {v}" for k, v in shown.items())
            print(f"step {step} of {self.total}: {words}, {left / 60:.0f} min left", file=sys.stderr, flush=True)

    def _ended(self, thread: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread of its own, which a full disk ends; it does not start again."""
        if isinstance(thread.exc_value, OSError):
            why = thread.exc_value.strerror or thread.exc_value
            self.note(f"cannot write what TensorBoard shows ({why}): training goes on, and {METRICS} has the figures")
        else:
            self.hook(thread)

    def note(self, text: str) -> None:
        if not self.silent:
            tqdm.write(text, file=sys.stderr)

    def _append(self, row: dict[str, float]) -> None:
        columns = list(self.rows[0]) if self.rows else []
        self.rows.append({name: f"{v:.6g}" if isinstance(v, float) else str(v) for name, v in row.items()})
        self._write(anew=not set(row) <= set(columns))

    def _write(self, *, anew: bool) -> None:
        """The last row, or all of them; all too if the last time something was left out."""
        try:
            if anew or not self.whole:
                self._rewrite()
            else:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, list(self.rows[0])).writerow(self.rows[-1])
            self.whole = True
        except OSError as error:
            if self.whole:
                self.note(f"cannot write {self.path} ({error.strerror or error}): free some space; training goes on")
            self.whole = False

    def _rewrite(self) -> None:
        """The whole file, because it has a new column, or rows of a future that was lost."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        self.rows = [{name: row.get(name, "") for name in names} for row in self.rows]
        draft = self.path.with_name(f".{METRICS}")
        try:
            with draft.open("w", newline="") as file:
                writer = csv.DictWriter(file, names)
                if names:
                    writer.writeheader()
                writer.writerows(self.rows)
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        try:
            for row in csv.DictReader(file):
                with contextlib.suppress(TypeError, ValueError, OverflowError):  # a row that is no row of ours
                    if int(float(row["step"])) >= 0 and None not in row:
                        rows.append(row)
        except (csv.Error, KeyError):  # nor is the rest
            pass
    return rows


def _tensorboard(folder: Path):  # type: ignore[no-untyped-def]
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder / "tensorboard"))
    except (ImportError, OSError):
        return None
