"""The command line: successes can be repeated."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import QUICK, ROOT, Outcome, assert_refused, subprocess_of
from PIL import Image
from toy import count_calls, toy_pipeline

from stablediff import CheckpointError, Pipeline, Update, drawing, load
from stablediff.checkpoints.lora import save_lora
from stablediff.images import read_parameters, save_png
from stablediff.models.lora import attach_lora
from stablediff.pace import plan
from stablediff.recipe import parse


@pytest.mark.usefixtures("loaded")
def test_success_prints_the_path_of_a_picture_that_carries_its_recipe(run):
    options = ["--seed", "5", "--negative", "blurry", "--guidance", "3", "--sampler", "euler", "--spacing", "karras"]
    outcome = run("generate", "red apple", *QUICK, *options, "--out", "new/folder/apple.png")
    assert (outcome.code, outcome.out) == (0, "new/folder/apple.png\n")
    recipe = parse(read_parameters("new/folder/apple.png"))
    expected = {
        "Prompt": "red apple",
        "Negative prompt": "blurry",
        "Steps": "2",
        "Sampler": "Euler",
        "Schedule type": "Karras",
        "CFG scale": "3.0",
        "Seed": "5",
        "Size": "64x64",
        "Model": "sticker",
    }
    assert expected.items() <= recipe.items()
    assert "seed 5" in outcome.err


@pytest.mark.usefixtures("loaded")
def test_a_command_of_the_bot_is_the_same_picture(run):
    typed = ["red apple", "--seed", "5", "--guidance", "3", "--sampler", "euler", "--no", "blurry", "--pictures", "1"]
    assert run("generate", *typed, *QUICK, "--out", "one.png").code == 0
    command = "/gen red apple --steps 2 --seed 5 --size 64x64 --guidance 3 --sampler euler --pictures 1 --no blurry"
    assert run("generate", command, "--out", "two.png").code == 0
    assert Image.open("one.png").tobytes() == Image.open("two.png").tobytes()
    assert read_parameters("one.png") == read_parameters("two.png")
    assert run("generate", command, "--seed", "6", "--out", "three.png").code == 0  # what is typed beside it goes first
    assert parse(read_parameters("three.png"))["Seed"] == "6"
    assert_refused(run("generate", f"{command} --strength 0.3"), "give that one with --init")


@pytest.mark.usefixtures("loaded")
def test_like_repeats_a_picture_to_the_last_bit(run):
    options = ["--sampler", "ddim", "--eta", "0.5", "--guidance", "2.7", "--guidance-rescale", "0.3"]
    run("generate", "red (apple:1.2), naïve style", *QUICK, *options, "--negative", "a\nb", "--out", "one.png")
    assert run("generate", "--like", "one.png", "--out", "two.png").code == 0
    one, two = Image.open("one.png"), Image.open("two.png")
    assert one.tobytes() == two.tobytes()
    assert read_parameters("one.png") == read_parameters("two.png")


@pytest.mark.usefixtures("loaded")
def test_a_painted_picture_is_repeated_with_its_picture_and_its_mask(run):
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save("photo.png")
    Image.radial_gradient("L").resize((64, 64)).save("mask.png")
    painted = ["--init", "photo.png", "--mask", "mask.png"]
    assert run("generate", "red apple", *QUICK, *painted, "--out", "one.png").code == 0
    like = ["generate", "--like", "one.png", "--out", "two.png"]
    assert_refused(run(*like), "give that one with --init")
    assert_refused(run(*like, "--init", "photo.png"), "give that one with --mask")
    outcome = run(*like, *painted)
    assert outcome.code == 0
    assert "will differ" not in outcome.err
    assert Image.open("one.png").tobytes() == Image.open("two.png").tobytes()
    outcome = run(*like, "--init", "photo.png", "--mask", "photo.png")
    assert outcome.code == 0
    assert "note: one.png was drawn from another mask, so this one will differ from it" in outcome.err


@pytest.mark.usefixtures("loaded")
def test_what_is_not_understood_of_a_recipe_is_said(run):
    save_png(Image.new("RGB", (8, 8)), Path("other.png"), "fox\nSteps: 2, Sampler: Restart, Size: 64x64, Seed: 3")
    outcome = run("generate", "--like", "other.png", "--out", "two.png")
    assert outcome.code == 0
    assert "note: Sampler: 'Restart' is not known here, and the model's own is taken instead" in outcome.err


@pytest.mark.usefixtures("loaded")
def test_what_is_typed_goes_before_what_a_recipe_says_wrongly(run):
    save_png(Image.new("RGB", (8, 8)), Path("big.png"), "fox\nSteps: 5000, Sampler: Euler, Seed: -1, Size: 4096x4096")
    assert_refused(run("generate", "--like", "big.png", "--out", "two.png"), "--steps is 5000")
    typed = ["--steps", "2", "--seed", "1", "--size", "64x64"]
    assert run("generate", "--like", "big.png", *typed, "--out", "two.png").code == 0


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("other", [["--sampler", "euler"], ["--seconds", "600"], ["--quality", "draft"]])
def test_another_sampler_does_not_keep_the_noise_of_the_former(run, other: list[str]):
    save_png(Image.new("RGB", (8, 8)), Path("eta.png"), "fox\nSteps: 2, Sampler: DDIM, Eta: 0.5, Seed: 1, Size: 64x64")
    assert run("generate", "--like", "eta.png", *other, "--out", "two.png").code == 0


def test_names_of_files_are_not_taken_for_options(run):
    assert_refused(run("generate", "fox", "--init", "init_image.png"), "there is no picture init_image.png")


@pytest.mark.usefixtures("loaded")
def test_what_a_budget_chose_and_the_shortcuts_are_said_before_the_work(run):
    outcome = run("generate", "fox", "--seconds", "600", "--size", "64x64", "--cache-interval", "2", "--out", "one.png")
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    (note,) = (number for number, line in enumerate(lines) if line.startswith("note: for 600 s: 40 steps"))
    (line,) = (number for number, line in enumerate(lines) if line.startswith("64x64, 40 steps of "))
    assert note < line
    assert "deep layers at one call of 2: about" in lines[line]


def test_a_picture_with_a_lora_is_repeated_only_with_it(run):
    unet = load(device="cpu", dtype="float32", trainable=True).unet
    for parameter in attach_lora(unet, 2):
        torch.nn.init.constant_(parameter, 0.05)
    for file in ("detail.safetensors", "other.safetensors"):
        save_lora(file, {"unet": unet})
    options = ["--device", "cpu", "--dtype", "float32"]
    run("generate", "red apple", *options, *QUICK, "--seed", "5", "--out", "plain.png")
    lora = ["--lora", "detail.safetensors:0.5", "--lora", "other.safetensors"]
    outcome = run("generate", "red apple", *options, *QUICK, "--seed", "5", "--out", "one.png", *lora)
    assert outcome.code == 0
    assert outcome.err.startswith("sticker + detail (0.5) + other (1): ")
    assert parse(read_parameters(Path("one.png")))["Lora"] == "detail:0.5, other:1"
    assert pixels("one.png") != pixels("plain.png")
    refused = run("generate", "--like", "one.png", *options, "--out", "two.png")
    assert_refused(refused, "one.png was drawn with the LoRA detail:0.5, other:1", "give it with --lora FILE:SCALE")
    assert run("generate", "--like", "one.png", *options, "--out", "two.png", *lora).code == 0
    assert pixels("two.png") == pixels("one.png")


def pixels(file: str) -> bytes:
    return Image.open(file).tobytes()


@pytest.mark.usefixtures("loaded")
def test_like_can_be_changed(run):
    run("generate", "red apple", *QUICK, "--seed", "5", "--out", "one.png")
    run("generate", "blue car", "--like", "one.png", "--seed", "6", "--out", "two.png")
    one, two = (parse(read_parameters(name)) for name in ("one.png", "two.png"))
    assert (two["Prompt"], two["Seed"]) == ("blue car", "6")
    assert {name for name in one if one[name] != two[name]} == {"Prompt", "Seed"}


@pytest.mark.usefixtures("loaded")
def test_several_pictures_are_numbered(run):
    outcome = run("generate", "red apple", *QUICK, "--seed", "5", "--num-images", "3", "--out", "apple.png")
    names = ["apple-1.png", "apple-2.png", "apple-3.png"]
    assert outcome.out.split() == names
    assert [parse(read_parameters(name))["Seed"] for name in names] == ["5", "6", "7"]


@pytest.mark.usefixtures("loaded")
def test_a_link_leads_to_the_picture_as_before(run, tmp_path: Path):
    (tmp_path / "latest.png").symlink_to("kept/apple.png")
    assert run("generate", "red apple", *QUICK, "--out", "latest.png").code == 0
    assert (tmp_path / "latest.png").is_symlink()
    assert "Steps" in parse(read_parameters(tmp_path / "kept" / "apple.png"))


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Red apple, flat style!", "red-apple-flat-style-5"),
        ("", "picture-5"),
        ("../../кот", "кот-5"),
        ("a" * 99, "a" * 40 + "-5"),
    ],
)
@pytest.mark.usefixtures("loaded")
def test_without_a_name_the_picture_is_named_after_its_prompt(run, prompt: str, name: str):
    for expected in (f"{name}.png", f"{name}-2.png", f"{name}-3.png"):
        assert run("generate", prompt, "--steps", "1", "--size", "64", "--seed", "5").out == f"{expected}\n"
        assert Path(expected).is_file()


@pytest.mark.usefixtures("loaded")
def test_a_picture_can_be_changed_within_a_mask(run):
    Image.new("RGB", (96, 64), "red").save("start.jpg")
    Image.new("L", (96, 64), 0).save("mask.png")
    outcome = run("generate", "a cat", "--steps", "2", "--init", "start.jpg", "--mask", "mask.png", "--out", "new.png")
    assert outcome.code == 0
    assert Image.open("new.png").size == (96, 64)
    assert Image.open("new.png").getpixel((5, 5))[:3] == Image.open("start.jpg").getpixel((5, 5))


def test_the_device_and_the_precision_reach_the_model(run, monkeypatch: pytest.MonkeyPatch):
    asked = {}

    def load(model: str, **options: Any) -> Pipeline:
        asked.update(options, model=model)
        raise CheckpointError("enough")

    monkeypatch.setattr(drawing, "load", load)
    options = ["--device", "cpu", "--dtype", "bf16", "--prediction", "sample", "--allow-pickle", "--lora", "C:x:0.5"]
    options += ["--decoder", "taesd", "--compile", "--offload"]
    assert_refused(run("generate", "a cat", "--model", "m", *options), "enough")
    assert asked == {
        "model": "m", "device": "cpu", "dtype": "bf16", "prediction_type": "sample", "allow_pickle": True,
        "loras": [("C:x", 0.5)], "decoder": "taesd", "compiled": True, "offload": True
    }  # fmt: skip


def test_notes_of_the_work_are_shown(run, monkeypatch: pytest.MonkeyPatch):
    pipeline = toy_pipeline()
    pipeline.unet.register_forward_pre_hook(_short_of_memory)
    monkeypatch.setattr(drawing, "load", lambda *_, **__: pipeline)
    outcome = run("generate", "a cat", "--num-images", "2", "--out", "y.png")
    assert outcome.code == 0
    assert "note: memory was short: 1 picture(s) at a time" in outcome.err.splitlines()


def _short_of_memory(_unet: Any, inputs: Any) -> None:
    if len(inputs[0]) > 1:
        raise MemoryError


@pytest.mark.parametrize(("prompt", "told"), [("a zeppelin", True), ("a cat", False)])
def test_of_unknown_words_it_is_said_where_the_known_ones_are(run, prompt: str, told: bool):
    outcome = run("generate", prompt, "--steps", "1", "--size", "64x64", "--out", "y.png")
    note = "has not learnt these words, and can only guess: zeppelin (python -m stablediff models sticker lists"
    assert (note in outcome.err) == told
    assert "499 things: grinning face, " in (listed := " ".join(run("models", "sticker").out.split()))
    assert "red apple" in listed


def test_models_lists_the_bundled_model(run):
    outcome = run("models")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].split() == ["sticker", "bundled,", "the", "default"]


def test_models_describes_a_model(run):
    outcome = run("models", "sticker")
    assert outcome.code == 0
    for words in ("sticker: Stable Diffusion", "U-Net", "autoencoder", "v_prediction", "512x512", "M parameters"):
        assert words in outcome.out


def test_version(run):
    assert run("--version") == (0, "stablediff 0.1.0\n", "")


@pytest.mark.usefixtures("loaded")
def test_names_that_the_terminal_cannot_show_do_no_harm(run, monkeypatch: pytest.MonkeyPatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert run("generate", "кот", *QUICK, "--seed", "5").code == 0
    assert Path("кот-5.png").is_file()
    assert stdout.buffer.getvalue().startswith(b"\\u043a")


# --- breaking off ----------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_finished(run, loaded: Pipeline, monkeypatch: pytest.MonkeyPatch):
    draw = drawing.generate

    def interrupted(*arguments: Any, **options: Any):
        for event in draw(*arguments, **options):
            if isinstance(event, Update) and len(event.images) == 1 and event.stage == "denoise":
                signal.raise_signal(signal.SIGINT)
            yield event

    monkeypatch.setattr(drawing, "generate", interrupted)
    monkeypatch.setattr(plan, "_CELLS_AT_ONCE", {"cpu": 4})  # one at a time
    former = signal.getsignal(signal.SIGINT)
    with count_calls(loaded.unet) as calls:
        outcome = run("generate", "a cat", *QUICK, "--num-images", "3", "--out", "y.png")
    assert (outcome.code, outcome.out) == (130, "y-1.png\n")
    assert len(calls) == 3, "the first picture, and one step of the second"
    assert signal.getsignal(signal.SIGINT) is former


@pytest.mark.usefixtures("loaded")
def test_a_second_ctrl_c_breaks_off(run, monkeypatch: pytest.MonkeyPatch):
    def stuck(*_: Any, **__: Any):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield

    monkeypatch.setattr(drawing, "generate", stuck)
    outcome = run("generate", "a cat")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err.splitlines()[-1] == "stablediff: interrupted"


def test_ctrl_c_ends_the_program_soon_and_quietly(tmp_path: Path):
    arguments = ["-m", "stablediff", "generate", "a cat", "--steps", "1000", "--size", "64", "--out", "y.png"]
    process = subprocess_of(*arguments, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("sticker: "), "the model is loaded"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    out, err = process.communicate(timeout=30)
    assert time.perf_counter() - started < 5
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.9])
def test_ctrl_c_while_python_still_imports_is_quiet(seconds: float, tmp_path: Path):
    process = subprocess_of("-m", "stablediff", "generate", "a cat", "--steps", "1000", "--out", "y.png", cwd=tmp_path)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["&-", "/dev/full"])
def test_nobody_has_to_hear_of_a_picture(where: str, tmp_path: Path):
    """Its errors can be closed; where they fail there is no use in going on."""
    draw = f"'{sys.executable}' -m stablediff generate cat --steps 1 --size 256 --out y.png 2>{where}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "-c", draw], cwd=tmp_path, env=environment)
    drawn = [path.name for path in tmp_path.glob("*.png")]
    assert (done.returncode, drawn) == ((0, ["y.png"]) if where == "&-" else (2, []))


@pytest.mark.usefixtures("loaded")
def test_pictures_are_saved_before_anybody_is_told(run, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, file: Any = None, **__: Any) -> None:
        if file is None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing, "print", full, raising=False)
    outcome = run("generate", "a cat", *QUICK, "--num-images", "2", "--out", "y.png")
    assert outcome.code == 2
    assert outcome.err.endswith("No space left on device: check the disk, and whether this file may be used\n")
    assert sorted(Path().glob("*.png")) == [Path("y-1.png"), Path("y-2.png")]


def test_a_reader_that_has_gone_does_no_harm(tmp_path: Path):
    process = subprocess_of("-m", "stablediff", "models", cwd=tmp_path, stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_to_a_full_disk_is_refused_in_a_line(tmp_path: Path):
    with Path("/dev/full").open("w") as full:
        process = subprocess_of("-m", "stablediff", "models", cwd=tmp_path, stdout=full)
        _, err = process.communicate()
    assert_refused(Outcome(process.returncode, "", err), "No space left on device", "check the disk")


def test_the_module_runs_and_exits_with_the_code(tmp_path: Path):
    process = subprocess_of(
        "-m", "stablediff", "generate", "a cat", "--steps", "0", cwd=tmp_path, stdout=subprocess.PIPE
    )
    out, err = process.communicate()
    assert_refused(Outcome(process.returncode, out, err), "--steps is 0: choose 1 to 1000")


def test_importing_the_package_leaves_slow_libraries_alone():
    code = "import stablediff, stablediff.cli, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    out, err = subprocess_of("-c", code, stdout=subprocess.PIPE).communicate()
    assert err == ""
    assert "torch" in out.split()
    assert not {"gradio", "transformers", "diffusers", "huggingface_hub", "scipy", "matplotlib"} & set(out.split())


@pytest.mark.usefixtures("loaded")
def test_the_bar_shows_the_time_that_is_left_with_decoding(run, monkeypatch: pytest.MonkeyPatch):
    shown: list[str] = []

    class Bar(drawing.tqdm):
        def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:  # noqa: ARG002
            shown.append(s)

    monkeypatch.setattr(drawing, "tqdm", Bar)
    assert run("generate", "a cat", *QUICK, "--steps", "4", "--out", "cat.png").code == 0
    assert re.fullmatch(r"about [\d.]+ s left", shown[-2]), shown
