"""`python -m stablediff evaluate …`, from icons to a report; and what it says where something is missing."""

import json
from pathlib import Path

import pytest
import torch
from sticker_world import STYLES, THINGS, make_data
from toy import toy_pipeline

from stablediff.cli import main
from stablediff.evaluation.judge.files import load_judge, save_judge
from stablediff.evaluation.judge.network import Judge, JudgeConfig

CONFIG = """
widths = [8, 8, 8]
num_things = 3
things_file = "{things}"
[loop]
steps = 2
batch_size = 4
learning_rate = 1e-3
warmup_steps = 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with icons, a judge that has learnt nothing, and a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("place")
    make_data(folder / "data")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_judge(Judge(JudgeConfig(THINGS, STYLES, (8, 8, 8))), folder / "judge")
    toy_pipeline().save(folder / "model")
    return folder


def evaluate(report: str, place: Path, *more: str, **options: Path) -> int:
    given = {"model": place / "model", "data": place / "data", "judge": place / "judge", "out": place / "out"} | options
    usual = [*(f"--{name}={value}" for name, value in given.items()), "--dtype", "float32", "--per-task", "2"]
    return main(["evaluate", report, *usual, *more])


def test_from_icons_to_a_judge(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "things.txt").write_text("disc\nring\nbar\nbox\n")
    (tmp_path / "judge.toml").write_text(CONFIG.format(things=tmp_path / "things.txt"))
    arguments = ["evaluate", "judge", str(tmp_path / "judge.toml"), "--data", str(place / "data")]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "model")
    assert load_judge(tmp_path / "run" / "model").config.things == ("disc", "ring", "bar")
    (tmp_path / "things.txt").write_text("unicorn\n")
    assert main([*arguments, "--out", str(tmp_path / "other")]) == 2
    assert "there is no thing 'unicorn' among the icons" in capsys.readouterr().err


def test_from_a_model_to_a_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--per-task", "1", "--images", "1", "--tasks", "single object,counting")
    assert evaluate("prompts", place, *few) == 0
    report = Path(capsys.readouterr().out.strip())
    assert report == place / "out" / "report.md"
    figures = json.loads((place / "out" / "prompts.json").read_text())["figures"]
    assert figures["model"] == "model"
    assert list(figures["tasks"]) == ["single object", "counting"]
    assert figures["pictures"] == 2
    assert evaluate("cost", place, *few, "--steps", "1", "--samplers", "ddim", "--guidance", "1") == 0
    text = report.read_text()
    assert "Does it draw what it is asked for?" in text
    assert "ddim, 1 steps, guidance 1" in text


@pytest.mark.parametrize(
    ("report", "options", "more", "message"),
    [
        ("prompts", {"judge": Path("nowhere")}, [], "there is no judge in nowhere: train one"),
        (
            "prompts",
            {"data": Path("nowhere")},
            [],
            "there are no icons in nowhere: run: python -m",
        ),
        ("prompts", {"model": Path("nowhere")}, [], "there is no model 'nowhere'"),
        ("prompts", {}, ["--images", "0"], "--images 0: choose 1 to 64"),
        ("prompts", {}, ["--per-task", "0"], "0 prompts a task"),
        ("prompts", {}, ["--tasks", "dancing"], "there is no task 'dancing'"),
        ("prompts", {}, ["--styles", "baroque"], "does not know the style 'baroque'"),
        ("distribution", {}, [], "and 20 are needed"),
        ("cost", {}, ["--samplers", "magic", "--per-task", "1"], "sampler 'magic' is not known"),
        ("cost", {}, ["--steps", "many"], "'many' is not a list of numbers"),
        ("text", {}, ["--clip", "nowhere"], "there is no CLIP in nowhere"),
        ("text", {}, [], "--clip"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    place: Path,
    report: str,
    options: dict[str, Path],
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        code = evaluate(report, place, *more, **options)
    except SystemExit as error:  # of the parser
        code = int(error.code or 0)
    assert code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("stablediff: ")
    assert message in said


def test_a_folder_of_ones_own(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "folder", "--model", str(place / "model"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--pictures", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*arguments, "--pictures", str(tmp_path / "empty")]) == 2
    assert "has no picture with a caption" in capsys.readouterr().err


def test_other_commands_do_not_wait_for_reports(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "evaluate" in capsys.readouterr().out
