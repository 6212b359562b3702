"""The bench of this package alone: what its shortcuts save and cost, and how its time grows."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from toy import toy_pipeline

from stablediff import Pipeline
from stablediff.bench import command, levers
from stablediff.bench.growth import Series, wishes_for
from stablediff.bench.levers import picture_error
from stablediff.bench.material import is_made, make_material
from stablediff.bench.workloads import QUICK
from stablediff.cli import main
from stablediff.request import Request

# --- our own shortcuts -----------------------------------------------------------------------------------------------


def test_shortcuts_are_measured_beside_the_plain_way(
    tiny_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(levers, "can_compile", lambda _device: False)  # which takes a minute
    folder = str(tiny_model("sd1").folder)
    arguments = ["bench", "--levers", "--model", folder, "--steps", "6", "--rounds", "1", "--threads", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    out, progress = capsys.readouterr()
    assert "half the steps, round 1 of 1: " in progress
    report = Path(out.strip())
    assert report.parent == tmp_path
    found = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))["levers"]
    assert found["plain"]["times_faster"] == 1
    assert found["plain"]["picture_error"] == 0
    assert found["four times the steps"]["fine_picture_error"] == 0
    assert found["plain"]["fine_picture_error"] == found["four times the steps"]["picture_error"] > 0
    assert {"half the steps", "deep layers at 1 call of 2", "50% of the tokens merged"} <= set(found)
    for name, figures in found.items():
        assert figures["seconds"] > 0
        assert figures["picture_error"] > 0 or not name.startswith("deep layers"), name
    text = report.read_text(encoding="utf-8")
    assert all(name in text for name in found)
    assert (tmp_path / report.with_suffix(".png").name).is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--levers", "--model", "nonsense"], "there is no model 'nonsense'"),
        (["--growth", "--model", "nonsense", "--out", "new/report"], "there is no model 'nonsense'"),
        (["--levers", "--decoder", "nope.safetensors", "--out", "new"], "nope.safetensors"),
    ],
)
def test_a_refusal_comes_at_once_and_leaves_nothing_behind(
    arguments: list[str],
    words: str,
    tiny_model: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def heavy(*_: object, **options: object) -> None:
        raise AssertionError(f"{options} was loaded before the decoder")

    monkeypatch.chdir(tmp_path)
    if "--decoder" in arguments:
        arguments = [*arguments, "--model", str(tiny_model("sd1").folder)]
        real = levers.load
        monkeypatch.setattr(
            levers, "load", lambda *names, **how: (heavy if {"compiled", "dtype"} & how.keys() else real)(*names, **how)
        )
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_report_where_a_file_is_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert main(["bench", "--growth", "--out", str(tmp_path / "file")]) == 2
    assert f"cannot write --out {tmp_path / 'file'}: it is no folder" in capsys.readouterr().err


def test_where_a_sampler_that_adds_noise_would_come_to_is_not_asked(toy: Pipeline, tmp_path: Path):
    measured = levers.Measured(0.2, [0.1], [math.nan], [0.1], [0.1], [Image.new("RGB", (8, 8))])
    for wishes, shown in (({"sampler": "euler"}, 0.0), ({"sampler": "lcm"}, None), ({"num_steps": 300}, None)):
        plain = Request(**wishes)
        found = {lever.name: measured for lever in levers.levers_for(toy, plain, None)}
        report = levers.write_levers(toy, plain, found, tmp_path, 1)
        figures = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))["levers"]
        assert {one["fine_picture_error"] for one in figures.values()} == {shown}


def test_a_picture_that_is_two_off_has_an_error_of_two():
    one, other = Image.new("RGB", (4, 4), (10, 10, 10)), Image.new("RGB", (4, 4), (12, 8, 10))
    mean, rms = picture_error([one], [other])
    assert math.isclose(mean, 4 / 3, rel_tol=1e-6)
    assert math.isclose(rms, math.sqrt(8 / 3), rel_tol=1e-6)


# --- how the time grows ----------------------------------------------------------------------------------------------


def test_growth_is_measured_over_steps_size_and_pictures(
    tiny_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = str(tiny_model("sd1").folder)
    arguments = ["bench", "--growth", "--model", folder, "--steps", "2", "--rounds", "1", "--threads", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    out, progress = capsys.readouterr()
    assert "8 steps: " in progress
    report = Path(out.strip())
    found = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))["series"]
    assert [series["name"] for series in found] == ["steps", "size", "pictures"]
    assert found[0]["across"] == [1, 2, 4, 8]
    assert found[2]["across"] == [1, 2, 4]
    for series in found:
        assert len(series["seconds"]) == len(series["across"])
        assert all(seconds > 0 for seconds in series["seconds"])
    assert "| steps |" in report.read_text(encoding="utf-8")
    with Image.open(report.with_suffix(".png")) as plot:
        assert plot.width == 3 * plot.height * 360 // 320


def test_what_is_drawn_for_growth_differs_in_one_thing_only():
    pipeline = toy_pipeline()
    plain = Request(num_steps=3, seed=1)
    for name, _unit, wishes in wishes_for(pipeline, plain):
        changed = {"steps": ("num_steps",), "size": ("width", "height"), "pictures": ("num_images",)}[name]
        for _, request in wishes:
            assert replace(request, **{field: getattr(plain, field) for field in changed}) == plain
        amounts = [amount for amount, _ in wishes]
        assert amounts == sorted(set(amounts))


def test_a_straight_line_is_found_as_one():
    straight = Series("steps", "steps", (1, 2, 4), (5.0, 7.0, 11.0))
    assert straight.line == pytest.approx((3.0, 2.0))
    assert straight.bend == pytest.approx(0.0, abs=1e-12)
    square = Series("size", "megapixels", (1, 2, 4), (1.0, 4.0, 16.0))
    assert square.power == pytest.approx(2.0)
    assert square.bend > 0.05


@pytest.mark.parametrize("report", ["--growth", "--levers", "--quick"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(
    report: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for measure in ("measure_growth", "measure_levers", "run"):
        monkeypatch.setattr(command, measure, lambda *_: pytest.fail("it began"))
    (tmp_path / "file").write_text("")
    assert main(["bench", report, "--report", str(tmp_path / "file")]) == 2
    assert "file" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--levers", "--quick"], "--quick is an option of a comparison with others, not of --levers"),
        (["--growth", "--engines", "stablediff"], "--engines is an option of a comparison with others"),
        (["--growth", "--prompts", "1"], "--prompts is an option of --levers, not of --growth"),
        (["--quick", "--model", "sticker"], "--model is an option of --levers and --growth, not of a comparison"),
        (["--steps", "3"], "--steps is an option of --levers and --growth"),
        (["--decoder", "tiny.safetensors"], "--decoder is an option of --levers"),
    ],
)
def test_options_of_another_report_are_refused(options: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", *options]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("report", ["--growth", "--levers"])
def test_steps_are_called_as_they_were_typed(report: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", report, "--steps", "0"]) == 2
    assert "--steps is 0: choose 1 to 1000" in capsys.readouterr().err


def test_more_steps_than_growth_can_quadruple_are_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "--growth", "--steps", "251"]) == 2
    told = "--steps is 251: --growth draws with up to four times as many, choose 1 to 250"
    assert told in capsys.readouterr().err


def test_two_reports_at_once_are_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "--growth", "--levers"]) == 2
    assert "--levers and --growth are two reports: choose one of them" in capsys.readouterr().err


# --- the bundled model ------------------------------------------------------------------------------------------------


def test_another_bundled_model_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    toy_pipeline().save(tmp_path / "model")
    monkeypatch.setattr("stablediff.bench.material.bundled_model", lambda: str(tmp_path / "model"))
    workload = replace(QUICK[0], name="toy", config=None, width=64, height=64)
    make_material(workload, tmp_path / "material")
    (tmp_path / "material" / "openvino").mkdir()  # what an engine has made of it
    assert is_made(workload, tmp_path / "material")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert not is_made(workload, tmp_path / "material")
    make_material(workload, tmp_path / "material")
    assert not (tmp_path / "material" / "openvino").exists()
