"""The command line: errors are one line with a remedy."""

import os
import resource
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import QUICK, assert_refused
from PIL import Image
from toy import count_calls

from stablediff import Pipeline
from stablediff.cli import main
from stablediff.images import read_parameters, save_png
from stablediff.recipe import parse

# --- wrong words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], ["--steps is 0", "choose 1 to 1000"]),
        (["--sampler", "num_steps"], ["sampler 'num_steps' is not known"]),
        (["--steps", "-1"], ["--steps is -1", "choose 1 to 1000"]),
        (["--steps", "1000000"], ["--steps is 1000000", "choose 1 to 1000"]),
        (["--steps", "abc"], ["--steps", "'abc' is not a whole number", "--help"]),
        (["--steps", "2.5"], ["--steps", "'2.5' is not a whole number"]),
        (["--steps"], ["--steps", "expected one argument"]),
        (["--seconds", "0"], ["--seconds is 0", "choose a number of seconds above 0"]),
        (["--seconds", "-5"], ["--seconds is -5"]),
        (["--seconds", "nan"], ["--seconds is nan"]),
        (["--seconds", "3600", "--steps", "1"], ["--seconds is 3600 with --steps 1", "leave one of them away"]),
        (["--seconds", "soon"], ["--seconds", "'soon' is not a number"]),
        (["--quality", "great"], ["quality 'great' is not known", "draft, balanced, best"]),
        (["--size", "7x7"], ["width is 7", "choose 64 to 2048"]),
        (["--size", "100000x100000"], ["width is 100000", "choose 64 to 2048"]),
        (["--size", "65x64"], ["width is 65", "multiple of 8, such as 64 or 72"]),
        (["--size", "banana"], ["'banana' is not a size", "as 512x512"]),
        (["--guidance", "nan"], ["--guidance is nan", "choose 0 to 100"]),
        (["--guidance", "high"], ["--guidance", "'high' is not a number"]),
        (["--guidance=-inf"], ["--guidance is -inf", "choose 0 to 100"]),
        (["--seed", "-1"], ["seed is -1", "choose 0 to"]),
        (["--num-images", "65"], ["--num-images is 65", "choose 1 to 64"]),
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
        (["--magic"], ["unrecognized arguments: --magic (see python -m stablediff generate --help)"]),
        (["--" + "z" * 20_000 + "\x1b[31m"], ["unrecognized arguments: --zzz", " … ", "zzz?[31m"]),
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
        ("picture.jpg", ["picture.jpg does not end in .png", "call it picture.png"]),
        ("sub/picture", ["sub/picture does not end in .png", "call it", "sub/picture.png"]),
        ("", ["an empty name is no file: write one, as photo.png"]),
        (".png", ["call it png.png"]),
        ("pipe.png", ["pipe.png: it is no ordinary file. Choose another place"]),
        ("loop/picture.png", ["loop/picture.png: Too many levels of symbolic links. Choose another place"]),
        ("folder.png", ["folder.png: it is a folder. Choose another place"]),
        ("/proc/x/y.png", ["cannot write --out /proc/x/y.png", "Choose another place"]),
        ("file/y.png", ["cannot write --out file/y.png", "Choose another place"]),
        ("link.png", ["cannot write --out link.png", "Choose another place"]),
        ("x" * 300 + ".png", ["File name too long", "Choose another place"]),
    ],
)
def test_impossible_places_are_refused_before_the_work(
    run, tmp_path: Path, loaded: Pipeline, out: str, words: list[str]
):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link.png").symlink_to("file/y.png")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe.png").symlink_to("pipe")
    with count_calls(loaded.unet) as calls:
        assert_refused(run("generate", "a cat", *QUICK, "--out", out), *words)
    assert calls == []
    assert (tmp_path / "pipe").is_fifo()


def test_a_refusal_leaves_no_folder_behind(run, tmp_path: Path):
    assert_refused(run("generate", "a cat", "--out", "new/deep/y.png", "--model", "magic"), "there is no model 'magic'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("loaded")
def test_a_budget_too_small_for_a_step_is_refused_in_a_line(run):
    assert "--seconds is 1e-06, and one step takes about" in run("generate", "a cat", "--seconds", "1e-6").err


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("usual", "size", "unusual"),
    [(64, "64x64", False), (64, "64x128", False), (64, "64x136", True), (120, "72x120", False), (120, "120x64", True)],
)
def test_a_size_far_from_the_models_own_is_told_before_the_work(
    run, loaded: Pipeline, usual: int, size: str, unusual: bool, monkeypatch: pytest.MonkeyPatch
):
    defaults = replace(loaded.config.defaults, width=usual, height=usual)
    monkeypatch.setattr(loaded, "config", replace(loaded.config, defaults=defaults))
    outcome = run("generate", "a cat", "--steps", "1", "--size", size)
    assert outcome.code == 0
    assert f"{size}, 1 steps of " in outcome.err.splitlines()[1]
    assert (f"; the model was made for {usual}x{usual}, and this size may come out badly" in outcome.err) == unusual


