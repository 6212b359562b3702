"""The bench: the same work for all, nothing faked, nothing done twice. On tiny networks, which say nothing of speed."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from reference import randn
from torch import Tensor

from stablediff import RequestError
from stablediff.bench import run as module
from stablediff.bench import worker
from stablediff.bench.engines import ENGINES, engine_class
from stablediff.bench.gate import TOLERANCES, judge, relative_error
from stablediff.bench.material import count_flops, make_material, read_material
from stablediff.bench.report import markdown, write_report
from stablediff.bench.results import collect
from stablediff.bench.run import Settings, read_result, run, turns
from stablediff.bench.workloads import FULL, LANES, QUICK, Workload, choose_workloads
from stablediff.cli import main
from stablediff.device import cpu_computes_int8


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a fresh process an engine, which takes seconds to import torch."""

    def call(command: list[str], **_: Any) -> Any:
        path = Path(command[-1])
        try:
            worker.main(path)
        except Exception as error:
            return SimpleNamespace(returncode=1, stderr=f"Traceback\n{type(error).__name__}: {error}\n")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=call))


def settings_for(out: Path, *engines: str, **more: Any) -> Settings:
    usual = {"workloads": QUICK[:1], "lanes": ("float32",), "threads": 1, "quick": True, "rounds": 1, "pictures": 1}
    return Settings(out=out, engines=engines, **{**usual, **more})


# --- the same for all ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", QUICK, ids=lambda workload: workload.name)
def test_engines_compute_the_same(workload: Workload, tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff", "diffusers", workloads=(workload,))
    run(settings, lambda _line: None)
    results = collect(settings)
    assert results["workloads"][workload.name]["reference"] == "diffusers"
    ours, theirs = results["rows"]
    assert (ours["status"], theirs["status"]) == ("done", "done"), ours["why"] + theirs["why"]
    assert theirs["error"] == 0
    assert ours["error"] <= TOLERANCES["float32"]
    assert ours["forwards"] == theirs["forwards"] == workload.steps
    for row in (ours, theirs):
        assert row["warm_min"] <= row["warm"] <= row["warm_max"]
        assert row["share"] == pytest.approx(
            row["gflops"] / max(results["workloads"][workload.name]["peaks"]["float32"].values())
        )
        assert (row["decode"] is not None) == workload.decodes


def test_precisions_are_lanes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "cpu_computes_bfloat16", lambda: True)
    settings = settings_for(tmp_path, "stablediff", "sd.cpp", lanes=LANES)
    assert [(turn.lane, turn.engine) for turn in turns(settings)] == [
        ("float32", "stablediff"),
        ("float32", "sd.cpp"),
        ("bfloat16", "stablediff"),
        ("int8", "stablediff"),
        ("int8", "sd.cpp"),
    ]
    run(replace(settings, engines=("stablediff",)), lambda _line: None)
    exact, rounded, int8 = collect(replace(settings, engines=("stablediff",)))["rows"]
    assert exact["status"] == rounded["status"] == "done"
    assert exact["error"] <= TOLERANCES["float32"]
    assert 1e-4 < rounded["error"] < TOLERANCES["bfloat16"]
    assert int8["status"] == ("done" if cpu_computes_int8() else "unable")


def test_without_its_arithmetic_bfloat16_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "cpu_computes_bfloat16", lambda: False)
    settings = settings_for(tmp_path, "stablediff", lanes=("float32", "bfloat16"))
    run(settings, lambda _line: None)
    (_, row) = collect(settings)["rows"]
    assert (row["status"], row["why"]) == ("unable", "this CPU has no bfloat16 arithmetic")


