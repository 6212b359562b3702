"""Distillation: its arithmetic against our samplers, the reference and closed forms; and that it makes few steps do."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from toy import toy_pipeline

from stablediff import Pipeline
from stablediff.conditioning import ConditionedUNet, encode_prompts
from stablediff.config import ScheduleConfig
from stablediff.diffusion.denoiser import Denoiser, Guidance
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.diffusion.spacing import LCM_ORIGINAL_STEPS, step_timesteps
from stablediff.errors import ConfigError
from stablediff.training.config import LoopConfig, from_table, read_table
from stablediff.training.distill import DistillStage
from stablediff.training.distill_config import DistillConfig
from stablediff.training.loop import train
from stablediff.training.material import Shown
from stablediff.training.solver import (
    boundary,
    consistency_grid,
    ddim_step,
    halved_grid,
    huber,
    level_at,
    target_of_jump,
)
from stablediff.training.vocabulary import to_ids

CELLS = 4
# Two pictures so near to each other that from much noise only their mean is to be seen.
MODES = 0.25 * torch.randn(2, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(0)).sign()
CONFIGS = Path(__file__).parent.parent / "configs"


class Named:
    def __len__(self) -> int:
        return len(MODES)

    def picture(self, index: int) -> NDArray[np.uint8]:
        raise NotImplementedError

    def caption(self, index: int, stream: np.random.Generator) -> str:  # noqa: ARG002
        return "a sun" if stream.random() < 0.5 else "the sun"


def shown(num: int = 2) -> Shown:
    return Shown(MODES, np.arange(num), Named())


def loop(**changes: object) -> LoopConfig:
    options = {"steps": 12, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 2, "precision": "float32"}
    return LoopConfig(**{**options, "sheet_steps": 10**6, **changes})  # type: ignore[arg-type]


def config(**changes: Any) -> DistillConfig:
    return DistillConfig(**{"loop": loop(), "guidance": (3.0,), **changes})


def distill(pipeline: Pipeline | None = None, **changes: Any) -> DistillStage:
    return DistillStage(config(**changes), pipeline or toy_pipeline(), shown(), shown(0), 64)


def with_schedule(schedule: ScheduleConfig) -> Pipeline:
    pipeline = toy_pipeline()
    return replace(pipeline, config=replace(pipeline.config, schedule=schedule))


SD1 = ScheduleConfig()
SD2 = ScheduleConfig(prediction_type="v_prediction")
STICKER = ScheduleConfig(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
ZERO_SNR = ScheduleConfig(prediction_type="v_prediction", rescale_zero_snr=True)

# --- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [SD1, SD2, STICKER, ZERO_SNR], ids=["sd1", "sd2", "sticker", "zero_snr"])
def test_the_teachers_step_is_our_samplers(schedule: ScheduleConfig) -> None:
    """Guided DDIM, for every row at its own timestep."""
    pipeline, scale = with_schedule(schedule), 5.0
    stage = distill(pipeline, guidance=(scale,))
    batch = stage.batch(3, slice(0, 3))
    one = to_ids(pipeline.tokenizers[0], ["a sun"])[0]
    captions = ["a sun" if torch.equal(ids, one) else "the sun" for ids in batch["ids_0"]]
    start, end = torch.tensor([999, 519, 59]), torch.tensor([979, 499, 0])
    x_t = stage.schedule.add_noise(batch["x0"], batch["noise"], start)
    with torch.no_grad():
        ours = stage._step(x_t, start, end, stage._read(batch), batch["guidance"])
    for row in range(3):
        conditioning = encode_prompts(pipeline, [captions[row], ""], 64, 64)
        network = ConditionedUNet(pipeline.unet, conditioning, 1, 1.0)
        denoise = Denoiser(network, pipeline.schedule, schedule.prediction_type, Guidance(scale))
        sigmas = [pipeline.schedule.sigmas[t[row]].item() for t in (start, end)]
        x = x_t[row : row + 1] * math.sqrt(1 + sigmas[0] ** 2)
        with torch.no_grad():
            (step,) = SAMPLERS["ddim"].sample(denoise, x, sigmas, torch.randn_like)
        theirs = step.x / math.sqrt(1 + step.sigma_next**2)
        torch.testing.assert_close(ours[row : row + 1], theirs, rtol=1e-3, atol=1e-3)


def test_the_consistency_function_is_the_references_and_ends_at_its_argument() -> None:
    reference = LCMScheduler()
    skip, out = boundary(torch.tensor([0, 1, 19, 259, 999]))
    for i, t in enumerate((0, 1, 19, 259, 999)):
        expected = reference.get_scalings_for_boundary_condition_discrete(t)
        torch.testing.assert_close((skip[i].item(), out[i].item()), expected, rtol=1e-6, atol=1e-9)
    stage = distill()
    batch = stage.batch(0, slice(0, 4))
    told, t = stage._read(batch), torch.zeros(4, dtype=torch.int64)
    assert torch.equal(stage._consistent(stage.unet, batch["noise"], t, told, batch["guidance"]), batch["noise"])


def test_the_grid_is_the_one_that_the_sampler_visits() -> None:
    schedule = NoiseSchedule(SD1)
    visited = step_timesteps(schedule, "lcm", LCM_ORIGINAL_STEPS, skips_first=False)
    assert consistency_grid(1000, LCM_ORIGINAL_STEPS, skip=1).tolist() == [0, *reversed(visited)]
    fine = consistency_grid(1000, 1000, skip=20)
    assert fine.tolist() == [0] * 20 + list(range(1000))
    assert halved_grid(schedule, 8)[::2].tolist() == halved_grid(schedule, 4).tolist() == [-1, 249, 499, 749, 999]


def test_two_steps_and_the_jump_that_replaces_them() -> None:
    schedule = NoiseSchedule(SD2)
    start, middle, end = (level_at(schedule, torch.tensor(t)) for t in ([999, 249], [749, 124], [499, -1]))
    x, first, second = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    x_end = ddim_step(ddim_step(x, first, start, middle), second, middle, end)
    jump = target_of_jump(x, x_end, start, end)
    torch.testing.assert_close(ddim_step(x, jump, start, end), x_end, rtol=1e-4, atol=1e-5)
    assert torch.equal(x_end[1], second[1])  # the last step ends at the picture


def test_huber_is_square_near_zero_and_absolute_far_away() -> None:
    a = torch.tensor([[1e-2], [3.0]])
    loss = huber(a, torch.zeros_like(a), 0.1)
    torch.testing.assert_close(loss, torch.tensor([1e-4 / 0.2, 3 - 0.1]), rtol=1e-2, atol=1e-9)


class Gaussian(nn.Module):
    """The network of a teacher for pictures from N(0.3, 0.5²), or (`flows`) of its perfect student: where a path ends.

    In the scale x_0 + σ·ε the exact path is x' = m + (x - m)·√((s² + σ'²) / (s² + σ²)).
    """

    def __init__(self, schedule: NoiseSchedule, flows: bool) -> None:
        super().__init__()
        self.schedule, self.flows = schedule, flows

    def forward(self, x_t: Tensor, t: Tensor, *_told: Tensor | None) -> Tensor:
        level, end = level_at(self.schedule, t), level_at(self.schedule, torch.zeros_like(t))
        x, variance = x_t / level.signal, (level.noise / level.signal) ** 2
        if not self.flows:
            return 0.3 + (x - 0.3) * 0.25 / (0.25 + variance)
        ratio = (0.25 + (end.noise / end.signal) ** 2) / (0.25 + variance)
        answer = end.signal * (0.3 + (x - 0.3) * ratio.sqrt())
        skip, out = boundary(t)
        return torch.where(t.view(-1, 1, 1, 1) > 0, (answer - skip * x_t) / out, answer)


def test_a_perfect_consistency_function_has_no_loss() -> None:
    """But for the error of the teacher's steps, which falls with their size."""
    schedule = ScheduleConfig(prediction_type="sample")
    losses = {}
    for num in (50, 200, 1000):
        stage = distill(with_schedule(schedule), guidance=(1.0,), num_ddim_timesteps=num, target_decay=0.0)
        stage.teacher = Gaussian(stage.schedule, flows=False)
        batch = stage.batch(0, slice(0, 64))
        for flows in (True, False):
            stage.unet = Gaussian(stage.schedule, flows)  # type: ignore[assignment]
            losses[num, flows] = stage(batch, 0.0)["loss"].item()
    assert losses[50, True] > 3 * losses[200, True] > 9 * losses[1000, True]
    assert losses[1000, True] < 1e-5
    assert losses[50, False] > 20 * losses[50, True]


