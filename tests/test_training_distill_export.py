"""What distillation writes is known as a model of few steps, by us and by the reference."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler, StableDiffusionPipeline
from PIL import Image
from test_pipeline_parity import assert_alike, draw_reference
from test_pipeline_parity import draw as draw_like
from test_training_distill import CONFIGS, Named, config, distill, loop, shown
from toy import count_calls, draw, is_picture, toy_pipeline

from stablediff import load
from stablediff.cli import main
from stablediff.config import Defaults
from stablediff.training.distill import DistillStage
from stablediff.training.loop import train
from stablediff.training.material import Shown


@pytest.mark.parametrize(
    ("kind", "guidance"), [("sd1", (3.0,)), ("sd1", (3.0, 9.0)), ("sd2", (3.0,)), ("sdxl", (3.0, 9.0))]
)
def test_the_export_is_an_lcm_for_us_and_for_the_reference(
    kind: str, guidance: Sequence[float], tiny_model: Any, tmp_path: Path
) -> None:
    """The same picture in both, in the four steps that it suggests."""
    pipeline = load(tiny_model(kind).folder, device="cpu", dtype="float32", trainable=True)
    latents = torch.zeros(2, 4, 8, 8)
    changes: dict[str, Any] = {"guidance": tuple(guidance), "guidance_embedding_dim": 32, "loop": loop(steps=2)}
    stage = DistillStage(config(**changes), pipeline, Shown(latents, np.arange(2), Named()), shown(0), 64)
    train(stage, stage.config.loop, tmp_path)
    exported = load(tmp_path / "model", device="cpu", dtype="float32")
    scale = 8.0 if len(guidance) == 2 else 1.0
    assert exported.config.defaults == replace(stage.pipeline.config.defaults, num_steps=4, guidance_scale=scale)
    assert exported.config.defaults.sampler == "lcm"
    assert exported.config == stage.pipeline.config
    with count_calls(exported.unet) as calls:
        drawn = draw_like(exported)
    assert calls == [1] * 4  # no second branch
    reference = DiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert isinstance(reference.scheduler, LCMScheduler)
    wishes = {"num_inference_steps": 4, "guidance_scale": scale, "height": 64, "width": 64}
    assert_alike(drawn, draw_reference(reference, reference.scheduler, **wishes))


def test_a_lora_is_exported_as_one_and_merges_into_the_model(tmp_path: Path) -> None:
    stage = distill(rank=2, loop=loop(learning_rate=0.1))
    train(stage, stage.config.loop, tmp_path)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["pytorch_lora_weights.safetensors"]
    wishes: Any = {"prompt": "sun", "sampler": "lcm", "num_steps": 4, "guidance_scale": 1, "seed": 0}
    toy_pipeline().save(tmp_path / "toy")
    plain = load(tmp_path / "toy", device="cpu", dtype="float32")
    tuned = load(tmp_path / "toy", device="cpu", dtype="float32", loras=[(tmp_path / "model", 1.0)])
    assert draw(plain, **wishes).images != draw(tuned, **wishes).images


def test_progressive_exports_the_steps_that_it_came_down_to(tmp_path: Path) -> None:
    stage = distill(method="progressive", teacher_steps=8, halvings=2, loop=loop(steps=2))
    assert stage.pipeline.config.defaults == Defaults(2, 1.0, "ddim", 64, 64)
    train(stage, stage.config.loop, tmp_path)
    exported = load(tmp_path / "model", device="cpu", dtype="float32")
    assert exported.config.schedule.spacing == "trailing"
    result = draw(exported, prompt="sun", sampler="ddim", num_steps=2, guidance_scale=1, seed=0)
    assert is_picture(result.images[0])
    StableDiffusionPipeline.from_pretrained(tmp_path / "model")


def test_the_command_distills_from_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_pipeline().save(tmp_path / "toy")
    (tmp_path / "pictures").mkdir()
    for name in ("sun", "moon"):
        Image.new("RGB", (64, 64), "orange").save(tmp_path / "pictures" / f"{name}.png")
        (tmp_path / "pictures" / f"{name}.txt").write_text(name)
    settings = [f"model={json.dumps(str(tmp_path / 'toy'))}", "size=64", "loop.steps=2", "loop.batch_size=2", "rank=2"]
    arguments = ["train", "distill", str(CONFIGS / "lcm.toml"), "--data", str(tmp_path / "pictures"), "--device", "cpu"]
    for setting in settings:
        arguments += ["--set", setting]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "model")
    assert main([*arguments, "--out", str(tmp_path / "run"), "--sharded"]) == 2
    assert "leave --sharded away" in capsys.readouterr().err
