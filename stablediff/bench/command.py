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

from stablediff import typed
from stablediff.bench.engines import ENGINES
from stablediff.bench.growth import MOST_STEPS, measure_growth, write_growth
from stablediff.bench.levers import PROMPTS, measure_levers, write_levers
from stablediff.bench.report import write_report
from stablediff.bench.results import collect
from stablediff.bench.run import Settings, read_result, run, turns
from stablediff.bench.workloads import FULL, LANES, choose_workloads
from stablediff.checkpoints.locate import DEFAULT_MODEL
from stablediff.errors import RequestError
from stablediff.files import why_unwritable
from stablediff.locks import LOCK, alone_in
from stablediff.request import MAX_STEPS, Request

# What belongs to one kind of report only: its names in the namespace, and how it is asked for.
_SIDE_BY_SIDE = ("workloads", "engines", "lanes", "pictures", "quick", "fresh")
_OWN = ("model", "steps")
_LEVERS = ("decoder", "prompts")
_PICTURES = 3


def add_bench(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_bench)
    parser.add_argument("--workloads", metavar="A,B", help=f"some of {', '.join(w.name for w in FULL)} (default: all)")
    parser.add_argument("--engines", metavar="A,B", help=f"some of {', '.join(ENGINES)} (default: all)")
    parser.add_argument("--lanes", metavar="A,B", help=f"some of {', '.join(LANES)} (default: all)")
    parser.add_argument("--threads", type=int, default=_cores(), metavar="N", help="for every engine (default: cores)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="processes an engine (default: 2)")
    parser.add_argument("--pictures", type=int, metavar="N", help=f"warm ones a process (default: {_PICTURES})")
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it work? It says nothing about speed")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there from before")
    parser.add_argument(
        "--levers", action="store_true", help="instead: what this package's own shortcuts save and cost"
    )
    parser.add_argument(
        "--growth", action="store_true", help="instead: how the time grows with steps, size and number of pictures"
    )
    parser.add_argument("--model", help=f"of --levers and --growth (default: {DEFAULT_MODEL})")
    parser.add_argument("--decoder", metavar="FILE", help="of --levers: a tiny decoder for that model")
    parser.add_argument("--prompts", type=int, metavar="N", help=f"of --levers: so many (default: {len(PROMPTS)})")
    parser.add_argument("--steps", type=int, metavar="N", help="of --levers and --growth (default: the model's own)")
    parser.add_argument(
        "--out",
        type=typed.folder,
        metavar="FOLDER",
        help="models and results (default: runs/bench, or runs/bench-quick)",
    )
    parser.add_argument(
        "--report",
        type=typed.folder,
        metavar="FOLDER",
        help="the tables and plots (default: OUT/report; of --levers and --growth OUT)",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.levers and arguments.growth:
        raise RequestError("--levers and --growth are two reports: choose one of them")
    _check_belongs(arguments)
    for name in ("threads", "rounds", "pictures"):
        number = getattr(arguments, name)
        if number is not None and not 1 <= number <= 1000:
            raise RequestError(f"--{name} is {number}: choose 1 to 1000")
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
        pictures=arguments.pictures or _PICTURES,
    )
    report = arguments.report or out / "report"
    with _alone(out, "--out"), _no_orphans():
        _check_writable(report, "--report")
        if arguments.fresh:
            _forget(settings)
        run(settings, _say)
        found = collect(settings)
        print(write_report(found, report))
    if any(row["status"] == "done" for row in found["rows"]):
        return 0
    _say("not one engine was measured: the report says why")
    return 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check_belongs(arguments: argparse.Namespace) -> None:
    """Raises RequestError for an option that this report would not heed."""
    foreign = {**dict.fromkeys(_OWN, "--levers and --growth"), **dict.fromkeys(_LEVERS, "--levers")}
    report = "a comparison with others"
    if arguments.levers or arguments.growth:
        report = "--levers" if arguments.levers else "--growth"
        foreign = dict.fromkeys(_SIDE_BY_SIDE, "a comparison with others")
        foreign |= {} if arguments.levers else dict.fromkeys(_LEVERS, "--levers")
    for name, owner in foreign.items():
        if getattr(arguments, name) not in (None, False):
            raise RequestError(f"--{name} is an option of {owner}, not of {report}: leave one of them away")


@contextlib.contextmanager
def _alone(out: Path, option: str) -> Iterator[None]:
    """Two at once would disturb each other's times, and write into each other's files. Where nothing came out, nothing
    stays behind. Raises StableDiffError."""
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    _check_writable(out, option)
    try:
        with alone_in(out):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows removes it at the release
                    (out / LOCK).unlink()
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty
            for folder in new:
                folder.rmdir()


def _check_writable(folder: Path, option: str) -> None:
    """Raises RequestError now, and not after hours."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RequestError(f"cannot write {option} {folder}: {why_unwritable(error)}. Choose another place") from error


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
    prompts = len(PROMPTS) if arguments.prompts is None else arguments.prompts
    if not 1 <= prompts <= len(PROMPTS):
        raise RequestError(f"--prompts is {prompts}: choose 1 to {len(PROMPTS)}")
    if arguments.growth and (arguments.steps or 1) > MOST_STEPS:
        raise RequestError(
            f"--steps is {arguments.steps}: --growth draws with up to four times as many, choose 1 to {MOST_STEPS}"
        )
    if arguments.steps is not None and not 1 <= arguments.steps <= MAX_STEPS:
        raise RequestError(f"--steps is {arguments.steps}: choose 1 to {MAX_STEPS}")
    torch.set_num_threads(arguments.threads)
    plain = Request(num_steps=arguments.steps)
    model, rounds, threads = arguments.model or DEFAULT_MODEL, arguments.rounds, arguments.threads
    out = arguments.report or arguments.out or Path("runs/bench/report")
    with _alone(out, "--report" if arguments.report else "--out"):
        if arguments.growth:
            pipeline, series = measure_growth(model, plain, rounds, _say)
            print(write_growth(pipeline, plain, series, out, threads))
        else:
            pipeline, levers = measure_levers(model, plain, rounds, _say, arguments.decoder, PROMPTS[:prompts])
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
    """The results that are asked for, all where the others were of other settings, and what they are compared with; not
    the models."""
    for workload in settings.workloads:
        folder = settings.out / workload.name
        results = [turn.path(settings.out) for turn in turns(settings) if turn.workload == workload]
        if read_result(folder / "settings.json") != settings.about():
            results = [folder / "settings.json", *folder.glob("*-*.json")]
        for path in (folder / "peaks.json", folder / "reference.json", *results):
            path.unlink(missing_ok=True)
            path.with_suffix(".safetensors").unlink(missing_ok=True)
