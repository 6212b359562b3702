"""Checkpoints as they are met: named by their makers, converted by others, with variants side by side."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_checkpoints import assert_loaded, load_f32
from tiny import TinyModel, save_tensors

from stablediff import load
from stablediff.checkpoints.suggest import suggest_defaults, with_habits
from stablediff.config import SD1, SDXL, ModelConfig

GetModel = Callable[[str], TinyModel]


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("sd_xl_turbo_1.0_fp16", "euler_ancestral"),
        ("juggernautXL_v9Rdphoto2Lightning", "euler_ancestral"),
        ("ByteDance/SDXL-Lightning", "euler_ancestral"),
        ("Hyper-SDXL-8steps", "euler_ancestral"),
        ("HyperSD15", "euler_ancestral"),
        ("juggernautXL_hyper_8step", "euler_ancestral"),
        ("dreamshaper_8LCM", "lcm"),
        ("SimianLuo/LCM_Dreamshaper_v7", "lcm"),
        ("hyper_realism_v1", "dpmpp_2m"),
        ("turbovisionxlSuperFast", "dpmpp_2m"),
        ("realcmix_v2", "dpmpp_2m"),
    ],
)
@pytest.mark.parametrize("config", [SD1, SDXL])
def test_models_for_few_steps_are_known_by_their_names(name: str, sampler: str, config: ModelConfig) -> None:
    defaults = suggest_defaults(config, name)
    assert defaults.sampler == sampler
    assert (defaults.num_steps == 4) == (sampler != "dpmpp_2m")
    spacing = with_habits(config, name).schedule.spacing
    assert spacing == ("trailing" if sampler == "euler_ancestral" else config.schedule.spacing)


def test_a_turbo_file_is_drawn_at_the_levels_that_it_was_distilled_at(tiny_model: GetModel, tmp_path: Path) -> None:
    file = Path(tmp_path / "sd_turbo.safetensors")
    file.symlink_to(tiny_model("sd1").file)
    pipeline = load_f32(file)
    assert pipeline.config.schedule.spacing == "trailing"
    assert pipeline.config.defaults == replace(pipeline.config.defaults, num_steps=4, guidance_scale=1.0)
    pipeline.save(tmp_path / "saved")
    assert load_f32(tmp_path / "saved").config.schedule == pipeline.config.schedule


def test_an_sd2_file_that_was_converted_keeps_all_its_text_layers(tiny_model: GetModel, tmp_path: Path) -> None:
    """From a folder come only the layers that are read, and no projection."""
    original = load_file(tiny_model("sd2").file)
    text = "cond_stage_model.model."
    last = f"{text}transformer.resblocks.2."
    leftovers = [key for key in original if key.startswith((last, f"{text}text_projection", f"{text}logit_scale"))]
    assert len(leftovers) == 14
    converted = {key: tensor for key, tensor in original.items() if key not in leftovers}
    assert_loaded(load_f32(save_tensors(converted, tmp_path / "converted.safetensors")), tiny_model("sd2"))


@pytest.mark.parametrize("others", [("fp16", "non_ema"), ("fp16",), ()])
def test_of_pickles_in_a_folder_the_plain_one_is_read(copied: Path, others: tuple[str, ...]) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    torch.save(tensors, weights.with_suffix(".bin"))
    for other in others:
        torch.save({key: tensor + 1 for key, tensor in tensors.items()}, weights.with_suffix(f".{other}.bin"))
    weights.unlink()
    pipeline = load(copied, device="cpu", dtype="float32", allow_pickle=True, trainable=True)
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in pipeline.unet.state_dict().items())
