"""`python -m stablediff bench`: this package and others, side by side on this machine."""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from stablediff.bench.engines import ENGINES
from stablediff.bench.growth import MOST_STEPS, measure_growth, write_growth
from stablediff.bench.levers import PROMPTS, measure_levers, write_levers
from stablediff.bench.report import write_report
from stablediff.bench.results import collect
from stablediff.bench.run import Settings, read_result, run, turns
from stablediff.bench.workloads import FULL, LANES, choose_workloads
from stablediff.checkpoints.locate import DEFAULT_MODEL
from stablediff.errors import RequestError
from stablediff.request import Request


def add_bench(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_bench)
    parser.add_argument("--workloads", metavar="A,B", help=f"some of {', '.join(w.name for w in FULL)} (default: all)")
    parser.add_argument("--engines", metavar="A,B", help=f"some of {', '.join(ENGINES)} (default: all)")
    parser.add_argument("--lanes", metavar="A,B", help=f"some of {', '.join(LANES)} (default: all)")
    parser.add_argument("--threads", type=int, default=_cores(), metavar="N", help="for every engine (default: cores)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="processes an engine (default: 2)")
    parser.add_argument("--pictures", type=int, default=3, metavar="N", help="warm ones a process (default: 3)")
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it work? It says nothing about speed")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there from before")
    parser.add_argument(
        "--levers", action="store_true", help="instead: what this package's own shortcuts save and cost"
    )
    parser.add_argument(
        "--growth", action="store_true", help="instead: how the time grows with steps, size and number of pictures"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="of --levers and --growth")
    parser.add_argument("--decoder", metavar="FILE", help="of --levers: a tiny decoder for that model")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), metavar="N", help="of --levers: so many")
    parser.add_argument("--steps", type=int, metavar="N", help="of --levers and --growth (default: the model's own)")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="models and results (default: runs/bench, or runs/bench-quick)"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="the tables and plots (default: OUT/report; of --levers and --growth OUT)",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bench(arguments: argparse.Namespace) -> int:
    for name in ("threads", "rounds", "pictures"):
        if not 1 <= getattr(arguments, name) <= 1000:
            raise RequestError(f"--{name} is {getattr(arguments, name)}: choose 1 to 1000")
    if arguments.levers and arguments.growth:
        raise RequestError("--levers and --growth are two reports: choose one of them")
    if arguments.levers or arguments.growth:
        return _own(arguments)
    out = arguments.out or Path("runs") / ("bench-quick" if arguments.quick else "bench")
    settings = Settings(
        out=out,
        workloads=choose_workloads(arguments.workloads, quick=arguments.quick),
        engines=_some_of("engine", arguments.engines, tuple(ENGINES)),
        lanes=_some_of("lane", arguments.lanes, LANES),
        threads=arguments.threads,
        quick=arguments.quick,
        rounds=arguments.rounds,
        pictures=arguments.pictures,
    )
    report = arguments.report or out / "report"
    _check_writable(report)
    if arguments.fresh:
        _forget(settings)
    with _no_orphans():
        run(settings, lambda line: print(line, file=sys.stderr, flush=True))
    print(write_report(collect(settings), report))
    return 0


def _check_writable(folder: Path) -> None:
    """Raises OSError now, and not after hours."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


@contextlib.contextmanager
def _no_orphans() -> Iterator[None]:
    """A SIGTERM ends the engine that is being measured, too."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _own(arguments: argparse.Namespace) -> int:
    """This package alone: its shortcuts, or how its time grows."""
    if not 1 <= arguments.prompts <= len(PROMPTS):
        raise RequestError(f"--prompts is {arguments.prompts}: choose 1 to {len(PROMPTS)}")
    if arguments.growth and (arguments.steps or 1) > MOST_STEPS:
        raise RequestError(
            f"--steps is {arguments.steps}: --growth draws with up to four times as many, choose 1 to {MOST_STEPS}"
        )
    torch.set_num_threads(arguments.threads)
    plain = Request(num_steps=arguments.steps)
    model, rounds, threads = arguments.model, arguments.rounds, arguments.threads
    out = arguments.report or arguments.out or Path("runs/bench/report")
    _check_writable(out)
    if arguments.growth:
        pipeline, series = measure_growth(model, plain, rounds)
        print(write_growth(pipeline, plain, series, out, threads))
    else:
        pipeline, levers = measure_levers(model, plain, rounds, arguments.decoder, PROMPTS[: arguments.prompts])
        print(write_levers(pipeline, plain, levers, out, threads))
    return 0


def _some_of(what: str, names: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if names is None:
        return known
    wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    if unknown := [name for name in wanted if name not in known] or ([] if wanted else [names]):
        raise RequestError(f"there is no {what} {unknown[0][:40]!r}: choose some of {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def _forget(settings: Settings) -> None:
    """The results that are asked for, and all where the others were of other settings; not the models."""
    for workload in settings.workloads:
        folder = settings.out / workload.name
        results = [turn.path(settings.out) for turn in turns(settings) if turn.workload == workload]
        if read_result(folder / "settings.json") != settings.about():
            results = [folder / "settings.json", *folder.glob("*-*.json")]
        for path in (folder / "peaks.json", *results):
            path.unlink(missing_ok=True)
            path.with_suffix(".safetensors").unlink(missing_ok=True)
