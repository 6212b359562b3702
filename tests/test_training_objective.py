"""The training objective and the autoencoder's losses, against their equations."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from stablediff.config import ScheduleConfig
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.errors import ConfigError
from stablediff.training.discriminator import PatchDiscriminator, adversarial_losses
from stablediff.training.objective import (
    ObjectiveConfig,
    draw_timesteps,
    loss_by_quartile,
    loss_weights,
    target_of,
)
from stablediff.training.reconstruction import colour_loss, kl_divergence, psnr, pyramid_l1, saturate
from stablediff.training.solver import level_at

SCHEDULE = NoiseSchedule(ScheduleConfig(beta_schedule="squaredcos_cap_v2"))


def noise_like(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_velocity_and_noising_are_the_references() -> None:
    reference = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    x0, noise, t = noise_like(8, 4, 3, 3), noise_like(8, 4, 3, 3, seed=1), torch.arange(0, 1000, 125)
    v = target_of(x0, noise, t, SCHEDULE, "v_prediction")
    torch.testing.assert_close(v, reference.get_velocity(x0, noise, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        SCHEDULE.add_noise(x0, noise, t), reference.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5
    )
    assert target_of(x0, noise, t, SCHEDULE, "epsilon") is noise
    assert target_of(x0, noise, t, SCHEDULE, "sample") is x0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_the_same_error_in_x0_alike(prediction: str) -> None:
    """An error in x_0, carried into the network's own terms, costs min(SNR, γ) times its square."""
    config = ObjectiveConfig(timesteps="uniform", weighting="min_snr", gamma=5.0)
    t = torch.tensor([10, 300, 600, 900])
    alpha_bar = SCHEDULE.alphas_cumprod[t]
    x0, wrong, noise = torch.zeros(4, 1), torch.full((4, 1), 0.1), noise_like(4, 1)
    x_t = SCHEDULE.add_noise(x0, noise, t)
    # What a network says that believes in `wrong`: the noise that would explain x_t.
    root, rest = alpha_bar.sqrt()[:, None].float(), (1 - alpha_bar).sqrt()[:, None].float()
    believed = (x_t - root * wrong) / rest
    answer = target_of(wrong, believed, t, SCHEDULE, prediction)  # type: ignore[arg-type]
    truth = target_of(x0, noise, t, SCHEDULE, prediction)  # type: ignore[arg-type]
    cost = loss_weights(config, t, SCHEDULE, prediction) * (answer - truth).square()[:, 0]  # type: ignore[arg-type]
    snr = alpha_bar / (1 - alpha_bar)
    torch.testing.assert_close(cost, (snr.clamp(max=5.0) * 0.01).float(), rtol=1e-3, atol=1e-6)


