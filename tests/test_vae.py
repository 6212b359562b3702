"""Our autoencoder against that of diffusers, on the same weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import TOLERANCE, fifty_configs, hush, max_error, randn, vae_pair
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from stablediff.config import VAEConfig
from stablediff.models.layers import Downsample
from stablediff.models.vae import VAE

TINY = VAEConfig(channels=(8, 16), num_resnets=1, norm_groups=4)


@st.composite
def vae_configs(draw: st.DrawFn) -> VAEConfig:
    patch_size, groups = draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 2, 4]))
    image_channels = draw(st.sampled_from([3, 3, 4])) * patch_size**2
    widths = st.sampled_from([2, 3, 4, 6]).map(lambda width: width * groups)
    return VAEConfig(
        in_channels=image_channels,
        out_channels=image_channels,
        latent_channels=draw(st.sampled_from([3, 4, 8])),
        channels=tuple(draw(st.lists(widths, min_size=1, max_size=3))),
        num_resnets=draw(st.integers(1, 2)),
        norm_groups=groups,
        mid_attention=draw(st.booleans()),
        quant_conv=draw(st.booleans()),
        post_quant_conv=draw(st.booleans()),
        scaling_factor=draw(st.sampled_from([0.18215, 0.13025, 1.0])),
        patch_size=patch_size,
    )


def errors(ours: VAE, reference: nn.Module, images: Tensor, latents: Tensor) -> tuple[float, float, float]:
    """Of the mean, the log-variance and the picture. diffusers knows neither patches nor scaling: done here by hand."""
    config = ours.config
    moments = ours.moments(images)
    expected = reference.encode(pixel_unshuffle(images, config.patch_size)).latent_dist
    pictures = pixel_shuffle(reference.decode(latents / config.scaling_factor).sample, config.patch_size)
    return (
        max_error(moments.mean, expected.mean),
        max_error(moments.logvar, expected.logvar),
        max_error(ours.decode(latents), pictures),
    )


@fifty_configs
@given(config=vae_configs(), height=st.integers(2, 5), width=st.integers(2, 5), seed=st.integers(0, 999))
def test_encoder_and_decoder_match_the_reference(config: VAEConfig, height: int, width: int, seed: int):
    ours, reference = vae_pair(config, seed)
    images = randn(2, config.image_channels, height * config.downscale, width * config.downscale, seed=seed)
    latents = randn(2, config.latent_channels, height, width, seed=seed + 1)
    assert max(errors(ours, reference, images, latents)) <= TOLERANCE


def test_pictures_that_are_no_multiple_of_a_cell_encode_like_the_reference():
    ours, reference = vae_pair(replace(TINY, channels=(8, 8, 16)))
    images = randn(1, 3, 21, 14)
    assert max_error(ours.moments(images).mean, reference.encode(images).latent_dist.mean) <= TOLERANCE


def test_encode_is_the_scaled_mean_and_decode_undoes_the_scaling():
    ours, _ = vae_pair(TINY)
    unscaled, _ = vae_pair(replace(TINY, scaling_factor=1.0))
    images = randn(1, 3, 8, 12)
    latents = ours.encode(images)
    assert max_error(latents, TINY.scaling_factor * unscaled.encode(images)) <= TOLERANCE
    assert max_error(ours.decode(latents), unscaled.decode(unscaled.encode(images))) <= TOLERANCE


def test_extreme_log_variances_are_clamped_like_the_reference():
    ours, reference = vae_pair(TINY)
    ours.quant_conv.weight.mul_(1000)  # the pair shares its weights
    images = randn(1, 3, 8, 12)
    logvar = ours.moments(images).logvar
    assert (logvar.min(), logvar.max()) == (-30, 20)
    assert max_error(logvar, reference.encode(images).latent_dist.logvar) <= 30 * TOLERANCE


def test_group_norms_use_an_eps_of_1e_6():
    ours, reference = vae_pair(TINY)
    hush(ours)
    images, latents = randn(1, 3, 8, 12), randn(1, 4, 4, 6)
    assert max(errors(ours, reference, images, latents)) <= TOLERANCE
    for norm in (module for module in ours.modules() if isinstance(module, nn.GroupNorm)):
        norm.eps = 1e-5  # as in the U-Net
        assert max(errors(ours, reference, images, latents)) > 100 * TOLERANCE, "an error in eps would go unnoticed"
        norm.eps = 1e-6


def test_downsampling_pads_right_and_bottom_only():
    """A kernel of ones counts the cells that it covers: nine where there is no padding."""
    counts = {}
    for asymmetric in (True, False):
        downsample = Downsample(1, asymmetric=asymmetric).requires_grad_(False)
        downsample.conv.weight.fill_(1)
        downsample.conv.bias.fill_(0)
        counts[asymmetric] = downsample(torch.ones(1, 1, 4, 4))[0, 0].tolist()
    assert counts[True] == [[9, 6], [6, 4]]
    assert counts[False] == [[4, 6], [6, 9]]
    samplers = [module for module in vae_pair(TINY)[0].encoder.modules() if isinstance(module, Downsample)]
    assert [sampler.asymmetric for sampler in samplers] == [True]


def test_channels_last_gives_the_same_result():
    ours, reference = vae_pair(TINY)
    images = randn(2, 3, 10, 14).contiguous(memory_format=torch.channels_last)
    latents = randn(2, 4, 5, 7).contiguous(memory_format=torch.channels_last)
    assert max(errors(ours, reference, images, latents)) <= TOLERANCE
    ours.to(memory_format=torch.channels_last)
    assert ours.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert max(errors(ours, reference, images, latents)) <= TOLERANCE
    assert max(errors(ours, reference, images.contiguous(), latents.contiguous())) <= TOLERANCE


def test_batch_equals_singles_and_leaves_its_input_alone():
    ours, _ = vae_pair(TINY)
    images, latents = randn(3, 3, 8, 12), randn(3, 4, 4, 6)
    untouched = images.clone(), latents.clone()
    encoded, decoded = ours.encode(images), ours.decode(latents)
    assert torch.equal(images, untouched[0])
    assert torch.equal(latents, untouched[1])
    for i in range(3):
        assert max_error(ours.encode(images[i : i + 1]), encoded[i : i + 1]) <= TOLERANCE
        assert max_error(ours.decode(latents[i : i + 1]), decoded[i : i + 1]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("scaling_factor", [0.18215, 0.13025], ids=["SD 1 and 2", "SDXL"])
def test_full_size_autoencoder_matches_the_reference(scaling_factor: float, record_property):
    ours, reference = vae_pair(VAEConfig(scaling_factor=scaling_factor))
    found = errors(ours, reference, randn(1, 3, 128, 128).clamp(-1, 1), scaling_factor * randn(1, 4, 16, 16))
    record_property("max_error", found)
    assert max(found) <= 1e-4
