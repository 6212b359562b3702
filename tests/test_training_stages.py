"""Each stage learns what it should from very little, and hands on what the next one, and the reference, can read."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from stages import COLOURS, SHAPES, ShapePictures, autoencoder, diffusion, loop, shape, text_stage
from toy import draw, toy_pipeline
from transformers import CLIPTextModel, CLIPTokenizer

from stablediff import load
from stablediff.checkpoints.parts import load_text_encoder, load_vae
from stablediff.config import CLIPConfig, ScheduleConfig
from stablediff.errors import CheckpointError, ConfigError
from stablediff.models.clip import CLIPTextEncoder
from stablediff.training.autoencoder import AutoencoderConfig
from stablediff.training.config import from_table, override, read_table
from stablediff.training.crops import to_model
from stablediff.training.diffusion import DiffusionConfig
from stablediff.training.finetune import FinetuneConfig, FinetuneStage, draw_prior, encode_folder
from stablediff.training.loop import train
from stablediff.training.material import Shown
from stablediff.training.objective import ObjectiveConfig
from stablediff.training.text_encoder import TextEncoderConfig
from stablediff.training.vocabulary import learn_vocabulary, to_ids

CONFIGS = Path(__file__).parent.parent / "configs"


def test_an_autoencoder_learns_shapes_and_colours(tmp_path: Path) -> None:
    stage = autoencoder(equivariance=0.25, latent_noise=0.1, laplacian=0.1)
    before = stage.measure()["held_out_psnr"]
    train(stage, stage.config.loop, tmp_path)
    after = stage.measure()["held_out_psnr"]
    assert after > before + 5
    sheet = stage.sheet()
    assert sheet is not None
    assert sheet.size == (320, 320)


def test_the_judge_joins_late_and_the_encoder_can_rest(tmp_path: Path) -> None:
    stage = autoencoder(loop=loop(steps=10), adversarial=0.1, adversarial_from=0.5, freeze_encoder=True)
    encoder = [p.clone() for p in stage.vae.encoder.parameters()]
    judge = [p.clone() for p in stage.judge.parameters()]
    train(stage, stage.config.loop, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(encoder, stage.vae.encoder.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(judge, stage.judge.parameters(), strict=True))


def test_folding_the_latents_statistics_in_changes_no_picture() -> None:
    stage = autoencoder(loop=loop(steps=5))
    pictures = torch.stack([to_model(shape(i), 4) for i in range(16)])
    with torch.no_grad():
        before = stage.vae.decode(stage.vae.encode(pictures))
        stage.normalise_latents(count=64)
        latents = stage.vae.encode(pictures)
        torch.testing.assert_close(stage.vae.decode(latents), before, rtol=1e-3, atol=1e-4)
        stage.normalise_latents(count=64)
        torch.testing.assert_close(stage.vae.encode(pictures), latents, rtol=1e-3, atol=1e-3)  # nothing left to do


def test_an_exported_autoencoder_loads_here_and_in_the_reference(tmp_path: Path) -> None:
    stage = autoencoder(loop=loop(steps=2))
    train(stage, stage.config.loop, tmp_path)
    ours, theirs = load_vae(tmp_path / "model"), AutoencoderKL.from_pretrained(tmp_path / "model" / "vae")
    pixels = to_model(shape(3), 4)[None]
    folded = torch.nn.functional.pixel_unshuffle(pixels, 2)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(pixels), theirs.encode(folded).latent_dist.mean, rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in ours.parameters())
    with pytest.raises(CheckpointError, match="train that stage first"):
        load_vae(tmp_path / "nowhere")


def test_a_vocabulary_of_ones_own_is_a_clip_vocabulary(tmp_path: Path) -> None:
    captions = [f"{c} {s}, плоский стиль" for c in COLOURS for s in SHAPES] * 20
    tokenizer = learn_vocabulary(captions, 700, 16)
    assert tokenizer.backend.get_vocab_size() <= 700
    assert tokenizer.tokenize("red disc").num_tokens == 2
    stage = text_stage(tokenizer)
    stage.export(tmp_path)
    theirs = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    prompts = ["red disc", "A RED disc, плоский стиль!", "", "unknown wörds 中"]
    expected = theirs(prompts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(to_ids(tokenizer, prompts), expected)
    encoder, again = load_text_encoder(tmp_path)
    assert torch.equal(to_ids(again, prompts), expected)
    reference = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(expected).context, reference(expected).last_hidden_state, rtol=1e-4, atol=1e-5
        )


def test_a_text_encoder_finds_pictures_by_their_captions(tmp_path: Path) -> None:
    stage = text_stage(steps=150, batch_size=16)
    before = stage.measure()
    train(stage, stage.config.loop, tmp_path)
    after = stage.measure()
    assert after["coarse_unexplained"] < 0.5 < before["coarse_unexplained"]
    assert after["mean_cosine"] < before["mean_cosine"]
    assert after["recall_at_10"] > 0.9


class Numbered(ShapePictures):
    def caption(self, index: int, rng: np.random.Generator) -> str:  # noqa: ARG002
        return f"{index // 8} and {index % 8}"


def test_64_latents_are_learnt_by_heart(tmp_path: Path) -> None:
    """The whole loop works: with the caption known, nothing is left to guess.

    At high noise, that is: at little noise, ε is the difference of two nearly equal pictures.
    """
    pipeline = toy_pipeline(channels=(32, 32), context_dim=64, norm_groups=8, added_conditioning="text")
    tokenizer = learn_vocabulary((f"{i} and {j}" for i in range(8) for j in range(8)), 600, 8)
    size = tokenizer.backend.get_vocab_size()
    text = CLIPConfig(size, 64, 128, num_layers=1, num_heads=2, max_length=8, eos_token_id=tokenizer.eos_id)
    pipeline.tokenizers, pipeline.text_encoders = [tokenizer], [CLIPTextEncoder(text)]
    pipeline.config = replace(pipeline.config, schedule=ScheduleConfig(prediction_type="v_prediction"))
    noisy = ObjectiveConfig(logit_mean=1.0, logit_deviation=0.5)
    stage = diffusion(pipeline, objective=noisy, condition_dropout=0.0, text_rate=1.0)
    latents = torch.randn(64, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    stage.shown = Shown(latents.half(), np.arange(64), Numbered(64))
    train(stage, loop(steps=900, batch_size=64, learning_rate=5e-3, ema_decay=0.97), tmp_path)
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["loss"]]
    assert np.mean(losses[-3:]) < 0.05 * losses[0]  # a single batch has luck, good or bad


def test_figures_of_held_out_pictures_and_the_sheet() -> None:
    stage = diffusion(prompts=("red disc", "blue bar"))
    with torch.no_grad():
        first, second = stage.measure(), stage.measure()
        sheet = stage.sheet()
    assert first == second
    assert math.isfinite(first["held_out_loss"])
    assert {f"held_out_loss_q{i}" for i in (1, 2, 3, 4)} < first.keys()
    assert sheet is not None


def test_held_out_scenes_weigh_alike_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stage = [], diffusion()
    stage.held_out = Shown(torch.cat([stage.shown.latents] * 6), np.arange(96) % 16, ShapePictures())
    for rows in (96, 32, 8):
        monkeypatch.setattr("stablediff.training.diffusion._CHUNK", rows)
        with torch.no_grad():
            whole.append(stage.measure())
    for part in whole[1:]:
        assert part == pytest.approx(whole[0], rel=1e-4)


def test_what_a_sheet_cannot_draw_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="size 68: width is 68: choose a multiple of 8, such as 64 or 72"):
        diffusion(prompts=("red disc",), size=68)
    pipeline = toy_pipeline()
    pipeline.config = replace(pipeline.config, defaults=replace(pipeline.config.defaults, num_steps=1001))
    with pytest.raises(ConfigError, match="could not draw 'red disc' with its defaults: num_steps is 1001: choose 1"):
        diffusion(pipeline, prompts=("red disc",))


def test_dropped_captions_are_the_empty_prompt() -> None:
    ids = diffusion(condition_dropout=1.0).batch(0, slice(0, 4))["ids_0"]
    kept = diffusion(condition_dropout=0.0).batch(0, slice(0, 4))["ids_0"]
    assert (ids == ids[0]).all()
    assert ids[0, 1] == ids[0, 2]  # start, end, and nothing but ends
    assert not (kept == ids).all(dim=1).any()


def test_gradient_checkpointing_gives_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for checkpointing in (False, True):
        stage = diffusion()
        config = loop(steps=3, gradient_checkpointing=checkpointing)
        train(stage, config, tmp_path / str(checkpointing))
        weights.append(torch.cat([p.flatten() for p in stage.unet.parameters()]))
    torch.testing.assert_close(*weights)


def test_a_frozen_text_encoder_stays_as_it_is(tmp_path: Path) -> None:
    stage = diffusion(text_rate=0.0)
    before = [p.clone() for p in stage.encoders.parameters()]
    train(stage, loop(steps=3), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, stage.encoders.parameters(), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of somebody's own."""
    data = tmp_path / "mine"
    data.mkdir()
    for i in range(4):
        Image.fromarray(shape(5 * i, 128)).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text(f"zorb, {list(COLOURS)[i]}")
    return data


