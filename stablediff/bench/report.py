"""The results as Markdown and plots."""

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from stablediff.bench.results import title_of

_WIDTH, _LEFT, _RIGHT, _BAR, _TOP = 900, 300, 120, 34, 44
_DOUBTFUL = 1.05  # of the peak
_COLOURS = {"float32": "#1f6fb4", "bfloat16": "#d1571f", "int8": "#2a8c4a"}

_HEAD = """# Measured side by side

Written by `python -m stablediff bench`. The same weights, embeddings, noise and noise levels for all;
threads: {threads}. In each of its processes (there are {rounds}) an engine draws a cold picture and then warm ones.
Warm times are medians of all n, with the fastest and the slowest. Precisions are not compared with each other.
"""


def write_report(results: dict[str, Any], out: Path) -> Path:
    """results.json, results.md and a plot a workload. -> the Markdown file."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    plots = {}
    for name in results["workloads"]:
        rows = [row for row in results["rows"] if row["workload"] == name and row["status"] == "done"]
        if rows:
            plots[name] = f"{name}.png"
            bars(rows, results["workloads"][name]["about"]).save(out / plots[name])
    path = out / "results.md"
    path.write_text(markdown(results, plots), encoding="utf-8")
    return path


def markdown(results: dict[str, Any], plots: dict[str, str]) -> str:
    settings = results["settings"]
    parts = [_HEAD.format(**settings)]
    if settings["quick"]:
        parts.append("**Tiny networks (`--quick`): this shows that the bench works, and says nothing about speed.**\n")
    for name, workload in results["workloads"].items():
        rows = [row for row in results["rows"] if row["workload"] == name]
        parts.append(f"## {workload['about']}\n")
        flops, reference = workload["flops"], title_of(workload["reference"])
        decoded = f", a decoded picture {flops['decode'] / 1e9:,.3g}" if workload["decodes"] else ""
        parts.append(
            f"A forward takes {flops['forward'] / 1e9:,.3g} GFLOP{decoded}. Errors are against {reference} in float32. "
            f"{_peaks(workload['peaks'])}\n"
        )
        parts += [_lane(lane, rows) for lane in dict.fromkeys(row["lane"] for row in rows)]
        if any((row["share"] or 0) > _DOUBTFUL for row in rows):
            parts.append(
                "More than the peak: either others were at work while it was measured, or the operations, counted as "
                "the plain way needs them, were fewer (Winograd's convolutions).\n"
            )
        if name in plots:
            parts.append(f"![seconds a picture]({plots[name]})\n")
    return "\n".join(parts)


def _peaks(peaks: dict[str, dict[str, float]]) -> str:
    figures = [f"{lane} {peak['matmul']:.0f} and {peak['conv']:.0f}" for lane, peak in peaks.items()]
    return f"Peaks of this CPU in GFLOPS, of matrix products and 3x3 convolutions: {'; '.join(figures)}."


def _lane(lane: str, rows: list[dict[str, Any]]) -> str:
    mine = [row for row in rows if row["lane"] == lane]
    done = sorted((row for row in mine if row["status"] == "done"), key=lambda row: row["warm"])
    lines = [f"### {lane}\n"]
    if done:
        lines += [
            "| | s a picture (min–max of n) | s a forward | s decoding | first, s | load, s | GB | of peak | error |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
    for row in done:
        spread = f"{row['warm']:.3g} ({row['warm_min']:.3g}–{row['warm_max']:.3g} of {row['pictures']})"
        share = "—" if row["share"] is None else f"{100 * row['share']:.0f} %"
        cells = [
            f"{title_of(row['engine'])} ({row['version']})",
            spread,
            *(_number(row[name]) for name in ("forward", "decode", "first", "load")),
            f"{row['peak_rss'] / 1e9:.2f}",
            share,
            _number(row["error"], "{:.1e}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    others = [f"- {title_of(row['engine'])}: {row['status']}, {row['why']}" for row in mine if row["status"] != "done"]
    return "\n".join([*lines, *([""] if done and others else []), *others]) + "\n"


def _number(value: float | None, form: str = "{:.3g}") -> str:
    return "—" if value is None else form.format(value)


def bars(rows: list[dict[str, Any]], title: str) -> Image.Image:
    """Seconds a picture, a bar an engine with its spread, lanes one below the other."""
    image = Image.new("RGB", (_WIDTH, _TOP + _BAR * len(rows) + 40), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    longest = max(row["warm_max"] for row in rows)

    def across(seconds: float) -> float:
        return _LEFT + seconds / longest * (_WIDTH - _LEFT - _RIGHT)

    draw.text((12, 12), title, fill="black", font=font)
    for number, row in enumerate(sorted(rows, key=lambda row: (row["lane"] != "float32", row["lane"], row["warm"]))):
        top = _TOP + _BAR * number
        middle = top + _BAR // 2 - 4
        draw.text((_LEFT - 10, middle), f"{title_of(row['engine'])[:32]}", fill="black", font=font, anchor="rm")
        draw.rectangle((_LEFT, top, across(row["warm"]), top + _BAR - 10), fill=_COLOURS[row["lane"]])
        draw.line((across(row["warm_min"]), middle, across(row["warm_max"]), middle), fill="black", width=2)
        draw.text((across(row["warm_max"]) + 8, middle), f"{row['warm']:.3g} s", fill="black", font=font, anchor="lm")
    x = _LEFT
    for lane in dict.fromkeys(row["lane"] for row in rows):
        draw.rectangle((x, image.height - 26, x + 12, image.height - 14), fill=_COLOURS[lane])
        draw.text((x + 18, image.height - 20), lane, fill="black", font=font, anchor="lm")
        x += 120
    return image