def test_progressive_and_guidance_have_no_loss_where_the_student_is_right() -> None:
    stage = distill(guidance=(1.0,), method="guidance")
    assert stage(stage.batch(0, slice(0, 8)), 0.0)["loss"] < 1e-10  # without guidance it knows all from the start
    guided = distill(guidance=(4.0,), method="guidance")
    assert guided(guided.batch(0, slice(0, 8)), 0.0)["loss"] > 1e-4
    progressive = distill(
        with_schedule(ScheduleConfig(prediction_type="sample")), guidance=(1.0,), method="progressive"
    )
    still = Gaussian(progressive.schedule, flows=False)
    still.forward = lambda x_t, *_told: torch.ones_like(x_t)  # type: ignore[method-assign,misc]
    progressive.unet = progressive.teacher = still  # type: ignore[assignment]
    assert progressive(progressive.batch(0, slice(0, 8)), 0.0)["loss"] < 1e-6  # straight paths need but one step


# --- what learns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"guidance": (3.0, 9.0)}, {"rank": 2}], ids=["whole", "embedded", "lora"])
def test_the_student_begins_as_its_teacher_which_stays_as_it_is(changes: dict[str, Any], tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    stage = distill(pipeline, **changes)
    batch = stage.batch(0, slice(0, 4))
    told, t = stage._read(batch), batch["t"]
    answers = [stage._denoised(n, batch["noise"], t, told, batch["guidance"]) for n in (stage.unet, stage.teacher)]
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-4)
    train(stage, stage.config.loop, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipeline.unet.state_dict().items())
    saved = load_file(tmp_path / "state.safetensors")
    assert not any(name.startswith("weights.teacher") for name in saved)
    learnt = [name for name in saved if name.startswith("weights.")]
    assert all(name.startswith("weights.unet") and ("lora" in name or "rank" not in changes) for name in learnt)
    for name in learnt:  # the target has come after, but not all the way
        kept = saved[name.replace("weights.unet.", "buffers.target.network.")]
        assert not torch.equal(kept, saved[name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target_decay": 0.0, "rank": 2},
        {"guidance": (3.0, 9.0), "rank": 0},
        {"rank": 2},
        {"method": "progressive", "teacher_steps": 8, "halvings": 3},
    ],
    ids=["target", "lora_alone", "embedded", "lora_target", "progressive"],
)
def test_stopped_and_resumed_is_bit_equal(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"loop": loop(steps=6), **changes}
    whole = distill(**changes)
    train(whole, whole.config.loop, tmp_path / "whole")
    runs = 0
    clock = iter(range(10**6))
    monkeypatch.setattr("stablediff.training.loop.time.monotonic", lambda: float(next(clock)))
    while not train(distill(**changes), whole.config.loop, tmp_path / "stopped", minutes=3 / 60).finished:
        runs += 1
    assert runs > 1
    a, b = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "stopped"))
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_micro_batches_move_the_target_once(tmp_path: Path) -> None:
    for name, micro in (("one", None), ("many", 1)):
        stage = distill(loop=loop(micro_batch=micro, steps=4))
        train(stage, stage.config.loop, tmp_path / name)
    one, many = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "many"))
    for name in one:
        if name.startswith("buffers.target"):
            torch.testing.assert_close(one[name], many[name], rtol=1e-3, atol=1e-4)