@pytest.mark.parametrize("method", ["lora", "full"])
def test_fine_tuning_changes_what_it_should(tmp_path: Path, folder: Path, method: str) -> None:
    pipeline = toy_pipeline()
    pipeline.save(tmp_path / "base")
    plain = draw(pipeline, prompt="zorb, red", seed=1).images[0]
    config = FinetuneConfig(loop=loop(steps=20), method=method, rank=4, text=True, prior="a ball", num_prior=2)  # type: ignore[arg-type]
    prior = encode_folder(pipeline, draw_prior(pipeline, config.prior, config.num_prior, 64, tmp_path / "prior"), 64)
    stage = FinetuneStage(config, pipeline, encode_folder(pipeline, folder, 64), prior, 64)
    train(stage, config.loop, tmp_path / "run")
    if method == "full":
        tuned = load(tmp_path / "run" / "model", dtype="float32")
    else:
        tuned = load(tmp_path / "base", dtype="float32", loras=[(tmp_path / "run" / "model", 1.0)])
    picture = draw(tuned, prompt="zorb, red", seed=1).images[0]
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(plain).astype(int)).max() > 8


def test_a_lora_leaves_the_model_itself_alone(tmp_path: Path, folder: Path) -> None:
    pipeline = toy_pipeline()
    before = {name: p.clone() for name, p in pipeline.unet.named_parameters()}
    config = FinetuneConfig(loop=loop(steps=5), rank=2)
    train(FinetuneStage(config, pipeline, encode_folder(pipeline, folder, 64), None, 64), config.loop, tmp_path / "run")
    for name, value in before.items():
        assert torch.equal(pipeline.unet.get_parameter(name), value), name


