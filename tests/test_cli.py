"""The command line: errors are one line with a remedy, and successes can be repeated."""

import copy
import io
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from toy import count_calls, toy_pipeline

from stablediff import CheckpointError, Pipeline, Update, cli
from stablediff.checkpoints.lora import save_lora
from stablediff.cli import main
from stablediff.images import read_parameters, save_png
from stablediff.models.lora import attach_lora
from stablediff.pace import plan
from stablediff.recipe import parse

ROOT = Path(__file__).parent.parent
QUICK = ["--steps", "2", "--size", "64x64"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`run("generate", "a cat", …)` in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = exit_.code
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, sticker: Pipeline) -> Pipeline:
    """The bundled model, already in memory."""
    monkeypatch.setattr(cli, "load", lambda *_, **__: sticker)
    return sticker


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
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


# --- wrong words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], ["num_steps is 0", "choose 1 to 1000"]),
        (["--steps", "-1"], ["num_steps is -1", "choose 1 to 1000"]),
        (["--steps", "1000000"], ["num_steps is 1000000", "choose 1 to 1000"]),
        (["--steps", "abc"], ["--steps", "'abc' is not a whole number", "--help"]),
        (["--steps", "2.5"], ["--steps", "'2.5' is not a whole number"]),
        (["--steps"], ["--steps", "expected one argument"]),
        (["--seconds", "0"], ["time_budget_s is 0", "choose a number of seconds above 0"]),
        (["--seconds", "-5"], ["time_budget_s is -5"]),
        (["--seconds", "nan"], ["time_budget_s is nan"]),
        (["--seconds", "3600", "--steps", "1"], ["time_budget_s is 3600 with num_steps 1", "leave one of them away"]),
        (["--seconds", "soon"], ["--seconds", "'soon' is not a number"]),
        (["--quality", "great"], ["quality 'great' is not known", "draft, balanced, best"]),
        (["--size", "7x7"], ["width is 7", "choose 64 to 2048"]),
        (["--size", "100000x100000"], ["width is 100000", "choose 64 to 2048"]),
        (["--size", "65x64"], ["width is 65", "multiple of 8, such as 64 or 72"]),
        (["--size", "banana"], ["'banana' is not a size", "as 512x512"]),
        (["--guidance", "nan"], ["guidance_scale is nan", "choose 0 to 100"]),
        (["--guidance", "high"], ["--guidance", "'high' is not a number"]),
        (["--guidance=-inf"], ["guidance_scale is -inf", "choose 0 to 100"]),
        (["--seed", "-1"], ["seed is -1", "choose 0 to"]),
        (["--num-images", "65"], ["num_images is 65", "choose 1 to 64"]),
        (["--strength", "0"], ["strength is 0", "choose more than 0"]),
        (["--sampler", "magic"], ["sampler 'magic' is not known", "choose one of", "dpmpp_2m"]),
        (["--spacing", "wide"], ["spacing 'wide' is not known", "choose one of", "karras"]),
        (["--eta", "1"], ["eta is 1", "ddim or euler_ancestral"]),
        (["--model", "magic"], ["there is no model 'magic'", "choose sticker"]),
        (["--device", "gpu"], ["device 'gpu' is not known", "choose auto, cpu, cuda"]),
        (["--device", "mps"], ["there is no device 'mps'", "choose auto or cpu"]),
        (["--device", "cpu", "--dtype", "float16"], ["float16", "choose float32 or bfloat16"]),
        (["--dtype", "float8"], ["dtype 'float8' is not known", "choose one of float32"]),
        (["--prediction", "magic"], ["--prediction", "choose from"]),
        (["--lora"], ["--lora", "expected one argument"]),
        (["--lora=--"], ["--lora", "expected one argument"]),
        (["--lora", "missing.safetensors"], ["there is no LoRA 'missing.safetensors'", "choose a .safetensors file"]),
        (["--lora", "a:b:0.5"], ["there is no LoRA 'a:b'"]),
        (["--lora", "a:b"], ["there is no LoRA 'a:b'"]),
        (["--lora", ":0.5"], ["there is no LoRA ''"]),
        (["--lora", "a.safetensors:nan"], ["LoRA's scale is nan", "choose -100 to 100"]),
        (["--magic"], ["unrecognized arguments: --magic", "--help"]),
        (["two", "words"], ["unrecognized arguments", "--help"]),
        (["a\nline\nmore"], ["unrecognized arguments: a line more"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_wrong_words_are_refused_in_a_line(run, arguments: list[str], words: list[str]):
    assert_refused(run("generate", "a cat", *arguments), *words)


def test_a_very_long_prompt_is_refused(run):
    assert_refused(run("generate", "x" * 10_000), "prompt has 10,000 characters", "shorten it to at most 5,000")


def test_without_a_prompt_it_says_how_to_give_one(run):
    assert_refused(run("generate"), "say what to draw", 'generate "red apple, flat style"')


@pytest.mark.parametrize("arguments", [[], ["paint"]])
def test_without_a_command_it_says_where_help_is(run, arguments: list[str]):
    assert_refused(run(*arguments), "--help")


def test_bytes_that_are_no_text_are_refused(run):
    assert_refused(run("generate", os.fsdecode(b"caf\xe9")), "prompt has characters that are not in Unicode")


# --- files that are not models ---------------------------------------------------------------------------------------


def text_file(folder: Path) -> Path:
    (folder / "model.txt").write_text("hello")
    return folder / "model.txt"


def text_in_disguise(folder: Path) -> Path:
    (folder / "model.safetensors").write_text("hello, this is no model but a text that someone has renamed")
    return folder / "model.safetensors"


def truncated(folder: Path) -> Path:
    header = b'{"a":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}'
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 100)
    return folder / "model.safetensors"


def empty(folder: Path) -> Path:
    (folder / "model.safetensors").touch()
    return folder / "model.safetensors"


def bare_folder(folder: Path) -> Path:
    (folder / "model").mkdir()
    return folder / "model"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text_file, ["model.txt is not a checkpoint by its name", "should end in .safetensors"]),
        (text_in_disguise, ["model.safetensors is not a whole safetensors file", "get it again"]),
        (truncated, ["model.safetensors is not a whole safetensors file", "get it again"]),
        (empty, ["model.safetensors is not a whole safetensors file", "get it again"]),
        (bare_folder, ["has no model_index.json, so it is not a whole model: choose sticker"]),
    ],
)
@pytest.mark.parametrize("command", [["generate", "a cat", "--model"], ["models"]], ids=["generate", "models"])
def test_what_is_no_model_is_refused_by_name(run, tmp_path: Path, make, words: list[str], command: list[str]):
    assert_refused(run(*command, str(make(tmp_path))), *words)