def test_progressive_changes_its_teacher_with_every_halving() -> None:
    stage = distill(method="progressive", teacher_steps=16, halvings=3, loop=loop(steps=9))
    phases = []
    for step in range(9):
        with torch.no_grad():
            for p in stage.unet.parameters():
                p += 1
        stage(stage.batch(step, slice(0, 1)), step / 9)
        kept = stage.teacher.network.conv_in.bias  # type: ignore[union-attr]
        phases.append((int(stage.phase), torch.equal(kept, stage.unet.conv_in.bias)))
    assert phases == [(step // 3, step in (3, 6)) for step in range(9)]


def test_the_guidance_scale_is_drawn_from_its_range() -> None:
    scales = distill(guidance=(3.0, 9.0)).batch(0, slice(0, 200))["guidance"]
    assert 3 <= scales.min() < 3.2
    assert 8.8 < scales.max() <= 9
    assert (distill(guidance=(3.0,)).batch(0, slice(0, 9))["guidance"] == 3).all()
    own = toy_pipeline().config.defaults.guidance_scale
    assert (distill(guidance=()).batch(0, slice(0, 9))["guidance"] == own).all()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": (0.5,)}, r"guidance is \[0.5\]: choose one scale"),
        ({"guidance": (3.0, 15.0, 16.0)}, "choose one scale"),
        ({"guidance": (9.0, 3.0)}, "or a rising range"),
        ({"guidance": (2.0, 6.0)}, "choose a range around 8"),
        ({"guidance": (float("nan"),)}, "choose one scale"),
        ({"guidance": (3.0, 9.0), "rank": 4}, "choose one scale, or rank = 0"),
        ({"rank": -1}, "rank is -1: choose 0 to 4096"),
        ({"num_ddim_timesteps": 0}, "num_ddim_timesteps is 0: choose 1"),
        ({"skip": 51}, "skip is 51: choose 1 to 50"),
        ({"target_decay": 1.0}, "target_decay is 1.0: choose 0 to less than 1"),
        ({"huber": 0.0}, "huber is 0.0: choose more than 0"),
        ({"huber": float("nan")}, "huber is nan: choose more than 0"),
        ({"teacher_steps": 12}, "teacher_steps is 12: for 3 halvings, choose a multiple of 8"),
        ({"halvings": 0}, "halvings is 0: choose 1 to 16"),
        ({"halvings": 4, "loop": loop(steps=3), "method": "progressive"}, "halvings is 4: choose 1 to 3"),
        ({"condition_dropout": 2.0}, "condition_dropout is 2.0: choose 0 to 1"),
    ],
)
def test_bad_numbers_are_refused_with_a_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("unet", "changes", "message"),
    [
        ({"in_channels": 9}, {}, "made for inpainting, which is not distilled here: choose its base model"),
        ({"in_channels": 8}, {}, "made for editing or scaling up"),
        ({"guidance_embedding_dim": 16}, {}, "distilled already: choose its base model"),
        ({}, {"num_ddim_timesteps": 1001}, "num_ddim_timesteps is 1001: this model has 1000 timesteps"),
        ({}, {"teacher_steps": 2000, "method": "progressive"}, "teacher_steps is 2000: this model has 1000"),
    ],
)
def test_a_model_that_cannot_teach_is_refused(unet: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        distill(toy_pipeline(**unet), **changes)


def test_the_ready_configs_are_good() -> None:
    ready = {
        file: from_table(DistillConfig, read_table(CONFIGS / file)) for file in ("sticker/distill.toml", "lcm.toml")
    }
    assert ready["sticker/distill.toml"].guidance == (4.0,)
    assert ready["lcm.toml"].rank == 64