class _NoFloat64(TorchDispatchMode):
    """A device like MPS, played by "meta"."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            assert not (tensor.device.type == "meta" and tensor.dtype == torch.float64), function
        return result


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_devices_without_float64_will_do(prediction: str) -> None:
    x0, t = torch.zeros(2, 4, 3, 3, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    config = ObjectiveConfig(weighting="min_snr")
    with _NoFloat64():
        assert SCHEDULE.add_noise(x0, x0, t).dtype == torch.float32
        target_of(x0, x0, t, SCHEDULE, prediction)  # type: ignore[arg-type]
        assert loss_weights(config, t, SCHEDULE, prediction).device.type == "meta"  # type: ignore[arg-type]
        level_at(SCHEDULE, t)


def test_logit_normal_timesteps_have_their_median_and_spread() -> None:
    normals, uniforms = noise_like(50_000), torch.rand(50_000, generator=torch.Generator().manual_seed(1))
    t = draw_timesteps(ObjectiveConfig(logit_mean=0.6, logit_deviation=1.0), normals, uniforms, 1000)
    assert abs(t.float().median().item() - 1000 / (1 + math.exp(-0.6))) < 6
    assert t.min() >= 0
    assert t.max() <= 999
    flat = draw_timesteps(ObjectiveConfig(timesteps="uniform"), normals, uniforms, 1000)
    assert abs(flat.float().mean().item() - 499.5) < 5
    assert draw_timesteps(ObjectiveConfig(timesteps="uniform"), normals[:1], torch.ones(1), 1000).item() == 999


@pytest.mark.parametrize(
    ("entry", "value", "allowed"),
    [
        ("logit_mean", math.inf, "-100 to 100"),
        ("logit_deviation", math.nan, "0 to 100"),
        ("logit_deviation", -1.0, "0 to 100"),
        ("gamma", math.nan, "more than 0"),
        ("gamma", 0.0, "more than 0"),
    ],
)
def test_an_objective_that_is_no_number_is_refused(entry: str, value: float, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"{entry} is {value}: choose {allowed}"):
        ObjectiveConfig(**{entry: value})  # type: ignore[arg-type]


def test_the_widest_objective_draws_timesteps_that_there_are() -> None:
    config = ObjectiveConfig(logit_mean=-100.0, logit_deviation=100.0)
    t = draw_timesteps(config, 10 * noise_like(1000), torch.zeros(1000), 1000)
    assert t.min() == 0
    assert t.max() == 999


def test_quartiles_say_nan_where_nothing_was_seen() -> None:
    figures = loss_by_quartile(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 249, 999]), 1000)
    assert figures["loss_q1"] == 2
    assert figures["loss_q4"] == 5
    assert figures["loss_q2"].isnan()
    assert figures["loss_q3"].isnan()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(-3, 3), st.floats(0.1, 3))
def test_kl_is_the_references(mean: float, deviation: float) -> None:
    mu, logvar = torch.full((2, 3), mean), torch.full((2, 3), 2 * math.log(deviation))
    normal = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(
        normal, torch.distributions.Normal(torch.zeros(2, 3), torch.ones(2, 3))
    )
    torch.testing.assert_close(kl_divergence(mu, logvar), expected.mean(), rtol=1e-4, atol=1e-5)


def test_overshooting_black_and_white_is_free_and_nothing_else_is() -> None:
    original = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.0])
    decoded = torch.tensor([-1.5, -0.5, 1.5, 0.5, 0.5], requires_grad=True)
    seen = saturate(decoded, original)
    (seen - original).abs().sum().backward()
    assert decoded.grad is not None
    assert decoded.grad.tolist() == [0, 1, 0, -1, 1]


def test_pixel_edge_and_colour_losses_see_what_they_should() -> None:
    original = noise_like(1, 4, 32, 32).clamp(-1, 1)
    assert pyramid_l1(original, original, 0.3, 0.3) == 0
    assert colour_loss(original, original) == 0
    shifted = original + 0.1  # a constant has no edges
    flat, edged = pyramid_l1(shifted, original, 0.0, 0.0), pyramid_l1(shifted, original, 10.0, 10.0)
    torch.testing.assert_close(flat, edged, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flat.item(), 0.18, rtol=1e-4, atol=1e-4)
    checks = 0.5 * (-1.0) ** torch.arange(32)[:, None].add(torch.arange(32))  # averages out over 8x8
    assert colour_loss(original + checks, original) < 1e-4 < pyramid_l1(original + checks, original, 0.0, 0.0)
    redder = original.clone()
    redder[:, 0] += 0.1
    assert colour_loss(redder, original) > colour_loss(original + 0.1, original)


def test_psnr_counts_decibels_of_the_full_range() -> None:
    x = torch.zeros(2, 3, 8, 8)
    torch.testing.assert_close(psnr(x + torch.tensor([0.2, 0.02])[:, None, None, None], x), torch.tensor([20.0, 40.0]))


def test_judge_and_decoder_learn_from_one_sum_without_touching_each_other() -> None:
    judge, original = PatchDiscriminator(4, width=8), noise_like(2, 4, 32, 32)
    decoded = noise_like(2, 4, 32, 32, seed=1).requires_grad_()
    fooling, hinge = adversarial_losses(judge, decoded, original)
    fooling.backward(retain_graph=True)
    assert decoded.grad is not None
    assert decoded.grad.abs().sum() > 0
    assert all(p.grad is None for p in judge.parameters())
    decoded.grad = None
    hinge.backward()
    assert decoded.grad is None
    assert all(p.grad is not None for p in judge.parameters())
    expected = (F.relu(1 - judge(original)).mean() + F.relu(1 + judge(decoded)).mean()) / 2
    torch.testing.assert_close(hinge, expected)