def test_another_prior_is_drawn_anew(tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    balls, again, cubes = (draw_prior(pipeline, f"a {what}", 2, 64, tmp_path) for what in ("ball", "ball", "cube"))
    assert balls == again != cubes
    assert {path.read_text() for path in cubes.glob("*.txt")} == {"a cube"}
    assert len(list(cubes.glob("*.png"))) == 2
    with torch.no_grad():
        next(pipeline.unet.parameters()).add_(0.1)  # another model of the same name
    assert draw_prior(pipeline, "a ball", 2, 64, tmp_path) != balls


def test_prior_rows_have_their_weight(folder: Path, tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    prior = encode_folder(pipeline, draw_prior(pipeline, "a ball", 2, 64, tmp_path / "prior"), 64)
    config = FinetuneConfig(loop=loop(), prior="a ball", num_prior=2, prior_weight=0.5)
    batch = FinetuneStage(config, pipeline, encode_folder(pipeline, folder, 64), prior, 64).batch(0, slice(0, 4))
    assert batch["weight"].tolist() == [1.0, 0.5, 1.0, 0.5]


def test_the_prior_is_learnt_too_one_row_at_a_time(folder: Path) -> None:
    pipeline = toy_pipeline()
    mine = encode_folder(pipeline, folder, 64)
    config = FinetuneConfig(loop=loop(batch_size=1), prior="a ball", prior_weight=0.5)
    stage = FinetuneStage(config, pipeline, mine, replace(mine), 64)
    weights = [stage.batch(step, slice(0, 1))["weight"].item() for step in range(4)]
    assert sorted(weights) == [0.5, 0.5, 1.0, 1.0]


def test_sizes_that_the_autoencoder_cannot_take_are_not_tuned(folder: Path) -> None:
    with pytest.raises(ConfigError, match="size is 60: choose a multiple of 8"):
        encode_folder(toy_pipeline(), folder, 60)


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        ({"in_channels": 9}, "made for inpainting, which is not trained here: choose its base model"),
        ({"in_channels": 8}, "made for editing or scaling up, which is not trained here"),
        ({"guidance_embedding_dim": 16}, "distilled already: choose its base model"),
    ],
)
def test_models_of_other_kinds_are_not_tuned(folder: Path, unet: dict[str, Any], message: str) -> None:
    pipeline = toy_pipeline(**unet)
    with pytest.raises(ConfigError, match=message):
        FinetuneStage(FinetuneConfig(loop=loop()), pipeline, encode_folder(pipeline, folder, 64), None, 64)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("sticker/autoencoder.toml", AutoencoderConfig),
        ("sticker/text-encoder.toml", TextEncoderConfig),
        ("sticker/diffusion-256.toml", DiffusionConfig),
        ("sticker/diffusion-512.toml", DiffusionConfig),
        ("lora.toml", FinetuneConfig),
    ],
)
def test_the_ready_configs_are_good(file: str, kind: type) -> None:
    assert from_table(kind, read_table(CONFIGS / file)).loop.steps > 0  # type: ignore[attr-defined]


