"""`python -m stablediff train …`, from a folder of pictures to a model that draws."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stages import COLOURS, SHAPES, TINY_VAE, shape

from stablediff import load
from stablediff.checkpoints.parts import load_text_encoder, save_text_encoder, save_vae
from stablediff.cli import main
from stablediff.config import CLIPConfig
from stablediff.errors import ConfigError
from stablediff.lexicon import read_lexicon
from stablediff.models.clip import CLIPTextEncoder
from stablediff.models.vae import VAE
from stablediff.training.initialise import new_text_encoder
from stablediff.training.vocabulary import learn_vocabulary

LOOP = """
[loop]
steps = 4
batch_size = 4
learning_rate = 1e-3
warmup_steps = 1
sheet_steps = 2
log_steps = 1
"""
AUTOENCODER = """
crop = 32
[vae]
in_channels = 16
out_channels = 16
latent_channels = 4
channels = [8, 16]
num_resnets = 1
norm_groups = 4
mid_attention = false
scaling_factor = 1.0
patch_size = 2
"""
TEXT = """
vae = "{runs}/ae/model"
size = 64
[text]
vocab_size = 600
hidden_size = 32
intermediate_size = 64
num_layers = 1
num_heads = 2
max_length = 16
"""
DIFFUSION = """
vae = "{runs}/ae/model"
text_encoder = "{runs}/text/model"
size = 64
prompts = ["red disc"]
[schedule]
beta_schedule = "squaredcos_cap_v2"
prediction_type = "v_prediction"
[defaults]
num_steps = 2
width = 64
height = 64
sampler = "ddim"
[unet]
in_channels = 4
out_channels = 4
channels = [8, 16]
num_resnets = 1
transformer_depth = [0, 1]
num_heads = [2, 2]
context_dim = 32
norm_groups = 4
added_conditioning = "text"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(16):
        Image.fromarray(shape(i, 512)).save(folder / "images" / f"{i}.png")
        words = f"{list(COLOURS)[i // 4]} {SHAPES[i % 4]}"
        lines.append(json.dumps({"file": f"{i}.png", "captions": [words, f"a {words}"]}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def run(tmp_path: Path, data: Path, stage: str, name: str, text: str, *more: str) -> int:
    config = tmp_path / f"{name}.toml"
    config.write_text(text.format(runs=tmp_path / "runs") + LOOP)
    out = str(tmp_path / "runs" / name)
    return main(["train", stage, str(config), "--data", str(data), "--out", out, "--device", "cpu", *more])


def test_from_pictures_to_a_model_that_draws(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, data, "autoencoder", "ae", AUTOENCODER) == 0
    assert run(tmp_path, data, "text-encoder", "text", TEXT) == 0
    assert run(tmp_path, data, "diffusion", "diffusion", DIFFUSION) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "runs" / n / "model") for n in ("ae", "text", "diffusion")
    ]
    model = tmp_path / "runs" / "diffusion" / "model"
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "red disc", "--model", str(model), "--out", "disc.png", "--seed", "1"]) == 0
    picture = Image.open("disc.png")
    assert picture.mode == "RGBA"
    assert picture.size == (64, 64)
    assert load(model).report.stored_dtype.lower() in ("f16", "float16")
    sheet = Image.open(tmp_path / "runs" / "diffusion" / "sheets" / "0000004.png")
    assert np.asarray(sheet).std() > 0

    # The same command again: nothing left to do. More steps: it goes on.
    assert run(tmp_path, data, "diffusion", "diffusion", DIFFUSION) == 0
    assert run(tmp_path, data, "diffusion", "diffusion", DIFFUSION, "--set", "loop.steps=6") == 0
    rows = (tmp_path / "runs" / "diffusion" / "metrics.csv").read_text().splitlines()
    assert rows[-1].startswith("6,")


def test_a_time_limit_saves_and_says_how_to_go_on(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, data, "autoencoder", "ae", AUTOENCODER, "--minutes", "0") == 130
    assert "saved at step 1 of 4: the same command goes on from there" in capsys.readouterr().err


