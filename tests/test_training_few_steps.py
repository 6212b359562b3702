"""A distilled model draws better in few steps than the model that it was distilled from."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_distill import MODES, distill, loop, shown, with_schedule

from stablediff import Pipeline
from stablediff.conditioning import ConditionedUNet, encode_prompts
from stablediff.config import ScheduleConfig
from stablediff.diffusion.denoiser import Denoiser
from stablediff.diffusion.noise import SeededNoise
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import step_sigmas
from stablediff.models.unet import UNet
from stablediff.training.diffusion import DiffusionStage
from stablediff.training.initialise import initialise_unet
from stablediff.training.loop import train
from stablediff.training.objective import ObjectiveConfig


def few_step_error(pipeline: Pipeline, sampler: str, num_steps: int) -> float:
    """How far pictures are from the nearer of the two, on average: 1 is in the middle between them."""
    conditioning = encode_prompts(pipeline, ["the sun"], 64, 64)
    sigmas = step_sigmas(pipeline.schedule, "lcm" if sampler == "lcm" else "trailing", num_steps)
    noise = SeededNoise(range(48))
    x = noise.sample(MODES.shape[1:]) * math.sqrt(1 + sigmas[0] ** 2)
    network = ConditionedUNet(pipeline.unet, conditioning, len(x), 1.0)
    denoise = Denoiser(network, pipeline.schedule, pipeline.config.schedule.prediction_type)
    with torch.no_grad():
        *_, last = SAMPLERS[sampler].sample(denoise, x, sigmas, noise)
    distances = (last.x[:, None] - MODES).flatten(2).norm(dim=2)
    return (distances.min(dim=1).values / MODES[0].norm()).mean().item()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A U-Net that has learnt the two pictures, as x_0, which so small a network learns soonest."""
    pipeline = with_schedule(ScheduleConfig(prediction_type="sample"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline.unet = UNet(pipeline.config.unet)
        initialise_unet(pipeline.unet)
    stage = DiffusionStage(
        pipeline,
        shown(),
        shown(0),
        objective=ObjectiveConfig(timesteps="uniform"),
        seed=0,
        size=64,
        condition_dropout=0.0,
    )
    folder = tmp_path_factory.mktemp("teacher")
    train(stage, loop(steps=150, batch_size=16, learning_rate=3e-3, warmup_steps=20, ema_decay=0.98), folder)
    return pipeline


@pytest.mark.parametrize(
    ("sampler", "changes"),
    [
        ("lcm", {"num_ddim_timesteps": 10}),
        ("ddim", {"method": "progressive", "teacher_steps": 16, "halvings": 3}),
    ],
)
def test_a_distilled_model_is_better_in_few_steps(
    sampler: str, changes: dict[str, Any], teacher: Pipeline, tmp_path: Path
) -> None:
    options: Any = {"steps": 110, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 20, "ema_decay": 0.95}
    stage = distill(teacher, guidance=(1.0,), loop=loop(**options), **changes)
    train(stage, stage.config.loop, tmp_path)
    for num_steps in (2, 4) if sampler == "lcm" else (2,):
        before = few_step_error(teacher, sampler, num_steps)
        assert few_step_error(stage.pipeline, sampler, num_steps) < 0.75 * before
