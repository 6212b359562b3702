"""The autoencoder's stage: what it starts from, what it leaves to others, and what does not fit together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import TINY_VAE, autoencoder, loop, shape

from stablediff.checkpoints.parts import load_vae, save_vae
from stablediff.config import VAEConfig
from stablediff.errors import ConfigError
from stablediff.models.vae import VAE
from stablediff.training.crops import to_model
from stablediff.training.initialise import new_vae

PICTURES = torch.stack([to_model(shape(i), 4) for i in range(16)])


def test_latents_end_at_deviation_1_whatever_the_scaling_factor() -> None:
    stage = autoencoder(loop=loop(steps=5), vae=replace(TINY_VAE, scaling_factor=0.2))
    crops = [stage.crops.draw(np.random.default_rng(i), 128) for i in range(24)]
    with torch.no_grad():
        before = stage.vae.decode(stage.vae.encode(PICTURES))
        stage.normalise_latents(count=32)
        latents = stage.vae.encode(torch.stack(crops)).transpose(0, 1).flatten(1)
        torch.testing.assert_close(stage.vae.decode(stage.vae.encode(PICTURES)), before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(latents.std(dim=1), torch.ones(4), rtol=0.1, atol=0.0)


def test_a_stage_begins_with_the_settings_of_what_it_begins_with(tmp_path: Path) -> None:
    wider = replace(TINY_VAE, latent_channels=6, scaling_factor=0.5)
    save_vae(tmp_path, new_vae(wider))
    stage = autoencoder(init=tmp_path, equivariance=0.0)
    assert stage.config.vae.latent_channels == 6
    assert stage.config.vae.scaling_factor == 0.5
    assert stage(stage.batch(0, slice(0, 2)), 0.0)["loss"].isfinite()


def test_latents_of_a_frozen_encoder_stay_as_they_are(tmp_path: Path) -> None:
    save_vae(tmp_path / "first", new_vae(TINY_VAE))
    stage = autoencoder(init=tmp_path / "first", freeze_encoder=True)
    stage.export(tmp_path / "second")
    first, second = (load_vae(tmp_path / name).encode(PICTURES) for name in ("first", "second"))
    assert torch.equal(first, second)


def test_sizes_without_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(config: VAEConfig) -> VAE:
        if torch.get_default_device().type == "meta":
            return VAE(config)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 6400000000 bytes")

    monkeypatch.setattr("stablediff.training.initialise.VAE", no_room)
    with pytest.raises(ConfigError, match=r"the sizes in \[vae\] do not fit into memory: choose smaller ones"):
        new_vae(TINY_VAE)


def test_larger_crops_are_spread_evenly() -> None:
    stage = autoencoder(larger_crops_from=0.0)
    assert stage.rows_multiple == 4
    parts = [stage.batch(0, slice(start, start + 4))["pictures"] for start in (0, 4)]
    assert torch.equal(torch.cat(parts), stage.batch(0, slice(0, 8))["pictures"])
    assert autoencoder(larger_crops_from=1.0).rows_multiple == 1


def test_latents_that_would_keep_any_scale_are_not_learnt() -> None:
    for part in ("quant_conv", "post_quant_conv"):
        without = replace(TINY_VAE, **{part: False})
        with pytest.raises(ConfigError, match="latents would keep any scale: choose quant_conv and post_quant_conv"):
            autoencoder(vae=without)
        assert autoencoder(vae=without, freeze_encoder=True).config.vae == without


@pytest.mark.parametrize(("crop", "multiple"), [(33, 8), (36, 8), (8, 8)])
def test_a_crop_that_is_no_number_of_cells_is_refused(crop: int, multiple: int) -> None:
    with pytest.raises(ConfigError, match=f"crop is {crop}: choose a multiple of {multiple}"):
        autoencoder(crop=crop)
    assert autoencoder(crop=36, equivariance=0.0).config.crop == 36
