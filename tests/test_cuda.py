"""On a CUDA device: `python -m pytest -m cuda`. Nothing of it runs on a machine without one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stages import diffusion, loop
from toy import draw

from stablediff import load
from stablediff.conditioning import ConditionedUNet, Shortcuts, encode_prompts
from stablediff.images import to_pixels
from stablediff.pace.speed import Speed
from stablediff.training.loop import train

pytestmark = pytest.mark.cuda
WISHES: dict[str, Any] = {"prompt": "red apple, flat style", "seed": 5, "num_steps": 6}


def error(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of pixels, of 255."""
    return 127.5 * (to_pixels(one, 4) - to_pixels(other, 4)).abs().mean().item()


@pytest.fixture(scope="module")
def expected() -> Image.Image:
    return draw(load(device="cpu", dtype="float32"), **WISHES).images[0]


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.5), ("bfloat16", 3.0), ("float16", 1.0), (None, 1.0)])
def test_a_gpu_draws_the_picture_of_the_cpu(expected: Image.Image, dtype: str | None, bound: float):
    pipeline = load(device="cuda", dtype=dtype)
    result = draw(pipeline, **WISHES)
    assert error(result.images[0], expected) <= bound
    assert result.notes == ()


@pytest.mark.parametrize("wishes", [{"cache_interval": 2}, {"merged_tokens": 0.25}, {"guidance_interval": (0.5, 80.0)}])
def test_shortcuts_work_there(expected: Image.Image, wishes: dict[str, Any]):
    result = draw(load(device="cuda"), **WISHES, **wishes)
    assert error(result.images[0], expected) <= 25


def test_several_pictures_are_drawn_at_once_and_stay_the_same():
    pipeline = load(device="cuda", dtype="float32")
    several = draw(pipeline, **WISHES, num_images=3).images
    third = draw(pipeline, **{**WISHES, "seed": WISHES["seed"] + 2}).images[0]
    assert error(several[2], third) <= 0.5


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "radam"])
def test_a_run_there_goes_on_where_it_was_left(tmp_path: Path, optimizer: str):
    config, device = loop(steps=6, optimizer=optimizer), torch.device("cuda")
    train(diffusion(), config, tmp_path / "whole", device=device)
    train(diffusion(), config, tmp_path / "broken", device=device, minutes=0)
    assert train(diffusion(), config, tmp_path / "broken", device=device).finished
    whole, broken = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "broken"))
    for name, value in whole.items():
        torch.testing.assert_close(broken[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("merged", [0.0, 0.25])
def test_nothing_waits_for_the_gpu_inside_a_call(merged: float):
    """A number that is read back would stop the queue at every step."""
    pipeline = load(device="cuda")
    with torch.inference_mode():
        told = encode_prompts(pipeline, ["fox", ""], 512, 512)
        unet = ConditionedUNet(pipeline.unet, told, 1, 4.0, shortcuts=Shortcuts(merged_tokens=merged))
        x = torch.randn(1, pipeline.config.unet.in_channels, 16, 16, device="cuda")
        unet(x, 900.0, with_uncond=True)  # the first one also prepares
        torch.cuda.set_sync_debug_mode("error")
        try:
            unet(x, 500.0, with_uncond=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_parts_take_turns_and_the_picture_stays_the_same(expected: Image.Image):
    pipeline = load(device="cuda", dtype="float32", offload=True)
    result = draw(pipeline, **WISHES)
    assert error(result.images[0], expected) <= 0.5
    # The autoencoder worked last, and nothing else is left there.
    parts = {"text": pipeline.text_encoders[0], "unet": pipeline.unet, "vae": pipeline.vae}
    places = {name: {p.device.type for p in part.parameters()} for name, part in parts.items()}
    assert places == {"text": {"cpu"}, "unet": {"cpu"}, "vae": {"cuda"}}


def test_a_compiled_unet_draws_the_same(expected: Image.Image):
    result = draw(load(device="cuda", dtype="float32", compiled=True), **WISHES)
    assert error(result.images[0], expected) <= 0.5


def test_its_speed_is_measured_for_itself():
    pipeline = load(device="cuda")
    speed = Speed(pipeline)
    assert "cuda" not in Speed(load(device="cpu")).about
    assert torch.cuda.get_device_name() in speed.about
    result = draw(pipeline, prompt="fox", time_budget_s=5)
    assert math.isfinite(result.seconds["total"])
