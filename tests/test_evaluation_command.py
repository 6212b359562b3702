"""`python -m stablediff evaluate …`, from icons to a report; and what it says where something is missing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from sticker_world import STYLES, THINGS, make_data, world_of
from toy import toy_pipeline

from stablediff.cli import main
from stablediff.errors import EvaluationError
from stablediff.evaluation.elsewhere import FolderArtist
from stablediff.evaluation.judge.files import load_judge, save_judge
from stablediff.evaluation.judge.network import Judge, JudgeConfig
from stablediff.evaluation.retrieval import Retrieval

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
    (tmp_path / "things.txt").write_text("disc\nring\ndisc\nbar\nbox\n")
    (tmp_path / "judge.toml").write_text(CONFIG.format(things=tmp_path / "things.txt"))
    arguments = ["evaluate", "judge", str(tmp_path / "judge.toml"), "--data", str(place / "data")]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--set", 'styles=["flat", "flat"]']) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "model")
    config = load_judge(tmp_path / "run" / "model").config
    assert (config.things, config.styles) == (("disc", "ring", "bar"), ("flat",))
    strange = [*arguments, "--out", str(tmp_path / "other")]
    for widths in ("[]", "[8,8]", "[7,8,8]", "[-8,8,8]", "[0,0,0]"):
        assert main([*strange, "--set", f"widths={widths}"]) == 2
        assert "choose three positive multiples of 8, as [48, 96, 192]" in capsys.readouterr().err
    assert main([*strange, "--set", 'styles=["baroque"]']) == 2
    assert "there is no style 'baroque' among the icons: choose of flat, soft" in capsys.readouterr().err
    (tmp_path / "things.txt").write_text("unicorn\n")
    assert main(strange) == 2
    assert "there is no thing 'unicorn' among the icons" in capsys.readouterr().err


def test_from_a_model_to_a_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--per-task", "1", "--images", "1", "--tasks", "single object,counting")
    assert evaluate("prompts", place, *few) == 0
    report = Path(capsys.readouterr().out.strip())
    assert report == place / "out" / "report.md"
    figures = json.loads((place / "out" / "prompts.json").read_text())["figures"]
    assert figures["model"] == place.name  # the run, for all of them have their model in "model"
    assert list(figures["tasks"]) == ["single object", "counting"]
    assert figures["pictures"] == 2
    assert evaluate("cost", place, *few, "--steps", "1", "--samplers", "ddim", "--guidance", "1") == 0
    (place / "one.txt").write_text("disc\n")
    assert evaluate("things", place, "--per-thing", "1") == 0
    assert json.loads((place / "out" / "things.json").read_text())["figures"]["things"] == 7
    assert evaluate("things", place, "--per-thing", "2", things=place / "one.txt") == 0
    figures = json.loads((place / "out" / "things.json").read_text())["figures"]
    assert (figures["things"], figures["pictures"]) == (1, 2)
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
        ("things", {}, ["--per-thing", "0"], "--per-thing 0: choose 1 to 64"),
        ("prompts", {}, ["--per-task", "0"], "--per-task 0: choose 1 to 1000"),
        ("prompts", {}, ["--per-task", "1000000000"], "--per-task 1000000000: choose 1 to 1000"),
        ("prompts", {}, ["--styles", ","], "',' names nothing"),
        ("prompts", {"out": Path(__file__)}, [], "choose another --out"),
        ("cost", {}, ["--cost-per-task", "-1"], "--cost-per-task -1: choose 1 to 1000"),
        ("cost", {}, ["--steps", "1,5000"], "num_steps is 5000"),
        ("distribution", {}, ["--limit", "-1"], "--limit -1: choose 1 to"),
        ("things", {}, ["--images", "0"], "--images 0: choose 1 to 64"),
        ("all", {}, ["--limit", "20", "--samplers", "magic"], "and 20 are needed"),
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
    for limit, why in (("0", "choose 1 to 100000"), ("-5", "choose 1 to 100000"), ("5", "20 or more are needed")):
        Image.new("RGB", (64, 64)).save(tmp_path / "empty" / "a.png")
        (tmp_path / "empty" / "a.txt").write_text("words")
        assert main([*arguments, "--pictures", str(tmp_path / "empty"), f"--limit={limit}"]) == 2
        assert why in capsys.readouterr().err


def test_captions_that_are_too_long_are_named_before_anything_is_drawn(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(20):
        Image.new("RGB", (64, 64), (10 * i, 0, 0)).save(tmp_path / f"{i:02}.png")
        (tmp_path / f"{i:02}.txt").write_text("word " * (2_000 if i == 13 else 2))
    arguments = ["evaluate", "folder", "--model", str(place / "model"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--pictures", str(tmp_path)]) == 2
    assert "the caption of 13.png cannot be drawn: prompt has 9,999 characters" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.png"))


def test_models_of_ones_own_have_reports_of_their_own(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "model", tmp_path / "runs" / "mine" / "model")
    few = ("--data", f"{place / 'data'}", "--judge", f"{place / 'judge'}", "--per-task", "1", "--images", "1")
    assert (
        main(["evaluate", "prompts", "--model", "runs/mine/model", "--tasks", "style", "--dtype", "float32", *few]) == 0
    )
    assert capsys.readouterr().out.strip() == "runs/evaluation/mine/report.md"


@pytest.mark.parametrize("report", ["things", "distribution"])
def test_what_a_report_does_not_use_is_not_offered(report: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", report, "--help"])
    offered = capsys.readouterr().out
    assert "--styles" in offered
    assert not [name for name in ("--images", "--per-task", "--tasks") if name in offered]


def test_other_commands_do_not_wait_for_reports(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "evaluate" in capsys.readouterr().out


def test_nothing_is_drawn_before_all_is_looked_at(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for report, more in (
        ("cost", ["--samplers", "ddim,magic", "--steps", "1", "--guidance", "1"]),
        ("others", ["--drawn", str(tmp_path / "nowhere")]),
    ):
        assert evaluate(report, place, *more, out=tmp_path / "out") == 2
        assert not list((tmp_path / "out").rglob("*.png"))
    capsys.readouterr()


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "x", "seed": 1e999, "file": "a.png"}',
        '{"prompt": "x", "seed": 1, "file": "a.png", "seconds": NaN}',
        '{"prompt": "x", "seed": 1, "file": "a.png", "seconds": -1}',
        '{"prompt": "x", "seed": 1, "file": "a.png", "seconds": 1' + 400 * "0" + "}",
        "[" * 100_000,
    ],
)
def test_what_others_say_of_their_pictures_is_checked(tmp_path: Path, line: str) -> None:
    (tmp_path / "pictures.jsonl").write_text(line)
    with pytest.raises(EvaluationError, match="cannot be read in line 1"):
        FolderArtist(tmp_path)


def test_damaged_notes_and_pictures_are_told_apart(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged line of times is passed over; a damaged picture is named, with what to do."""
    few = ("--per-task", "1", "--images", "1", "--tasks", "single object")
    assert evaluate("prompts", place, *few, out=tmp_path) == 0
    (picture,) = (tmp_path / "pictures").glob("*.png")
    with (tmp_path / "pictures" / "seconds.jsonl").open("a") as log:
        log.write('{"file": "x", "seconds": 1' + 400 * "0" + '}\n{"file": \n')
    assert evaluate("prompts", place, *few, out=tmp_path) == 0
    picture.write_bytes(picture.read_bytes()[:100])
    capsys.readouterr()
    assert evaluate("prompts", place, *few, out=tmp_path) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"delete {picture}" in said
    picture.unlink()
    assert evaluate("prompts", place, *few, out=tmp_path) == 0


def test_things_that_nobody_was_shown_cannot_be_looked_up(place: Path) -> None:
    world = world_of(place / "data")
    held_out = replace(world, split=replace(world.split, styles=frozenset((t, s) for t in THINGS for s in STYLES)))
    with pytest.raises(EvaluationError, match="there is nothing to look up"):
        Retrieval(held_out, place)


def test_a_judge_of_things_without_names_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "judge", tmp_path / "judge")
    fields = json.loads((tmp_path / "judge" / "judge.json").read_text())
    for wrong in ({"things": [[thing] for thing in THINGS]}, {"styles": [0, 1]}):
        (tmp_path / "judge" / "judge.json").write_text(json.dumps({**fields, **wrong}))
        with pytest.raises(EvaluationError, match="its names are no text"):
            load_judge(tmp_path / "judge")
