"""What the tests of the command line share."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
QUICK = ["--steps", "2", "--size", "64x64"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def assert_refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("stablediff: ")
    for word in words:
        assert word in line


def subprocess_of(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide what happens to output that is still in the buffer
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_ctrl_c, **options
    )


def _hear_ctrl_c() -> None:
    """Whoever runs the tests in the background has it ignored, and what was started by them, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