def test_the_work_is_counted(tmp_path: Path):
    """One convolution by hand, and guidance doubles a forward."""
    guided = QUICK[0]
    alone = replace(guided, guidance=1.0)
    counts = []
    for number, workload in enumerate((guided, alone)):
        make_material(workload, tmp_path / str(number))
        counts.append(count_flops(read_material(workload, tmp_path / str(number))))
    assert counts[0]["forward"] == pytest.approx(2 * counts[1]["forward"], rel=0.01)
    assert counts[0]["decode"] == counts[1]["decode"] > 64 * 64 * 2 * 9 * 16 * 3, "its last convolution"


def test_rounds_go_to_and_fro(tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff", "diffusers", rounds=3)
    order = [turn.engine for turn in turns(settings)]
    assert order == ["stablediff", "diffusers", "diffusers", "stablediff", "stablediff", "diffusers"]


# --- nothing is faked ------------------------------------------------------------------------------------------------


def test_a_missing_peer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ENGINES, "openvino", replace(ENGINES["openvino"], needs=("no_such_module",)))
    settings = settings_for(tmp_path, "stablediff", "openvino")
    lines: list[str] = []
    run(settings, lines.append)
    assert any("openvino, round 1: missing, not installed: no_such_module" in line for line in lines)
    (ours, theirs) = collect(settings)["rows"]
    assert (ours["status"], theirs["status"], theirs["warm"]) == ("done", "missing", None)
    report = markdown(collect(settings), {})
    assert "- OpenVINO: missing, not installed: no_such_module" in report
    assert "| OpenVINO" not in report


def test_a_command_that_measured_nothing_did_not_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(ENGINES, "openvino", replace(ENGINES["openvino"], needs=("no_such_module",)))
    command = ["bench", "--quick", "--workloads", "sd15", "--engines", "openvino", "--lanes", "float32"]
    assert main([*command, "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]) == 1
    assert "not one engine was measured" in capfd.readouterr().err


def test_more_than_the_peak_is_doubted(tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff")
    run(settings, lambda _line: None)
    found = collect(settings)
    for share, doubted in ((0.9, False), (1.5, True)):
        found["rows"][0]["share"] = share
        assert ("More than the peak: either others were at work" in markdown(found, {})) == doubted


class Other:
    """An engine that computes something else, or breaks."""

    def __init__(self, *arguments: Any) -> None:
        self.ours = engine_class("stablediff")(*arguments)  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ours, name)

    def forward(self, x: Tensor, t: float) -> Tensor:
        return 1.01 * self.ours.forward(x, t)


class Broken(Other):
    def decode(self, _latents: Tensor) -> Tensor:
        raise RuntimeError("no decoder here")


class Infinite(Other):
    def forward(self, x: Tensor, _t: float) -> Tensor:
        return x / 0


@pytest.mark.parametrize(
    ("kind", "status", "why"),
    [
        ("Other", "differs", "it computes something else (forward: error 0.01)"),
        ("Broken", "failed", "RuntimeError: no decoder here"),
        ("Infinite", "failed", "it gave numbers that are not finite"),
    ],
)
def test_what_computes_something_else_is_not_compared(
    kind: str, status: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(ENGINES, "odd", replace(ENGINES["stablediff"], title="odd"))
    usual = worker.engine_class
    monkeypatch.setattr(worker, "engine_class", lambda name: globals()[kind] if name == "odd" else usual(name))
    settings = settings_for(tmp_path, "stablediff", "odd")
    run(settings, lambda _line: None)
    row = collect(settings)["rows"][1]
    assert (row["status"], row["why"], row["warm"]) == (status, why, None)
    assert f"- odd: {status}, {why}" in markdown(collect(settings), {})


def test_errors_are_relative_and_shapes_count():
    a = randn(2, 3, 4)
    assert relative_error(a, a) == 0
    assert relative_error(1.1 * a, a) == pytest.approx(0.1)
    assert relative_error(a[:1], a) == math.inf
    assert not judge({"forward": a}, {}, "float32").passed
    assert judge({"picture": a}, {"picture": a + 0.01}, "float32").passed
    assert not judge({"picture": a}, {"picture": a + 0.02}, "float32").passed
    assert not judge({"picture": a}, {"picture": a[:1]}, "float32").passed
    assert not judge({"forward": a, "decode": a * math.nan}, {"forward": a, "decode": a}, "float32").passed
    verdict = judge({"forward": a, "decode": a * 1.5}, {"forward": a, "decode": a}, "int8")
    assert (verdict.where, verdict.passed) == ("decode", False)


# --- nothing is done twice -------------------------------------------------------------------------------------------


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff", "diffusers")

    def break_off(line: str) -> None:
        if "stablediff, round 1" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, break_off)
    (ours, _) = turns(settings)
    kept = ours.path(tmp_path).read_text()
    lines: list[str] = []
    run(settings, lines.append)
    assert [line.partition(": ")[2] == "kept from before" for line in lines if line[0] == "["] == [True, False]
    assert "sd15 float32: diffusers is at work" in lines
    assert ours.path(tmp_path).read_text() == kept


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "done", "warm": [1]}'])
def test_a_result_that_was_cut_off_is_made_again(text: str, tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff")
    run(settings, lambda _line: None)
    (turn,) = turns(settings)
    turn.path(tmp_path).write_text(text)
    run(settings, lambda _line: None)
    assert read_result(turn.path(tmp_path))["status"] == "done"


def test_one_lane_alone_has_something_to_be_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "cpu_computes_bfloat16", lambda: True)
    settings = settings_for(tmp_path, "stablediff", lanes=("bfloat16",))
    run(settings, lambda _line: None)
    (row,) = collect(settings)["rows"]
    assert row["status"] == "done", row["why"]
    assert 1e-4 < row["error"] < TOLERANCES["bfloat16"]


@pytest.mark.parametrize("damage", ["cut off", "gone"])
@pytest.mark.parametrize(
    "name",
    ["stablediff-float32-0", "reference", "flops", "peaks", "material/done", "material/inputs", "material/model/unet"],
)
def test_what_was_damaged_since_is_made_again(name: str, damage: str, tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff")
    run(settings, lambda _line: None)
    folder = tmp_path / "sd15"
    path = folder / f"{name}.{'json' if name in ('flops', 'peaks', 'material/done') else 'safetensors'}"
    if name == "material/model/unet":
        path = folder / name / "diffusion_pytorch_model.safetensors"
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:20])
    run(settings, lambda _line: None)
    (row,) = collect(settings)["rows"]
    assert (row["status"], row["why"]) == ("done", "")
    assert row["share"] > 0


