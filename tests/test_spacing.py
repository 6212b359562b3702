"""The noise levels that samplers visit, against those of the reference's schedulers."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from diffusers.schedulers import AysSchedules
from hypothesis import given, settings
from hypothesis import strategies as st
from schedulers import REFERENCES, TWO_STAGE, make_scheduler, step_starts

from stablediff.config import ScheduleConfig
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.diffusion.spacing import SPACINGS, step_sigmas, step_timesteps

SD1 = ScheduleConfig()
COSINE = ScheduleConfig(beta_schedule="squaredcos_cap_v2")

# One step alone starts at pure noise with us; most references start it at the picture's end, with nothing to do.
# 48 is left out: in trailing its halves round as float errors will have it in numpy.
NUM_STEPS = (2, 3, 5, 7, 10, 20, 25, 26, 30, 50, 77, 80, 100, 250, 998)

by_timestep = [
    (name, spacing) for name in REFERENCES for spacing in ("leading", "trailing", "linspace") if name != "lcm"
]


@pytest.mark.parametrize(("name", "spacing"), by_timestep)
@pytest.mark.parametrize("steps_offset", [0, 1])
def test_timesteps_and_sigmas_are_the_references(name: str, spacing: str, steps_offset: int) -> None:
    config = ScheduleConfig(steps_offset=steps_offset)
    schedule, reference = NoiseSchedule(config), make_scheduler(name, config, spacing)
    skips = SAMPLERS[name].skips_first_timestep
    for num_steps in NUM_STEPS:
        reference.set_timesteps(num_steps)
        ours = step_timesteps(schedule, spacing, num_steps, skips)
        # For 998 steps the reference's trailing finds a 999th below 0, where float errors add up to it.
        theirs = step_starts(name, reference.timesteps.tolist())[:num_steps]
        if spacing == "linspace" and name in ("ddim", "ddpm"):  # the same grid, where ours keeps the fractions
            ours = [float(round(t)) for t in ours]
        assert ours == pytest.approx(theirs, abs=1e-3)
        if hasattr(reference, "sigmas"):
            sigmas = step_sigmas(schedule, spacing, num_steps, skips_first_timestep=skips)
            theirs = step_starts(name, reference.sigmas.tolist()[:-1])[:num_steps]
            # Between two timesteps the reference is linear in σ, and we in log σ, as is its own way back to t.
            assert sigmas[:-1] == pytest.approx(theirs, rel=2e-4)
            assert sigmas[-1] == reference.sigmas[-1] == 0


def test_linspace_of_multistep_solvers_rounds_as_the_reference_at_every_number_of_steps() -> None:
    schedule, reference = NoiseSchedule(SD1), make_scheduler("dpmpp_2m", SD1, "linspace")
    for num_steps in range(2, 1000):
        reference.set_timesteps(num_steps)
        assert step_timesteps(schedule, "linspace", num_steps, True) == reference.timesteps.tolist(), num_steps


@pytest.mark.parametrize("total", [50, 1000])
def test_trailing_rounds_as_the_reference_at_every_number_of_steps(total: int) -> None:
    config = ScheduleConfig(num_train_timesteps=total)
    schedule, reference = NoiseSchedule(config), make_scheduler("ddim", config, "trailing")
    for num_steps in range(2, total + 1):
        reference.set_timesteps(num_steps)
        ours = step_timesteps(schedule, "trailing", num_steps, False)
        for i, (t, theirs) in enumerate(zip(ours, reference.timesteps.tolist(), strict=False)):
            if t != theirs:  # only where a half is rounded, and numpy's float errors decide
                assert Fraction(total * i, num_steps).denominator == 2, (num_steps, i)
                assert abs(t - theirs) == 1


@pytest.mark.parametrize("config", [SD1, COSINE], ids=["sd", "cosine"])
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "dpmpp_sde", "unipc"])
def test_karras_and_exponential_are_the_references(name: str, spacing: str, config: ScheduleConfig) -> None:
    schedule, reference = NoiseSchedule(config), make_scheduler(name, config, spacing)
    for num_steps in (1, 2, 5, 10, 20, 25, 50, 100):
        if num_steps == 1 and name not in ("dpmpp_2m", "unipc"):
            continue  # the reference's own range is that of linspace, which is a single point here
        reference.set_timesteps(num_steps)
        theirs = step_starts(name, reference.sigmas.tolist()[:-1])
        ours = step_sigmas(schedule, spacing, num_steps, skips_first_timestep=SAMPLERS[name].skips_first_timestep)
        assert ours[:-1] == pytest.approx(theirs, rel=5e-4)  # the cosine's ends in float32
        assert ours[0] == pytest.approx(schedule.sigma_max)
        if num_steps > 1:
            assert ours[-2:] == [pytest.approx(schedule.sigma_min), 0]


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_align_your_steps_is_the_published_table(kind: str) -> None:
    schedule = NoiseSchedule(SD1)
    name = {"sd1": "StableDiffusion", "sdxl": "StableDiffusionXL"}[kind]
    table, timesteps = AysSchedules[f"{name}Sigmas"], AysSchedules[f"{name}Timesteps"]
    assert step_sigmas(schedule, "align_your_steps", 10, kind=kind) == pytest.approx(table)
    assert [schedule.sigma_to_t(sigma) for sigma in table[:-1]] == pytest.approx(timesteps, abs=1)
    for num_steps in (1, 2, 7, 10, 19, 25, 50):
        places = np.linspace(0, 9, num_steps)
        expected = np.exp(np.interp(places, range(10), np.log(table[:-1])))
        assert step_sigmas(schedule, "align_your_steps", num_steps, kind=kind)[:-1] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("config", [COSINE, ScheduleConfig(rescale_zero_snr=True)], ids=["cosine", "zero SNR"])
def test_align_your_steps_refuses_other_schedules(config: ScheduleConfig) -> None:
    with pytest.raises(ValueError, match="choose karras or trailing"):
        step_sigmas(NoiseSchedule(config), "align_your_steps", 10)


@pytest.mark.parametrize("total", [1000, 500])
def test_lcm_is_the_references(total: int) -> None:
    config = ScheduleConfig(num_train_timesteps=total)
    schedule, reference = NoiseSchedule(config), make_scheduler("lcm", config)
    for num_steps in range(1, 51):
        reference.set_timesteps(num_steps)
        assert step_timesteps(schedule, "lcm", num_steps, False) == reference.timesteps.tolist()
    with pytest.raises(ValueError, match="has 50 timesteps, not 51: choose fewer steps"):
        step_sigmas(schedule, "lcm", 51)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("skips", [False, True])
def test_a_single_step_starts_at_pure_noise(spacing: str, skips: bool) -> None:
    schedule = NoiseSchedule(SD1)
    sigmas = step_sigmas(schedule, spacing, 1, skips_first_timestep=skips)
    assert sigmas == [pytest.approx(schedule.sigma_max, rel=1e-4), 0]


@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("steps_offset", [0, 1])
def test_ddim_can_end_at_the_smallest_training_noise(set_alpha_to_one: bool, steps_offset: int) -> None:
    config = ScheduleConfig(steps_offset=steps_offset, set_alpha_to_one=set_alpha_to_one)
    schedule = NoiseSchedule(config)
    final = 0.0 if set_alpha_to_one else schedule.sigma_min
    alpha_bar = make_scheduler("ddim", config).final_alpha_cumprod.item()
    sigmas = step_sigmas(schedule, "leading", 20, final_sigma=final)
    assert sigmas[-1] == pytest.approx(((1 - alpha_bar) / alpha_bar) ** 0.5, rel=1e-4)
    assert sigmas[-1] <= sigmas[-2]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "lcm"])
def test_samplers_start_at_the_references_noise(name: str, spacing: str) -> None:
    schedule, reference = NoiseSchedule(SD1), make_scheduler(name, SD1, spacing)
    reference.set_timesteps(20)
    sigma = step_sigmas(schedule, spacing, 20, skips_first_timestep=SAMPLERS[name].skips_first_timestep)[0]
    starts_at_sigma = SAMPLERS[name].starts_at_sigma and spacing != "leading"
    ours = sigma if starts_at_sigma else (1 + sigma**2) ** 0.5
    in_sigma_scale = hasattr(reference, "sigmas") and name not in ("dpmpp_2m", "unipc")
    theirs = float(reference.init_noise_sigma) * (1 if in_sigma_scale else (1 + sigma**2) ** 0.5)
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in REFERENCES if name not in ("ddpm", "ddim", "lcm")])
def test_usual_spacing_is_the_references_default(name: str) -> None:
    assert SAMPLERS[name].spacing == make_scheduler(name, SD1).config.timestep_spacing
    assert (SAMPLERS[name].evaluations == 2) == (name in TWO_STAGE)


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}: choose 1 to 1000"):
        step_sigmas(NoiseSchedule(SD1), "karras", num_steps)


def test_unknown_spacing_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'sideways' is not known: choose one of leading, .*, lcm"):
        step_sigmas(NoiseSchedule(SD1), "sideways", 10)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_noise_falls_at_every_step(data: st.DataObject) -> None:
    total = data.draw(st.sampled_from([2, 3, 10, 49, 100, 1000]))
    config = ScheduleConfig(
        num_train_timesteps=total,
        beta_schedule=data.draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])),
        rescale_zero_snr=data.draw(st.booleans()),
        steps_offset=data.draw(st.integers(0, 3)),
    )
    schedule = NoiseSchedule(config)
    spacing = data.draw(st.sampled_from([spacing for spacing in SPACINGS if spacing != "align_your_steps"]))
    most = min(total, 50) if spacing == "lcm" else total
    num_steps = data.draw(st.integers(1, most) | st.integers(max(most - 2, 1), most))
    sigmas = step_sigmas(schedule, spacing, num_steps, skips_first_timestep=data.draw(st.booleans()))
    assert len(sigmas) == num_steps + 1
    assert sigmas[0] <= schedule.sigma_max * (1 + 1e-9)
    assert sigmas[-2] >= schedule.sigma_min * (1 - 1e-9)
    assert sigmas[-1] == 0
    assert all(sigma > sigma_next for sigma, sigma_next in pairwise(sigmas))
