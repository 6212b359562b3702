"""What `save` writes is the model, for us and for the reference libraries; and it is written whole or not at all."""

import itertools
import json
import pkgutil
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from children import save_for_ever, start_child
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny import KINDS, TinyModel
from torch import Tensor
from toy import toy_pipeline

from stablediff import Pipeline, load
from stablediff.errors import CheckpointError

GetModel = Callable[[str], TinyModel]
PROMPT = "Two cats' café, 北京 🐈 and 42 dogs"


def load_f32(path: Path) -> Pipeline:
    return load(path, device="cpu", dtype="float32")


def all_tensors(pipeline: Pipeline) -> Iterator[tuple[str, Tensor]]:
    parts = {f"text {i}": encoder for i, encoder in enumerate(pipeline.text_encoders)}
    for name, part in (parts | {"unet": pipeline.unet, "vae": pipeline.vae}).items():
        for key, tensor in part.state_dict().items():
            yield f"{name} {key}", tensor


def assert_same_tensors(ours: Pipeline, theirs: Pipeline) -> None:
    for (name, a), (other, b) in zip(all_tensors(ours), all_tensors(theirs), strict=True):
        assert name == other
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name


def assert_same(ours: Pipeline, theirs: Pipeline) -> None:
    assert_same_tensors(ours, theirs)
    assert ours.config == theirs.config
    for a, b in zip(ours.tokenizers, theirs.tokenizers, strict=True):
        assert a.tokenize(PROMPT) == b.tokenize(PROMPT)
        assert (a.bos_id, a.eos_id, a.pad_id, a.max_length) == (b.bos_id, b.eos_id, b.pad_id, b.max_length)


@pytest.mark.parametrize("kind", [*KINDS, "lcm", "sticker"])
def test_saved_model_is_the_same_model(kind: str, tiny_model: GetModel, sticker: Pipeline, tmp_path: Path) -> None:
    pipeline = sticker if kind == "sticker" else load_f32(tiny_model(kind).folder)
    pipeline.save(tmp_path / "new" / "model")
    assert_same(load_f32(tmp_path / "new" / "model"), pipeline)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"], "no drafts stay behind"


def test_a_single_file_can_be_saved_as_a_folder(tiny_model: GetModel, tmp_path: Path) -> None:
    pipeline = load_f32(tiny_model("sd2").file)
    pipeline.save(tmp_path / "model")
    assert_same(load_f32(tmp_path / "model"), pipeline)


def test_a_distilled_model_is_still_known_as_one(copied: Path, tmp_path: Path) -> None:
    settings = copied / "scheduler" / "scheduler_config.json"
    turbo = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | turbo))
    pipeline = load_f32(copied)
    assert (pipeline.config.defaults.num_steps, pipeline.config.defaults.guidance_scale) == (4, 1.0)
    pipeline.save(tmp_path / "saved")
    assert_same(load_f32(tmp_path / "saved"), pipeline)


def test_half_precision_stays_as_it_is(tmp_path: Path) -> None:
    pipeline = toy_pipeline(torch.bfloat16)
    pipeline.save(tmp_path / "model")
    saved = load(tmp_path / "model", device="cpu", dtype="bfloat16")
    assert saved.report.stored_dtype == "BF16"
    assert_same_tensors(saved, pipeline)