def test_settings_that_cannot_be_read_are_not_taken_for_the_same(tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff")
    run(settings, lambda _line: None)
    for text in ("{", json.dumps({**settings.about(), "more": 1})):
        (tmp_path / "sd15" / "settings.json").write_text(text)
        with pytest.raises(RequestError, match="choose another --out, or --fresh"):
            run(settings, lambda _line: None)


def test_measuring_some_again_keeps_the_others(tmp_path: Path):
    both = ["bench", "--quick", "--workloads", "sd15", "--lanes", "float32", "--rounds", "1", "--pictures", "1"]
    both += ["--threads", "1", "--out", str(tmp_path), "--engines"]
    assert main([*both, "stablediff,diffusers"]) == 0
    paths = [tmp_path / "sd15" / f"{engine}-float32-0.json" for engine in ("stablediff", "diffusers")]
    ours, theirs = (path.stat().st_mtime_ns for path in paths)
    assert main([*both, "stablediff", "--fresh"]) == 0
    assert paths[0].stat().st_mtime_ns > ours
    assert paths[1].stat().st_mtime_ns == theirs


def test_results_of_other_settings_are_not_mixed(tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff")
    run(settings, lambda _line: None)
    with pytest.raises(RequestError, match="has results with pictures 1, not 2: choose another --out, or --fresh"):
        run(replace(settings, pictures=2), lambda _line: None)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_leaves_tables_and_plots(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    command = [
        "bench",
        "--quick",
        "--workloads",
        "sd15",
        "--engines",
        "stablediff",
        "--lanes",
        "float32",
        "--rounds",
        "1",
    ]
    assert main([*command, "--pictures", "2", "--threads", "1", "--out", str(tmp_path / "out")]) == 0
    out, err = capfd.readouterr()
    report = Path(out.strip())
    assert report == tmp_path / "out" / "report" / "results.md"
    text = report.read_text()
    assert "says nothing about speed" in text
    assert "of 2) |" in text
    assert (report.parent / "sd15.png").stat().st_size > 1000
    assert json.loads((report.parent / "results.json").read_text())["rows"][0]["status"] == "done"
    assert "[1/1] sd15 float32 stablediff, round 1: " in err
    assert main([*command, "--pictures", "1", "--threads", "1", "--out", str(tmp_path / "out"), "--fresh"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workloads", "sd9"], "there is no workload 'sd9': choose some of sd15, lcm"),
        (["--engines", "magic"], "there is no engine 'magic': choose some of stablediff, diffusers"),
        (["--lanes", "float8"], "there is no lane 'float8': choose some of float32, bfloat16, int8"),
        (["--threads", "0"], "--threads is 0: choose 1 to 1000"),
        (["--workloads", " , "], "there is no workload ' , '"),
        (["--lanes", ","], "there is no lane ','"),
    ],
)
def test_wrong_words_are_refused(arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]):
    assert main(["bench", "--quick", *arguments]) == 2
    assert words in capfd.readouterr().err


def test_what_is_valid_and_says_nothing_is_measured_again(tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff")
    run(settings, lambda _line: None)
    for name in ("flops", "peaks"):
        (tmp_path / "sd15" / f"{name}.json").write_text('{"x": 1}')
    run(settings, lambda _line: None)
    (row,) = collect(settings)["rows"]
    assert row["share"] > 0


@pytest.mark.parametrize("option", ["--out", "--report"])
def test_places_that_cannot_be_written_are_named(option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    assert main(["bench", "--quick", "--out", str(tmp_path / "out"), option, str(tmp_path / "file")]) == 2
    assert f"cannot write {option} {tmp_path / 'file'}" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["bench", "--quick", option, ""])
    assert "an empty name is no folder" in capfd.readouterr().err


def test_two_benches_do_not_share_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    arguments = ["bench", "--quick", "--workloads", "sd15", "--engines", "stablediff", "--out", str(tmp_path)]
    with FileLock(tmp_path / ".lock"):
        assert main(arguments) == 2
    assert f"another run is at work in {tmp_path}: wait for it, or choose another" in capfd.readouterr().err
    assert not (tmp_path / "sd15").exists()


def test_an_engine_that_the_system_killed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = settings_for(tmp_path, "stablediff")
    run(replace(settings, engines=()), lambda _line: None)
    killed = SimpleNamespace(returncode=-signal.SIGKILL, stderr="")
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=lambda *_arguments, **_options: killed))
    run(settings, lambda _line: None)
    (row,) = collect(settings)["rows"]
    assert (row["status"], row["why"]) == (
        "failed",
        "it was killed, as the system does with what takes too much memory",
    )


def test_real_workloads_have_their_true_shapes():
    table = {workload.name: workload for workload in FULL}
    assert choose_workloads(None, quick=False) == FULL
    assert table["sd15"].config is not None
    assert table["sd15"].config.unet.channels == (320, 640, 1280, 1280)
    assert table["sdxl"].width == 1024


def test_reports_of_nothing_can_be_written(tmp_path: Path):
    settings = settings_for(tmp_path, "stablediff")
    run(replace(settings, engines=()), lambda _line: None)
    text = write_report(collect(settings), tmp_path / "report").read_text()
    assert "- stablediff: failed, it was not measured yet" in text
