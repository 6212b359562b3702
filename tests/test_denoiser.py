"""From a network's prediction to the denoised picture: parametrisations, guidance, inpainting, and seeded noise."""

import math

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from schedulers import SHAPE, ToyNetwork, make_scheduler
from torch import Tensor

from stablediff.config import PredictionType, ScheduleConfig
from stablediff.diffusion.denoiser import Denoiser, Guidance, keep_known, to_denoised
from stablediff.diffusion.noise import SeededNoise
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.diffusion.spacing import step_sigmas

SCHEDULE = NoiseSchedule(ScheduleConfig())
COSINE = NoiseSchedule(ScheduleConfig(beta_schedule="squaredcos_cap_v2"))

examples = settings(max_examples=100, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**63 - 1)


class RecordingNetwork:
    """Answers with fixed outputs, and writes down what it is asked."""

    def __init__(self, cond: Tensor, uncond: Tensor) -> None:
        self.cond, self.uncond = cond, uncond
        self.asked: list[tuple[Tensor, float, bool]] = []

    def __call__(self, x: Tensor, t: float, *, with_uncond: bool) -> Tensor:
        self.asked.append((x, t, with_uncond))
        return torch.cat([self.cond, self.uncond]) if with_uncond else self.cond


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@examples
@given(st.floats(math.log(0.03), math.log(2e4)), st.integers(0, 1000))
def test_all_predictions_tell_of_the_same_picture(log_sigma: float, seed: int) -> None:
    sigma = math.exp(log_sigma)
    x0, eps = normal(2, 2, *SHAPE, seed=seed).double()
    x = x0 + sigma * eps
    v = (eps - sigma * x0) / math.sqrt(1 + sigma**2)  # √ᾱ·ε - √(1-ᾱ)·x_0
    outputs: dict[PredictionType, Tensor] = {"epsilon": eps, "v_prediction": v, "sample": x0}
    for prediction_type, output in outputs.items():
        torch.testing.assert_close(to_denoised(output, x, sigma, prediction_type), x0, atol=1e-10, rtol=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 1, 250, 999])
def test_denoised_is_the_references(prediction_type: PredictionType, t: int) -> None:
    scheduler = make_scheduler("ddim", ScheduleConfig(prediction_type=prediction_type))
    scheduler.set_timesteps(10)
    output, unit = normal(2, 2, *SHAPE, seed=t)
    sigma = SCHEDULE.t_to_sigma(t)
    ours = to_denoised(output, unit * math.sqrt(1 + sigma**2), sigma, prediction_type)
    theirs = scheduler.step(output, t, unit).pred_original_sample
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("schedule", [SCHEDULE, COSINE], ids=["sd", "cosine"])
@pytest.mark.parametrize(
    ("prediction_type", "tolerance"),
    # x - σ·ε loses what float32 cannot hold of σ·ε.
    [("epsilon", 1e-6), ("v_prediction", 0.0), ("sample", 0.0)],
)
def test_denoiser_finds_the_picture_at_every_noise_level(
    schedule: NoiseSchedule, prediction_type: PredictionType, tolerance: float
) -> None:
    network = ToyNetwork(schedule, prediction_type)
    denoise = Denoiser(network, schedule, prediction_type)
    for t in (0, 1, 100.5, 500, 998, 998.5, 999):
        sigma = schedule.t_to_sigma(t)
        x = normal(2, *SHAPE) * math.sqrt(1 + sigma**2)
        before = x.clone()
        denoised = denoise(x, sigma)
        torch.testing.assert_close(
            denoised, network.denoise(x, sigma).float(), atol=2e-5 + tolerance * sigma, rtol=0, msg=f"t = {t}"
        )
        assert torch.equal(x, before)


def test_network_sees_unit_variance_and_the_timestep() -> None:
    network = RecordingNetwork(*normal(2, 64, *SHAPE))
    for t in (0, 1, 52.6, 999):
        sigma = SCHEDULE.t_to_sigma(t)
        Denoiser(network, SCHEDULE)(normal(64, *SHAPE, seed=1) * math.sqrt(1 + sigma**2), sigma)
        x, asked_t, _ = network.asked[-1]
        assert x.std().item() == pytest.approx(1, abs=0.05)
        assert asked_t == pytest.approx(t, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_denoised_is_float32_whatever_the_network_computes_in(dtype: torch.dtype) -> None:
    network = RecordingNetwork(*normal(2, 1, *SHAPE).to(dtype))
    assert Denoiser(network, SCHEDULE, guidance=Guidance(7.5))(normal(1, *SHAPE), 3.0).dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 3, 4, 9])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_guidance_acts_on_all_channels(channels: int, prediction_type: PredictionType) -> None:
    cond, uncond, x = normal(3, 2, channels, 3, 3)
    scale, sigma = 7.5, 2.0
    network = RecordingNetwork(cond, uncond)
    ours = Denoiser(network, SCHEDULE, prediction_type, Guidance(scale))(x, sigma)
    towards, away = (to_denoised(output, x, sigma, prediction_type) for output in (cond, uncond))
    torch.testing.assert_close(ours, away + scale * (towards - away), atol=1e-4, rtol=1e-5)
    assert [with_uncond for _, _, with_uncond in network.asked] == [True]


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0, -1.0])
def test_no_guidance_never_runs_the_unconditional_branch(scale: float) -> None:
    cond, uncond, x = normal(3, 2, *SHAPE)
    network = RecordingNetwork(cond, uncond)
    plain = Denoiser(network, SCHEDULE)(x, 2.0)
    assert torch.equal(Denoiser(network, SCHEDULE, guidance=Guidance(scale, rescale=0.7))(x, 2.0), plain)
    assert [with_uncond for _, _, with_uncond in network.asked] == [False, False]