def test_the_ready_configs_agree_with_each_other() -> None:
    scenes = [read_table(CONFIGS / "sticker" / name)["scenes"] for name in ("diffusion-512.toml", "distill.toml")]
    assert scenes[0] == scenes[1]
    lora = read_table(CONFIGS / "lora.toml")["loop"]
    assert lora["sheet_steps"] < lora["steps"]  # the sheets show how it goes


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loop.step=3", "did you mean steps"),
        ("loop.steps=0", "steps is 0: choose more than 0"),
        ('loop.steps="many"', "loop.steps is 'many': it must be int"),
        ("loop.optimizer=lion", "loop.optimizer is 'lion': choose one of adamw"),
        ("loop=3", r"loop is 3: it must be a table"),
        ("crop", "write it as name=value"),
        ("vae.channels=5", "vae.channels is 5: it must be a list"),
        ("loop.ema_decay=1.0", "ema_decay is 1.0: choose 0 to less than 1"),
        ("freeze_encoder=1", "freeze_encoder is 1: it must be bool"),
    ],
)
def test_wrong_settings_are_named_with_a_remedy(setting: str, message: str) -> None:
    table = read_table(CONFIGS / "sticker" / "autoencoder.toml")
    with pytest.raises(ConfigError, match=message):
        from_table(AutoencoderConfig, override(table, [setting]))


@pytest.mark.parametrize(
    ("file", "setting", "message"),
    [
        ("sticker/autoencoder.toml", "equivariance=2", "equivariance is 2.0: choose 0 to 1"),
        ("sticker/autoencoder.toml", "latent_noise=-1", "latent_noise is -1.0: choose 0 or more"),
        ("sticker/autoencoder.toml", "kl=nan", "kl is nan: choose 0 or more"),
        ("sticker/autoencoder.toml", "larger_crops_from=nan", "larger_crops_from is nan: choose 0 or more"),
        ("sticker/text-encoder.toml", "coarse=nan", "coarse is nan: choose 0 or more"),
        ("sticker/diffusion-256.toml", "condition_dropout=5", "condition_dropout is 5.0: choose 0 to 1"),
        ("sticker/diffusion-256.toml", "condition_dropout=nan", "condition_dropout is nan: choose 0 to 1"),
        ("sticker/diffusion-256.toml", "text_rate=-1", "text_rate is -1.0: choose 0 or more"),
        ("sticker/diffusion-256.toml", "objective.logit_deviation=nan", "logit_deviation is nan: choose 0 to 100"),
        ("lora.toml", "condition_dropout=-1", "condition_dropout is -1.0: choose 0 to 1"),
        ("lora.toml", "text_rate=inf", "text_rate is inf: choose 0 or more"),
        ("lora.toml", "prior_weight=nan", "prior_weight is nan: choose 0 or more"),
    ],
)
def test_shares_and_weights_out_of_range_are_named(file: str, setting: str, message: str) -> None:
    kinds = {"autoencoder": AutoencoderConfig, "text-encoder": TextEncoderConfig, "diffusion-256": DiffusionConfig}
    with pytest.raises(ConfigError, match=message):
        from_table(kinds.get(Path(file).stem, FinetuneConfig), override(read_table(CONFIGS / file), [setting]))


def test_settings_reach_into_tables() -> None:
    table = override({"loop": {"steps": 1}}, ["loop.steps=5", 'scenes.styles=["flat"]', "model=sticker"])
    assert table == {"loop": {"steps": 5}, "scenes": {"styles": ["flat"]}, "model": "sticker"}
    assert json.dumps(table)
