"""Several processes: they learn what one would, whole or sharded, and one of them makes the data ready for all."""

import csv
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from children import in_group
from safetensors.torch import load_file
from stages import ShapePictures, autoencoder, diffusion, loop, text_stage
from toy import toy_pipeline

from stablediff import Pipeline
from stablediff.training import distributed, muon
from stablediff.training.latents import cached_latents
from stablediff.training.loop import autocast, train
from stablediff.training.muon import Muon
from stablediff.training.stage import Stage

CPU = torch.device("cpu")


STAGES = ("autoencoder", "text", "diffusion", "sheet")


def _stage(name: str) -> Stage:
    if name == "autoencoder":
        return autoencoder(loop=loop(steps=4), larger_crops_from=1.0)
    if name == "text":
        return text_stage(steps=4)
    stage = diffusion(prompts=("red disc",) if name == "sheet" else ())
    if name == "sheet":  # drawn before the whole stage was called without gradients
        stage.measure = dict  # type: ignore[method-assign, assignment]
    return stage


def _learn(folder: Path, sharded: bool) -> None:
    with distributed.processes(CPU):
        for name in STAGES:
            train(_stage(name), loop(steps=4, sheet_steps=2, log_steps=1), folder / name, sharded=sharded)


def _metrics(folder: Path) -> list[dict[str, float]]:
    """Without the speed, and without what is averaged over the rows of each process by itself."""
    rows = csv.DictReader((folder / "metrics.csv").open())
    kept = [{k: v for k, v in row.items() if v and not k.startswith(("loss_q", "samples_per"))} for row in rows]
    return [{name: float(value) for name, value in row.items()} for row in kept]


def test_sharded_stages_are_measured_and_go_on_as_others_do(tmp_path: Path) -> None:
    _learn(tmp_path / "one", sharded=False)
    in_group(_learn, tmp_path / "two", True)
    for name in STAGES:
        one, two = (_metrics(tmp_path / run / name) for run in ("one", "two"))
        assert two == [pytest.approx(row, rel=2e-3, abs=1e-4) for row in one], name
    assert (tmp_path / "two" / "sheet" / "sheets" / "0000004.png").exists()


def _learn_evenly(folder: Path) -> None:
    config = loop(steps=4, optimizer="muon", learning_rate=1e-3)
    train(diffusion(), config, folder)


def test_processes_take_turns_with_the_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Muon's rounds are shared out, and all weights move as in one process."""
    _learn_evenly(tmp_path / "one")
    in_group(_learn_evenly, tmp_path / "two")
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=2e-3, atol=2e-5, msg=name)
    taken = []
    monkeypatch.setattr(muon, "orthogonalise", lambda x, _: (taken.append(len(x)), x)[1])
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "sum_over_processes", lambda x: x)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (3, 2), (3, 2), (3, 2), (4, 2))]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        Muon([{"params": weights, "orthogonal": True, "lr": 0.1}], betas=(0.9, 0.99)).step()
    assert taken == [1, 1, 1, 2]  # the first of two, the second of three and the last; of three the others


def _encode(folder: Path) -> tuple[int, bytes]:
    """-> how many pictures this process has encoded, and the latents."""
    stage, drawn = autoencoder(), ShapePictures()
    drawn.picture = count = Mock(wraps=drawn.picture)  # type: ignore[method-assign]
    latents = cached_latents(folder, "shapes", drawn, 64, stage.vae, CPU, autocast(loop(), CPU))
    return count.call_count, latents.numpy().tobytes()


def _encode_in_group(folder: Path) -> tuple[int, bytes]:
    with distributed.processes(CPU) as device:
        assert device == CPU
        return _encode(folder)


def test_one_process_makes_the_data_ready_for_all(tmp_path: Path) -> None:
    (first, latents), (second, same) = in_group(_encode_in_group, tmp_path / "two")
    assert (first, second) == (16, 0)
    assert latents == same
    assert latents == _encode(tmp_path / "one")[1]


def _contrast(folder: Path) -> None:
    stage = text_stage(steps=3, batch_size=16)
    train(stage, stage.config.loop, folder)


def test_two_processes_contrast_with_the_whole_batch(tmp_path: Path) -> None:
    """Each caption is told from all pictures of the batch, also from those in the other process."""
    _contrast(tmp_path / "one")
    in_group(_contrast, tmp_path / "two")
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    for name in one:
        if name.startswith("optimizer.exp_avg."):
            torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-6)


def _learn_penultimate(folder: Path) -> None:
    train(diffusion(penultimate_pipeline()), loop(steps=2), folder)


def test_what_a_text_encoder_does_not_use_holds_nobody_up(tmp_path: Path) -> None:
    """Its last layer, where the U-Net reads the one before it."""
    in_group(_learn_penultimate, tmp_path)
    assert (tmp_path / "model").exists()


def test_a_stage_knows_whether_parameters_are_idle() -> None:
    for stage in (diffusion(penultimate_pipeline()), diffusion(), diffusion(penultimate_pipeline(), text_rate=0.0)):
        stage(stage.batch(0, slice(0, 2)), 0.0)["loss"].backward()
        idle = [name for name, p in stage.named_parameters() if p.requires_grad and p.grad is None]
        assert stage.has_idle_parameters == bool(idle), idle


def penultimate_pipeline() -> Pipeline:
    """As SDXL's first text encoder is read."""
    pipeline = toy_pipeline()
    encoder = pipeline.text_encoders[0]
    encoder.config = replace(encoder.config, context_layer=-2, context_norm=False)
    return pipeline


def test_sheets_are_drawn_where_the_networks_are() -> None:
    pipeline = toy_pipeline()
    stage = diffusion(pipeline, prompts=("red disc",))
    pipeline.compute = replace(pipeline.compute, device=torch.device("meta"))
    with torch.no_grad():
        assert stage.sheet() is not None
    assert pipeline.device == CPU