@pytest.mark.usefixtures("loaded")
def test_like_says_if_the_precision_was_another(run):
    run("generate", "a cat", *QUICK, "--out", "one.png")
    again = ["generate", "--like", "one.png", "--out", "two.png"]
    recipe = read_parameters(Path("one.png"))
    assert "was drawn in" not in run(*again).err
    for theirs, told in (("int8", True), ("thirteen bits", False)):
        save_png(Image.open("one.png"), Path("one.png"), recipe.replace("Precision: float32", f"Precision: {theirs}"))
        said = "note: one.png was drawn in int8 and this will be in float32, which is a little different: --dtype int8"
        assert (said in run(*again).err) == told


@pytest.mark.usefixtures("loaded")
def test_like_says_if_the_model_or_its_decoder_was_another(run):
    run("generate", "a cat", *QUICK, "--out", "one.png")
    again = ["generate", "--like", "one.png", "--out", "two.png"]
    recipe = read_parameters(Path("one.png"))
    assert "note:" not in run(*again).err
    other = recipe.replace("Model: sticker", "Model: lighthouse").replace("Precision:", "Decoder: tiny, Precision:")
    assert other.count("lighthouse") == 1
    save_png(Image.open("one.png"), Path("one.png"), other)
    told = run(*again).err
    assert "note: one.png was drawn with lighthouse, and this will be with sticker: see --model" in told
    assert "note: one.png was drawn with a tiny decoder, and this will not be: see --decoder" in told


@pytest.mark.usefixtures("loaded")
def test_seconds_choose_anew_what_a_recipe_had(run):
    assert run("generate", "red apple", *QUICK, "--out", "one.png", "--seed", "4").code == 0
    budget = ["--like", "one.png", "--seconds", "600", "--out", "two.png"]
    outcome = run("generate", *budget)
    assert outcome.code == 0
    assert "note: for 600 s: 40 steps of UniPC at 64x64, which should take" in outcome.err
    fields = parse(read_parameters(Path("two.png")))
    assert (fields["Steps"], fields["Seed"], fields["Size"]) == ("40", "4", "64x64")


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
    assert " GB of memory are needed" in estimate
    assert line.startswith("stablediff: cannot write new/y.png: File too large. Free some space")
    assert "--seed 77 draws the same picture again" in line
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.usefixtures("loaded")
def test_every_picture_that_is_lost_is_named(run):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        outcome = run("generate", "a cat", *QUICK, "--out", "y.png", "--seed", "7", "--num-images", "2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = outcome.err.splitlines()[-1]
    assert line.startswith("stablediff: cannot write y-1.png, y-2.png: File too large. Free some space")
    assert line.endswith("they had the seeds 7, 8")


def test_a_cache_that_is_no_folder_is_refused(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    # First: it may be imported only now, and takes its value from the constants, which must not be changed yet.
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "file"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file"))
    assert_refused(run("models"), "cannot look into the hub's cache", "HF_HUB_CACHE")


# --- pictures to start from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--init", "missing.png"], ["there is no picture missing.png", "check its name"]),
        (["--init", "text.png"], ["cannot read the picture text.png", "PNG, JPEG or WebP"]),
        (["--init", "."], ["cannot read the picture .", "PNG, JPEG or WebP"]),
        (["--init", "bomb.png"], ["bomb.png has 10000 x 10000 pixels", "scale it down"]),
        (["--mask", "good.png"], ["--mask and no --init", "give the picture"]),
        (["--init", "good.png", "--mask", "text.png"], ["cannot read the picture text.png"]),
        (["--like", "good.png"], ["good.png holds no recipe"]),
        (["--like", "text.png"], ["text.png holds no recipe"]),
        (["--like", "missing.png"], ["there is no picture missing.png", "check its name"]),
        (["--like", "wrong.png"], ["--steps is 9999", "choose 1 to 1000"]),
        (["--like", "damaged.png"], ["damaged.png holds no recipe"]),
        (["--eta", "2"], ["--eta is 2", "choose 0 to 1"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_wrong_pictures_are_refused(run, tmp_path: Path, arguments: list[str], words: list[str]):
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    save_png(Image.new("RGB", (8, 8)), tmp_path / "wrong.png", "a cat\nSteps: 9999")
    save_png(Image.new("RGB", (8, 8)), tmp_path / "damaged.png", "a cat\nSteps: abc, Sampler: Euler")
    assert_refused(run("generate", "a cat", *arguments), *words)


# --- success ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["-1-5", "5", "a-b", "nan-5", "1-2-3"])
def test_what_is_no_interval_is_said_with_an_example(text: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "fox", f"--guidance-interval={text}"])
    error = capsys.readouterr().err
    assert "as 0.28-5.42" in error or "is not a number" in error
    assert "''" not in error
