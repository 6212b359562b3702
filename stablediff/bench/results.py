"""All turns of a run -> one table: medians, spreads, errors, and the share of what the CPU can do."""

import math
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from torch import Tensor

from stablediff.bench.engines import ENGINES
from stablediff.bench.gate import judge
from stablediff.bench.run import Settings, Turn, is_done, read_result, read_tensors, turns, workload_about


@dataclass(frozen=True)
class Row:
    """An engine in a lane. Seconds; `peak_rss` in bytes; None where it does not apply. Only "done" is compared."""

    workload: str
    lane: str
    engine: str
    status: str  # "done", "missing", "unable", "failed", "differs"
    why: str = ""
    version: str = ""
    error: float | None = None
    load: float | None = None
    first: float | None = None
    warm: float | None = None
    warm_min: float | None = None
    warm_max: float | None = None
    pictures: int = 0
    forward: float | None = None
    decode: float | None = None
    forwards: int = 0
    peak_rss: int | None = None
    gflops: float | None = None  # of the forwards
    share: float | None = None  # of the peak of its lane


def collect(settings: Settings) -> dict[str, Any]:
    """Everything that the report tells, ready for JSON."""
    rows, workloads = [], {}
    for workload in settings.workloads:
        flops, peaks = (read_result(settings.out / workload.name / f"{what}.json") for what in ("flops", "peaks"))
        mine = [turn for turn in turns(settings) if turn.workload == workload]
        folder = settings.out / workload.name
        reference_name = read_result(folder / "reference.json").get("engine", "diffusers")
        reference = read_tensors(folder / "reference.safetensors")
        workloads[workload.name] = {
            **workload_about(workload),
            "flops": flops,
            "peaks": peaks,
            "reference": reference_name,
        }
        for lane in settings.lanes:
            for engine in settings.engines:
                its = [turn for turn in mine if (turn.engine, turn.lane) == (engine, lane)]
                if its:
                    rows.append(_row(settings, its, reference, flops, peaks.get(lane, {})))
    return {
        "settings": settings.about(),
        "workloads": workloads,
        "rows": [asdict(row) for row in rows],
    }


def _row(
    settings: Settings, its: list[Turn], reference: dict[str, Tensor], flops: dict[str, float], peak: dict[str, float]
) -> Row:
    first = its[0]
    name = (first.workload.name, first.lane, first.engine)
    finished = [turn for turn in its if is_done(settings, turn)]
    done = [read_result(turn.path(settings.out)) for turn in finished]
    if not done:
        last = read_result(its[-1].path(settings.out))
        status = last.get("status", "failed")
        return Row(*name, "failed" if status == "done" else status, last.get("why") or "it was not measured yet")
    verdicts = [judge(read_tensors(turn.outputs(settings.out)), reference, first.lane) for turn in finished]
    worst = max(verdicts, key=lambda verdict: math.inf if math.isnan(verdict.error) else verdict.error)
    error = worst.error if math.isfinite(worst.error) else None
    if not all(verdict.passed for verdict in verdicts):
        why = f"it computes something else ({worst.where}: error {worst.error:.2g})"
        return Row(*name, status="differs", why=why, error=error, version=done[0]["version"])
    warm = [seconds for one in done for seconds in one["warm"]]
    forward = [seconds for one in done for seconds in one["forward"]]
    decode = [seconds for one in done for seconds in one["decode"]]
    gflops = flops["forward"] / median(forward) / 1e9 if forward else None
    best = max(peak.values(), default=0.0)
    return Row(
        *name,
        status="done",
        version=done[0]["version"],
        error=error,
        load=median(one["load"] for one in done),
        first=median(one["first"] for one in done),
        warm=median(warm),
        warm_min=min(warm),
        warm_max=max(warm),
        pictures=len(warm),
        forward=median(forward) if forward else None,
        decode=median(decode) if decode else None,
        forwards=done[0]["forwards"],
        peak_rss=max(one["peak_rss"] for one in done),
        gflops=gflops,
        share=gflops / best if gflops and best else None,
    )


def title_of(engine: str) -> str:
    return ENGINES[engine].title
