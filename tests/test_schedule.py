"""Noise schedules and the forward process against the reference, and the ways between σ and t."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schedulers import double_precision, make_scheduler

from stablediff.config import ScheduleConfig
from stablediff.diffusion.schedule import NoiseSchedule

CONFIGS = {
    "sd": ScheduleConfig(),
    "linear": ScheduleConfig(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    "cosine": ScheduleConfig(beta_schedule="squaredcos_cap_v2"),
    "sd, zero SNR": ScheduleConfig(rescale_zero_snr=True),
    "linear, zero SNR": ScheduleConfig(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, rescale_zero_snr=True),
    "cosine, zero SNR": ScheduleConfig(beta_schedule="squaredcos_cap_v2", rescale_zero_snr=True),
    "short": ScheduleConfig(num_train_timesteps=37),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())

examples = settings(max_examples=100, deadline=None, derandomize=True, database=None)
configs = st.builds(
    ScheduleConfig,
    num_train_timesteps=st.integers(2, 1200),
    beta_schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    beta_start=st.floats(1e-5, 1e-3),
    beta_end=st.floats(2e-3, 0.03),
    rescale_zero_snr=st.booleans(),
)


@each_config
def test_schedule_is_the_references(config: ScheduleConfig) -> None:
    schedule, reference = NoiseSchedule(config), make_scheduler("euler", config)
    # Near the end of a zero-SNR schedule the reference divides small float32 numbers by each other.
    atol = 1e-4 if config.rescale_zero_snr else 1e-7
    torch.testing.assert_close(schedule.betas.float(), reference.betas, atol=atol, rtol=0)
    torch.testing.assert_close(schedule.alphas_cumprod.float(), reference.alphas_cumprod, atol=2e-6, rtol=0)


@examples
@given(configs)
def test_any_schedule_is_the_references_in_double_precision(config: ScheduleConfig) -> None:
    schedule = NoiseSchedule(config)
    with double_precision("euler"):
        reference = make_scheduler("euler", config)
    assert reference.betas.dtype == torch.float64
    for ours, theirs in (
        (schedule.betas, reference.betas),
        (schedule.alphas_cumprod, reference.alphas_cumprod),
        (schedule.sigmas, reference.sigmas[:-1].flip(0)),
    ):
        # Where the last timestep but one is noisier than σ = 4096, the reference's last is not its noisiest.
        end = -1 if reference.sigmas[0] <= reference.sigmas[1] else None
        torch.testing.assert_close(ours[:end], theirs[:end], atol=1e-13, rtol=1e-9)


@examples
@given(configs)
def test_noise_grows_with_time_and_stays_finite(config: ScheduleConfig) -> None:
    sigmas = NoiseSchedule(config).sigmas.tolist()
    assert sigmas[0] > 0
    assert all(low < high for low, high in pairwise(sigmas))
    assert sigmas[-1] < math.inf


def test_zero_snr_ends_in_noise_alone() -> None:
    schedule = NoiseSchedule(ScheduleConfig(rescale_zero_snr=True))
    assert schedule.betas[-1] == 1
    assert schedule.sigma_max == pytest.approx(4096)


@each_config
def test_forward_process_is_the_references(config: ScheduleConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 8, 3, 5, 5, generator=generator)
    total = config.num_train_timesteps
    t = torch.randint(total, (8,), generator=generator)
    t[:2] = torch.tensor([0, total - 1])
    before = x0.clone(), noise.clone(), t.clone()
    ours = NoiseSchedule(config).add_noise(x0, noise, t)
    reference = make_scheduler("ddpm", config).add_noise(x0, noise, t)
    # The reference's DDPM lets ᾱ be 0 where the SNR is; ours is 2^-24, which leaves 1/4096 of the picture.
    at_end = (t == total - 1) & config.rescale_zero_snr
    torch.testing.assert_close(ours[at_end], reference[at_end], atol=1e-3, rtol=0)
    torch.testing.assert_close(ours[~at_end], reference[~at_end], atol=5e-5, rtol=0)
    assert ours.dtype == torch.float32
    for tensor, copy in zip((x0, noise, t), before, strict=True):
        assert torch.equal(tensor, copy)


def test_both_scales_tell_of_the_same_picture() -> None:
    schedule = NoiseSchedule(ScheduleConfig())
    x0, noise = torch.randn(2, 5, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0, 10, 500, 998, 999])
    sigma = schedule.sigmas[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(schedule.add_noise(x0, noise, t) * (1 + sigma**2).sqrt(), x0 + sigma * noise)


@each_config
def test_whole_timesteps_have_their_training_noise(config: ScheduleConfig) -> None:
    schedule = NoiseSchedule(config)
    for t, sigma in enumerate(schedule.sigmas.tolist()):
        assert schedule.t_to_sigma(t) == pytest.approx(sigma, rel=1e-12)
        assert schedule.sigma_to_t(sigma) == pytest.approx(t, abs=1e-8)


@examples
@given(configs, st.floats(0, 1), st.floats(0, 1))
def test_sigma_and_t_lead_back_to_each_other(config: ScheduleConfig, share: float, other: float) -> None:
    schedule = NoiseSchedule(config)
    t, later = sorted([share * (len(schedule) - 1), other * (len(schedule) - 1)])
    sigma = schedule.t_to_sigma(t)
    assert schedule.sigma_min * (1 - 1e-12) <= sigma <= schedule.sigma_max * (1 + 1e-12)
    assert schedule.sigma_to_t(sigma) == pytest.approx(t, abs=1e-6)
    assert schedule.t_to_sigma(schedule.sigma_to_t(sigma)) == pytest.approx(sigma, rel=1e-9)
    assert later - t < 1e-6 or sigma < schedule.t_to_sigma(later)


@examples
@given(configs, st.floats(-12, 12))
def test_sigma_to_t_is_the_references(config: ScheduleConfig, log_sigma: float) -> None:
    schedule = NoiseSchedule(replace(config, rescale_zero_snr=False))
    log_sigmas = schedule.sigmas.log().numpy()
    reference = make_scheduler("euler", config)._sigma_to_t(np.exp(log_sigma), log_sigmas)
    assert schedule.sigma_to_t(np.exp(log_sigma)) == pytest.approx(float(reference), abs=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 1e-30, 1e-3])
def test_less_noise_than_ever_trained_on_is_the_first_timestep(sigma: float) -> None:
    assert NoiseSchedule(ScheduleConfig()).sigma_to_t(sigma) == 0


@pytest.mark.parametrize("sigma", [14.615, 1e3, float("inf")])
def test_more_noise_than_ever_trained_on_is_the_last_timestep(sigma: float) -> None:
    assert NoiseSchedule(ScheduleConfig()).sigma_to_t(sigma) == 999