def test_processes_join_before_the_data_is_made_ready(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def processes(device: torch.device) -> Iterator[torch.device]:
        assert device == torch.device("cpu")
        yield torch.device("cpu", 7)

    def shown_of(*arguments: object) -> None:
        raise ConfigError(f"on {arguments[4]}")

    monkeypatch.setattr("stablediff.training.distributed.processes", processes)
    monkeypatch.setattr("stablediff.training.command.shown_of", shown_of)
    save_vae(tmp_path / "runs" / "ae" / "model", VAE(TINY_VAE))
    assert run(tmp_path, data, "text-encoder", "text", TEXT) == 2
    assert "on cpu:7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "text", "more", "message"),
    [
        ("autoencoder", "crops = 3\n" + AUTOENCODER, (), "crops is not known: did you mean crop?"),
        ("autoencoder", AUTOENCODER, ("--set", "loop.batch_size=0"), "batch_size is 0: choose more than 0"),
        ("autoencoder", AUTOENCODER + "[[[", (), "Mend the file"),
        ("text-encoder", TEXT, (), "train that stage first, or name another folder"),
        ("diffusion", DIFFUSION, (), "train that stage first, or name another folder"),
        ("finetune", 'model = "nowhere"\n', (), "nowhere"),
        ("autoencoder", AUTOENCODER, ("--set", "vae.norm_groups=5"), "[vae] cannot be used: norm_groups is 5"),
        ("autoencoder", AUTOENCODER, ("--set", "vae.in_channels=3"), "[vae] cannot be used: the VAE has 3 channels in"),
        ("autoencoder", AUTOENCODER, ("--set", "crop=33"), "crop is 33: choose a multiple of 8"),
        ("text-encoder", TEXT, ("--set", "vae.x=1"), "vae.x=1 cannot be set: vae is"),
        ("text-encoder", TEXT, ("--set", "size.x=1"), "size.x=1 cannot be set: size is 64"),
        ("text-encoder", TEXT, ("--set", "scenes.seed=-1"), "scenes.seed is -1: choose 0 or more"),
        ("finetune", "prompts = ['a dog']\n", ("--set", "size=68"), "size 68: width is 68: choose a multiple of 8"),
        ("distill", "prompts = ['a dog']\n", ("--set", "size=68"), "size 68: width is 68: choose a multiple of 8"),
        ("diffusion", DIFFUSION, ("--set", "size=68"), "size 68: width is 68: choose a multiple of 8"),
        ("diffusion", DIFFUSION, ("--set", "defaults.sampler=dpm"), "sampler 'dpm' is not known: choose one of"),
        ("finetune", 'model = "nowhere"\n', ("--set", "model.a=1"), "model.a=1 cannot be set: model is 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    text: str,
    more: tuple[str, ...],
    message: str,
) -> None:
    assert run(tmp_path, data, stage, "wrong", text, *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("stablediff: ")
    assert message in error


@pytest.mark.parametrize(
    ("stage", "text", "setting", "message"),
    [
        ("text-encoder", TEXT, "size=66", "size is 66: choose a multiple of 4"),
        ("text-encoder", TEXT, "size=12", "size is 12, 3 latent cells wide: choose 4 cells or more"),
        ("text-encoder", TEXT, "text.num_heads=5", "[text] cannot be used: num_heads is 5"),
        ("text-encoder", TEXT, "text.vocab_size=100", "vocab_size is 100: choose 514 or more"),
        ("diffusion", DIFFUSION, "unet.norm_groups=5", "[unet] cannot be used: norm_groups is 5"),
        ("diffusion", DIFFUSION, "unet.context_dim=16", "the sizes in [unet] do not fit together"),
        ("diffusion", DIFFUSION, "unet.out_channels=8", "it answers with 8 channels to 4"),
    ],
)
def test_what_does_not_fit_the_stages_before_is_said_in_a_line(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], stage: str, text: str, setting: str, message: str
) -> None:
    words = CLIPConfig(600, 32, 64, num_layers=1, num_heads=2, max_length=16, eos_token_id=513)
    save_vae(tmp_path / "runs" / "ae" / "model", VAE(TINY_VAE))
    save_text_encoder(tmp_path / "runs" / "text" / "model", CLIPTextEncoder(words), learn_vocabulary([], 514, 16))
    assert run(tmp_path, data, stage, "wrong", text, "--set", setting) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_text_encoder_goes_on_from_another_with_its_words(tmp_path: Path, data: Path) -> None:
    save_vae(tmp_path / "runs" / "ae" / "model", VAE(TINY_VAE))
    words = learn_vocabulary(["red disc", "blue square"], 530, 16)
    former = new_text_encoder(
        CLIPConfig(words.backend.get_vocab_size(), 32, 64, num_layers=1, num_heads=2, eos_token_id=words.eos_id)
    )
    save_text_encoder(tmp_path / "former", former, words)
    (tmp_path / "former" / "words.txt").write_text("zebra\n", encoding="utf-8")
    settings = ["--set", f"init={tmp_path / 'former'}", "--set", "loop.steps=1", "--set", "loop.learning_rate=1e-9"]
    assert run(tmp_path, data, "text-encoder", "on", TEXT, *settings) == 0
    seen = read_lexicon(tmp_path / "runs" / "on" / "model")
    assert seen is not None
    assert {"zebra", "red", "disc"} <= seen.words
    encoder, tokenizer = load_text_encoder(tmp_path / "runs" / "on" / "model")
    assert tokenizer.backend.get_vocab() == words.backend.get_vocab()
    assert encoder.config == former.config
    for after, before in zip(encoder.parameters(), former.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-7)


def test_data_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "none", "autoencoder", "ae", AUTOENCODER) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "diffusion", "some.toml", "--out", ""],
        ["train", "diffusion", "some.toml", "--data", ""],
        ["train", "diffusion", ""],
        ["train", "data", "--folder", ""],
        ["evaluate", "prompts", "--out", ""],
        ["evaluate", "others", "--drawn", ""],
        ["generate", "a cat", "--out", ""],
    ],
)
def test_an_empty_name_is_not_the_current_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert re.search("an empty name is no (file|folder): write one, as ", capsys.readouterr().err)


def test_a_config_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "autoencoder", "none.toml"]) == 2
    assert "the ready ones are in configs/ of the project" in capsys.readouterr().err