def test_guidance_stays_within_its_interval() -> None:
    cond, uncond, x = normal(3, 2, *SHAPE)
    network = RecordingNetwork(cond, uncond)
    denoise = Denoiser(network, SCHEDULE, guidance=Guidance(7.5, sigma_interval=(0.5, 4.0)))
    sigmas = [14.0, 4.001, 4.0, 2.0, 0.501, 0.5, 0.1]
    for sigma in sigmas:
        denoise(x, sigma)
    assert [with_uncond for _, _, with_uncond in network.asked] == [False, False, True, True, True, False, False]


@examples
@given(st.floats(1.1, 30), st.floats(0.01, 1), st.integers(0, 1000))
def test_rescaled_guidance_is_the_references(scale: float, rescale: float, seed: int) -> None:
    cond, uncond = normal(2, 3, *SHAPE, seed=seed)
    before = cond.clone(), uncond.clone()
    ours = Guidance(scale, rescale).combine(cond, uncond)
    theirs = rescale_noise_cfg(uncond + scale * (cond - uncond), cond, guidance_rescale=rescale)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert torch.equal(cond, before[0])
    assert torch.equal(uncond, before[1])


def test_fully_rescaled_guidance_has_the_contrast_of_the_prompt_alone() -> None:
    cond, uncond = normal(2, 3, *SHAPE)
    guided = Guidance(9.0, rescale=1.0).combine(cond, uncond)
    torch.testing.assert_close(guided.std((1, 2, 3)), cond.std((1, 2, 3)))


def half_mask() -> Tensor:
    mask = torch.zeros(2, 1, *SHAPE[1:])
    mask[..., 1:] = 1
    return mask


@pytest.mark.parametrize("spacing", ["leading", "trailing", "karras"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 8])
@pytest.mark.parametrize("name", SAMPLERS)
def test_inpainting_leaves_what_is_known_exactly_as_it_was(name: str, num_steps: int, spacing: str) -> None:
    sampler, mask = SAMPLERS[name], half_mask()
    sigmas = step_sigmas(SCHEDULE, spacing, num_steps, skips_first_timestep=sampler.skips_first_timestep)
    noise = SeededNoise([1, 2])
    start, known = noise.sample(SHAPE), normal(2, *SHAPE, seed=3)
    before = known.clone()
    denoise = keep_known(Denoiser(ToyNetwork(SCHEDULE, "epsilon"), SCHEDULE), known, mask, start)
    x = known + sigmas[0] * start
    for step in sampler.sample(denoise, x, sigmas, noise):
        x = step.x
    outside = mask.expand_as(x) == 0
    assert torch.equal(x[outside], before[outside])
    assert not torch.isclose(x, before)[~outside].all()
    assert torch.equal(known, before)


def test_inpainting_shows_the_network_the_known_part_on_one_path_of_noise() -> None:
    known, start, x = normal(3, 2, *SHAPE)
    mask, shown = half_mask(), []

    def denoise(x: Tensor, _sigma: float) -> Tensor:
        shown.append(x)
        return torch.zeros_like(x)

    for sigma in (10.0, 1.0, 0.1):
        keep_known(denoise, known, mask, start)(x, sigma)
        expected = torch.where(mask == 0, known + sigma * start, x)
        torch.testing.assert_close(shown[-1], expected)


def test_a_mask_of_everything_changes_nothing() -> None:
    known, start, x = normal(3, 2, *SHAPE)
    denoise = Denoiser(ToyNetwork(SCHEDULE, "epsilon"), SCHEDULE)
    everything = torch.ones(2, 1, *SHAPE[1:])
    assert torch.equal(keep_known(denoise, known, everything, start)(x, 2.0), denoise(x, 2.0))


@examples
@given(st.lists(seeds, min_size=1, max_size=4), st.integers(1, 3))
def test_seeded_noise_is_the_references(batch: list[int], draws: int) -> None:
    noise, x = SeededNoise(batch), torch.empty(len(batch), *SHAPE)
    generators = [torch.Generator().manual_seed(seed) for seed in batch]
    for _ in range(draws):
        assert torch.equal(noise(x), randn_tensor((len(batch), *SHAPE), generator=generators))


@examples
@given(seeds, st.lists(seeds, max_size=3), st.data())
def test_a_seed_gives_the_same_noise_in_every_batch(seed: int, others: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(others)))
    alone, together = SeededNoise([seed]), SeededNoise([*others[:place], seed, *others[place:]])
    for _ in range(3):  # the stream goes on the same, too
        assert torch.equal(alone.sample(SHAPE)[0], together.sample(SHAPE)[place])


def test_different_seeds_give_different_noise() -> None:
    noise = SeededNoise(range(8)).sample(SHAPE)
    assert len({tuple(picture.flatten().tolist()) for picture in noise}) == 8
    assert noise.dtype == torch.float32


def test_noise_is_standard_normal() -> None:
    noise = SeededNoise([0, 1]).sample((4, 100, 100))
    assert noise.mean().item() == pytest.approx(0, abs=0.015)  # four standard errors
    assert noise.std().item() == pytest.approx(1, abs=0.01)