@pytest.mark.parametrize("kind", [*KINDS, "sticker"])
def test_the_reference_loads_what_was_saved(kind: str, tiny_model: GetModel, sticker: Pipeline, tmp_path: Path) -> None:
    """Strictly: its loader warns about missing tensors, and would fill them with noise."""
    pipeline = sticker if kind == "sticker" else load_f32(tiny_model(kind).folder)
    pipeline.save(tmp_path / "model")
    reference = DiffusionPipeline.from_pretrained(tmp_path / "model")
    assert type(reference).__name__ == ("StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline")

    def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
        theirs = {key.removeprefix("text_model."): tensor for key, tensor in theirs.items()}
        return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)

    assert same(pipeline.unet.state_dict(), reference.unet.state_dict())
    assert same(pipeline.vae.state_dict(), reference.vae.state_dict())
    assert same(pipeline.text_encoders[0].state_dict(), reference.text_encoder.state_dict())
    tokenizers = [reference.tokenizer]
    if kind == "sdxl":
        assert same(pipeline.text_encoders[1].state_dict(), reference.text_encoder_2.state_dict())
        tokenizers.append(reference.tokenizer_2)
        assert reference.config.force_zeros_for_empty_prompt
    for ours, theirs in zip(pipeline.tokenizers, tokenizers, strict=True):
        ids = theirs(PROMPT, padding="max_length", truncation=True, return_tensors="pt").input_ids
        assert torch.equal(ours.to_tensors(ours.tokenize(PROMPT))[0], ids)
    schedule, theirs = pipeline.config.schedule, reference.scheduler
    assert theirs.config.prediction_type == schedule.prediction_type
    torch.testing.assert_close(theirs.alphas_cumprod.double(), pipeline.schedule.alphas_cumprod, rtol=1e-3, atol=1e-7)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    for name in ("folder", "file"):
        taken = tmp_path / name
        taken.mkdir() if name == "folder" else taken.write_text("mine")
        with pytest.raises(CheckpointError, match="exists already"):
            toy_pipeline().save(taken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_overwriting_replaces_everything(tiny_model: GetModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    toy_pipeline().save(folder)
    (folder / "leftover").touch()
    load_f32(tiny_model("sd1").folder).save(folder, overwrite=True)
    new = load_f32(folder)
    assert_same(new, load_f32(tiny_model("sd1").folder))
    assert not (folder / "leftover").exists()
    new.save(folder, overwrite=True)  # though its tensors lie in the files that are replaced
    assert_same(load_f32(folder), new)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("place", ["model", "model.previous"])
def test_what_is_no_model_is_never_replaced(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir()
    (tmp_path / place / "photo.jpg").write_text("mine")
    with pytest.raises(CheckpointError, match=rf"{place} is there and is no model: move it away"):
        toy_pipeline().save(tmp_path / "model", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [place]
    assert (tmp_path / place / "photo.jpg").read_text() == "mine"


def test_a_file_is_never_replaced_by_a_model(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(CheckpointError, match="is no model"):
        toy_pipeline().save(tmp_path / "model", overwrite=True)
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.parametrize("dtype", [torch.int32, "float16"])
def test_weights_are_saved_as_floats(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no precision for weights"):
        toy_pipeline().save(tmp_path / "model", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="Choose another place"):
        toy_pipeline().save(tmp_path / "file" / "model")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_leaves_the_former_model(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = toy_pipeline()
    pipeline.save(tmp_path / "model")

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("stablediff.checkpoints.save.save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        pipeline.save(tmp_path / "model", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    load_f32(tmp_path / "model")


@pytest.mark.parametrize(
    ("operation", "when"), [("pathlib.Path.rename", 1), ("pathlib.Path.rename", 2), ("shutil.rmtree", 2)]
)
def test_an_end_at_any_operation_leaves_the_old_model_or_the_new_one(
    operation: str, when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    toy_pipeline().save(folder)
    pipeline = load_f32(folder)
    calls, real = itertools.count(1), pkgutil.resolve_name(operation)

    def end(*args: Any, **options: Any) -> Any:
        if next(calls) == when:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(operation, end)
    with suppress(KeyboardInterrupt):
        pipeline.save(folder, overwrite=True)
    monkeypatch.undo()
    assert_same(load_f32(folder), pipeline)
    pipeline.save(folder, overwrite=True)
    assert_same(load_f32(folder), pipeline)


@pytest.mark.parametrize("times", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_while_saving_the_old_model_or_the_new_one_loads(times: int, tmp_path: Path) -> None:
    rng = random.Random(0)
    source, folder, started = tmp_path / "source", tmp_path / "model", tmp_path / "started"
    toy_pipeline().save(source)
    for _ in range(times):
        started.unlink(missing_ok=True)
        child = start_child(save_for_ever, str(folder), str(source), str(started))
        while not started.exists():
            assert child.is_alive()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        child.kill()  # SIGKILL: nothing can be tidied up
        child.join()
        pipeline = load_f32(folder)
        numbers = {float(t.flatten()[0]) for part in (pipeline.unet, pipeline.vae) for t in part.parameters()}
        assert len(numbers) == 1, "parts of two saves"
        for left in tmp_path.glob(".stablediff.*"):
            shutil.rmtree(left)


def test_file_permissions_follow_the_users_habits(tmp_path: Path) -> None:
    """Temporary files are private; a model in a shared place should not be."""
    toy_pipeline().save(tmp_path / "model")
    for path in [tmp_path / "model", *(tmp_path / "model").rglob("*")]:
        assert path.stat().st_mode & 0o044 == 0o044, path
    assert load_file(tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors")
