"""What could not be found again is refused before it is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import toy_pipeline

from stablediff import load
from stablediff.config import SD1, SD2, SDXL, ModelConfig
from stablediff.errors import ConfigError
from stablediff.training.autoencoder import AutoencoderConfig
from stablediff.training.building import build_model
from stablediff.training.config import from_table, override
from stablediff.training.diffusion import DiffusionConfig
from stablediff.training.savable import check_savable
from stablediff.training.text_encoder import TextEncoderConfig

LOOP = {"steps": 1, "batch_size": 1, "learning_rate": 1e-3}
UNET = {
    "channels": [8, 16],
    "num_resnets": 1,
    "transformer_depth": [0, 1],
    "num_heads": [2, 2],
    "context_dim": 8,
    "norm_groups": 4,
}
DIFFUSION: dict[str, Any] = {"loop": LOOP, "vae": "vae", "text_encoder": "text", "unet": UNET}


def diffusion_config(*settings: str) -> DiffusionConfig:
    return from_table(DiffusionConfig, override(DIFFUSION, list(settings)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "unet.transformer_depth=[0, 2]",
            r"transformer_depth is \[0, 2\], and a saved model would have \[0, 1\]: make mid",
        ),
        (
            "unet.mid_transformer_depth=0",
            r"transformer_depth is \[0, 1\], and a saved model would have \[0, 0\]: make mid",
        ),
        ("unet.channels=[8]", r"\[unet\] cannot be used: the U-Net has 1 levels"),
        ("unet.mid_transformer_depth=65", "cannot be used: a depth of .*mid_transformer_depth is 65"),
        ("unet.num_resnets=17", "num_resnets is 17, and should be 1 to 16"),
        ("unet.norm_eps=nan", "norm_eps is nan, and should be 0 to 1"),
        ("unet.context_dim=0", "context_dim is 0, and should be 1 to"),
        ("unet.added_conditioning=text_time", "choose text or none"),
        ("unet.guidance_embedding_dim=256", "learnt by distillation alone: leave it away"),
        ("init=", "init is empty: name a file or folder, or leave it away"),
        ("vae=~nobody-of-this-name/vae", "vae is ~nobody-of-this-name/vae, and there is no such user here"),
        ("schedule.spacing=anyword", "schedule.spacing is 'anyword': choose one of leading, trailing, linspace"),
        ("schedule.num_train_timesteps=0", "num_train_timesteps is 0, and should be 2 to"),
        ("schedule.num_train_timesteps=1", "num_train_timesteps is 1, and should be 2 to"),
        ("schedule.steps_offset=2000", "steps_offset is 2000, and should be 0 to 999"),
        ("schedule.beta_start=nan", "beta_start is nan"),
        ("schedule.beta_start=0", "beta_start is 0.0"),
        ("schedule.beta_start=2", "beta_start is 2.0"),
        ("defaults.sampler=nonsense", r"\[defaults\] cannot be used: sampler 'nonsense' is not known: choose one of"),
        ("defaults.num_steps=0", "num_steps is 0: choose 1 to"),
        ("defaults.width=63", "width is 63: choose 64 to"),
        ("defaults.guidance_scale=nan", "guidance_scale is nan: choose 0 to 100"),
        ("defaults.strength=7", "strength is 7.0: choose 0 to 1"),
    ],
)
def test_a_model_that_could_not_be_loaded_is_not_trained(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        diffusion_config(setting)


@pytest.mark.parametrize("setting", ["vae.channels=[100000000, 16]", "vae.num_resnets=0", "vae.scaling_factor=nan"])
def test_an_autoencoder_that_could_not_be_loaded_is_not_trained(setting: str) -> None:
    entry = setting.split(".")[1].split("=")[0]
    with pytest.raises(ConfigError, match=rf"\[vae\] cannot be used: {entry} is .*, and should be"):
        from_table(AutoencoderConfig, override({"loop": LOOP, "crop": 64}, [setting]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("context_layer=-2", "text.context_layer is -2, and a saved model would have -1: choose -1"),
        ("context_norm=false", "text.context_norm is false, and a saved model would have true: choose true"),
        ("projection_size=8", "text.projection_size is 8, and a saved model would have none: leave it away"),
        ("num_layers=0", r"\[text\] cannot be used: num_layers is 0, and should be 1 to 100"),
        ("hidden_size=0", "hidden_size is 0, and should be 1 to"),
        ("max_length=1", "max_length is 1, and should be 3 to"),
        ("max_length=2", "max_length is 2, and should be 3 to"),
        ("layer_norm_eps=nan", "layer_norm_eps is nan, and should be 0 to 1"),
    ],
)
def test_a_text_encoder_that_could_not_be_loaded_is_not_trained(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_table(TextEncoderConfig, override({"loop": LOOP, "vae": "vae"}, [f"text.{setting}"]))


@pytest.mark.parametrize(
    ("unet", "settings"),
    [
        ({}, []),
        ({"transformer_depth": [2, 0], "mid_transformer_depth": 3}, ["schedule.spacing=linspace"]),
        ({"transformer_depth": [1, 0], "mid_transformer_depth": 0}, ["schedule.rescale_zero_snr=true"]),
        ({"added_conditioning": "text", "added_text_heads": 2}, ["schedule.num_train_timesteps=20"]),
        ({"linear_projection": True, "added_size_dim": 8}, ["schedule.prediction_type=v_prediction"]),
    ],
)
def test_what_is_built_is_found_again(
    toy_folder: Path, tmp_path: Path, unet: dict[str, Any], settings: list[str]
) -> None:
    table = {**DIFFUSION, "vae": str(toy_folder), "text_encoder": str(toy_folder), "unet": {**UNET, **unet}}
    built = build_model(from_table(DiffusionConfig, override(table, settings)), torch.device("cpu"))
    built.save(tmp_path / "model")
    again = load(tmp_path / "model", device="cpu", dtype="float32")
    assert again.config.schedule == built.config.schedule
    assert again.config.defaults == built.config.defaults
    for name, weights in built.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], weights), name


def test_defaults_that_the_schedule_cannot_draw_are_not_trained(toy_folder: Path) -> None:
    table = {**DIFFUSION, "vae": str(toy_folder), "text_encoder": str(toy_folder)}
    table["schedule"] = {"num_train_timesteps": 10}
    with pytest.raises(ConfigError, match="with its defaults: num_steps is 20: choose 1 to 10"):
        build_model(from_table(DiffusionConfig, table), torch.device("cpu"))


@pytest.mark.parametrize("preset", [SD1, SD2, toy_pipeline().config])
def test_real_models_are_good(preset: ModelConfig) -> None:
    check_savable(preset)
    check_savable(replace(preset, unet=replace(preset.unet, added_size_dim=8)))  # which nothing reads


def test_a_model_must_fit_together() -> None:
    with pytest.raises(ConfigError, match="the U-Net reads 768 numbers a token, the text encoders give 1024"):
        check_savable(replace(SD1, text_encoders=SD2.text_encoders))
    with pytest.raises(ConfigError, match="choose text or none"):
        check_savable(SDXL)
    short = replace(SD1.text_encoders[0], max_length=2)
    with pytest.raises(ConfigError, match=r"\[text_encoder\] cannot be used: max_length is 2"):
        check_savable(replace(SD1, text_encoders=(short,)))