# --- places to write to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("picture.jpg", ["picture.jpg does not end in .png", "rename it"]),
        ("picture", ["picture does not end in .png"]),
        ("", ["does not end in .png"]),
        ("folder.png", ["folder.png: it is a folder. Choose another place"]),
        ("/proc/x/y.png", ["cannot write --out /proc/x/y.png", "Choose another place"]),
        ("file/y.png", ["cannot write --out file/y.png", "Choose another place"]),
        ("x" * 300 + ".png", ["File name too long", "Choose another place"]),
    ],
)
def test_impossible_places_are_refused_before_the_work(
    run, tmp_path: Path, loaded: Pipeline, out: str, words: list[str]
):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with count_calls(loaded.unet) as calls:
        assert_refused(run("generate", "a cat", *QUICK, "--out", out), *words)
    assert calls == []


@pytest.mark.usefixtures("loaded")
def test_a_budget_too_small_for_a_step_is_refused_in_a_line(run):
    assert "time_budget_s is 1e-06, and one step takes about" in run("generate", "a cat", "--seconds", "1e-6").err


@pytest.mark.usefixtures("loaded")
def test_seconds_choose_anew_what_a_recipe_had(run):
    assert run("generate", "red apple", *QUICK, "--out", "one.png", "--seed", "4").code == 0
    budget = ["--like", "one.png", "--seconds", "600", "--out", "two.png"]
    outcome = run("generate", *budget)
    assert outcome.code == 0
    assert "note: for 600 s: 50 steps of DDIM at 64x64, which should take" in outcome.err
    fields = parse(read_parameters(Path("two.png")))
    assert (fields["Steps"], fields["Seed"], fields["Size"]) == ("50", "4", "64x64")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_the_work(run, tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert_refused(run("generate", "a cat", "--out", "locked/y.png"), "no permission to write there")


@pytest.mark.usefixtures("loaded")
def test_a_full_disk_is_told_with_the_seed_that_was_drawn(run, tmp_path: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        outcome = run("generate", "a cat", *QUICK, "--out", "new/y.png", "--seed", "77")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (outcome.code, outcome.out) == (2, "")
    about, estimate, line = outcome.err.splitlines()
    assert about.startswith("sticker: ")
    assert estimate.endswith(" GB of memory are needed")
    assert line.startswith("stablediff: cannot write new/y.png: File too large. Free some space")
    assert "--seed 77 draws the same picture again" in line
    assert list((tmp_path / "new").iterdir()) == []


# --- pictures to start from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--init", "missing.png"], ["there is no picture missing.png", "check its name"]),
        (["--init", "text.png"], ["cannot read the picture text.png", "PNG, JPEG or WebP"]),
        (["--init", "."], ["cannot read the picture .", "PNG, JPEG or WebP"]),
        (["--init", "bomb.png"], ["bomb.png has 10000 x 10000 pixels", "scale it down"]),
        (["--mask", "good.png"], ["mask_image and no init_image", "give the picture"]),
        (["--init", "good.png", "--mask", "text.png"], ["cannot read the picture text.png"]),
        (["--like", "good.png"], ["good.png holds no recipe"]),
        (["--like", "text.png"], ["text.png holds no recipe"]),
        (["--like", "missing.png"], ["there is no picture missing.png", "check its name"]),
        (["--like", "wrong.png"], ["num_steps is 9999", "choose 1 to 1000"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_wrong_pictures_are_refused(run, tmp_path: Path, arguments: list[str], words: list[str]):
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    save_png(Image.new("RGB", (8, 8)), tmp_path / "wrong.png", "a cat\nSteps: 9999")
    assert_refused(run("generate", "a cat", *arguments), *words)


# --- success ---------------------------------------------------------------------------------------------------------


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
def test_like_repeats_a_picture_to_the_last_bit(run):
    options = ["--sampler", "ddim", "--eta", "0.5", "--guidance", "2.7", "--guidance-rescale", "0.3"]
    run("generate", "red (apple:1.2), naïve style", *QUICK, *options, "--negative", "a\nb", "--out", "one.png")
    assert run("generate", "--like", "one.png", "--out", "two.png").code == 0
    one, two = Image.open("one.png"), Image.open("two.png")
    assert one.tobytes() == two.tobytes()
    assert read_parameters("one.png") == read_parameters("two.png")


def test_a_picture_with_a_lora_is_repeated_only_with_it(run, sticker: Pipeline):
    unet = copy.deepcopy(sticker.unet)
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

    monkeypatch.setattr(cli, "load", load)
    options = ["--device", "cpu", "--dtype", "bf16", "--prediction", "sample", "--allow-pickle", "--lora", "C:x:0.5"]
    assert_refused(run("generate", "a cat", "--model", "m", *options), "enough")
    assert asked == {
        "model": "m", "device": "cpu", "dtype": "bf16", "prediction_type": "sample", "allow_pickle": True,
        "loras": [("C:x", 0.5)]
    }  # fmt: skip


def test_notes_of_the_work_are_shown(run, monkeypatch: pytest.MonkeyPatch):
    pipeline = toy_pipeline()
    pipeline.unet.register_forward_pre_hook(_short_of_memory)
    monkeypatch.setattr(cli, "load", lambda *_, **__: pipeline)
    outcome = run("generate", "a cat", "--num-images", "2", "--out", "y.png")
    assert outcome.code == 0
    assert "note: memory was short: 1 picture(s) at a time" in outcome.err.splitlines()


def _short_of_memory(_unet: Any, inputs: Any) -> None:
    if len(inputs[0]) > 2:
        raise MemoryError


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
    draw = cli.generate

    def interrupted(*arguments: Any, **options: Any):
        for event in draw(*arguments, **options):
            if isinstance(event, Update) and len(event.images) == 1 and event.stage == "denoise":
                signal.raise_signal(signal.SIGINT)
            yield event

    monkeypatch.setattr(cli, "generate", interrupted)
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

    monkeypatch.setattr(cli, "generate", stuck)
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
    assert_refused(Outcome(process.returncode, out, err), "num_steps is 0: choose 1 to 1000")


def test_importing_the_package_leaves_slow_libraries_alone():
    code = "import stablediff, stablediff.cli, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    out, err = subprocess_of("-c", code, stdout=subprocess.PIPE).communicate()
    assert err == ""
    assert "torch" in out.split()
    assert not {"gradio", "transformers", "diffusers", "huggingface_hub", "scipy", "matplotlib"} & set(out.split())
