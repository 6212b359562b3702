"""Every sampler against the reference, against closed forms, and against what all of them promise."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schedulers import SHAPE, ToyNetwork, double_denoise, reference_steps
from torch import Tensor

from stablediff.config import PredictionType, ScheduleConfig
from stablediff.diffusion.denoiser import Denoise, Denoiser
from stablediff.diffusion.noise import SeededNoise
from stablediff.diffusion.samplers import SAMPLERS, SampleFunction, Step
from stablediff.diffusion.schedule import NoiseSchedule
from stablediff.diffusion.spacing import exponential_sigmas, karras_sigmas, step_sigmas

DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if not sampler.stochastic]
SEEDS = [0, 1, 2**40]


def our_steps(
    name: str,
    config: ScheduleConfig,
    spacing: str,
    num_steps: int,
    seeds: Sequence[int],
    eta: float | None = None,
    *,
    double: bool = False,
) -> list[Step]:
    """A whole run, from seeds to a picture, as `generate` does it."""
    sampler, schedule = SAMPLERS[name], NoiseSchedule(config)
    sigmas = step_sigmas(
        schedule,
        spacing,
        num_steps,
        skips_first_timestep=sampler.skips_first_timestep,
        final_sigma=schedule.sigma_min if name == "ddim" and not config.set_alpha_to_one else 0.0,
    )
    noise, network = SeededNoise(seeds), ToyNetwork(schedule, config.prediction_type)
    start, fresh, denoise = noise.sample(SHAPE), noise, Denoiser(network, schedule, config.prediction_type)
    if double:
        start, fresh, denoise = start.double(), lambda x: noise(x).double(), double_denoise(network)
    at_sigma = sampler.starts_at_sigma and spacing != "leading"
    x = start * (sigmas[0] if at_sigma else math.sqrt(1 + sigmas[0] ** 2))
    sample = sampler.sample if eta is None else partial(sampler.sample, eta=eta)
    return list(sample(denoise, x, sigmas, fresh))


def at_unit_variance(step: Step) -> Tensor:
    return step.x / math.sqrt(1 + step.sigma_next**2)


def largest_errors(ours: list[Tensor], theirs: list[Tensor]) -> list[float]:
    """One for each step, relative to the picture's scale."""
    errors = []
    for x, reference in zip(ours, theirs, strict=True):
        assert x.isfinite().all()
        assert reference.isfinite().all()
        errors.append(((x - reference).abs().max() / reference.abs().max()).item())
    return errors


# --- against the reference -----------------------------------------------------------------------------------------

SPACINGS_IN_USE = {name: ["leading", "trailing", "linspace"] for name in SAMPLERS}
# The reference's DDIM goes to t - T//n, which for linspace is not where its next step begins.
SPACINGS_IN_USE |= {"ddpm": ["leading", "trailing"], "ddim": ["leading", "trailing"], "lcm": ["lcm"]}

# With karras the reference rounds the timesteps that the network sees in its multistep solvers, and only there.
SPACINGS_IN_DOUBLE = SPACINGS_IN_USE | {
    "euler": ["leading", "trailing", "karras", "exponential"],
    "heun": ["leading", "trailing", "karras", "exponential"],
    "dpmpp_sde": ["leading", "trailing", "karras", "exponential"],
    # Where linspace falls between two timesteps, the reference is linear in σ and we in log σ, up to 2e-4 apart.
    "euler_ancestral": ["leading", "trailing"],
}


def cases(spacings: dict[str, list[str]]) -> pytest.MarkDecorator:
    etas = {"ddim": [0.0, 0.5, 1.0]}
    return pytest.mark.parametrize(
        ("name", "eta", "spacing"),
        [(name, eta, spacing) for name in SAMPLERS for eta in etas.get(name, [None]) for spacing in spacings[name]],
    )


@cases(SPACINGS_IN_USE)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_step_is_the_references(
    name: str, eta: float | None, spacing: str, prediction_type: PredictionType
) -> None:
    config = ScheduleConfig(prediction_type=prediction_type)
    for num_steps in (5, 20):
        ours = [at_unit_variance(step) for step in our_steps(name, config, spacing, num_steps, SEEDS, eta)]
        theirs = reference_steps(name, config, spacing, num_steps, SeededNoise(SEEDS), eta or 0.0, double=False)
        assert max(largest_errors(ours, theirs)) <= 1e-4, num_steps


@cases(SPACINGS_IN_DOUBLE)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "squaredcos_cap_v2"])
def test_every_step_is_the_references_in_double_precision(
    name: str, eta: float | None, spacing: str, prediction_type: PredictionType, beta_schedule: str
) -> None:
    config = ScheduleConfig(
        prediction_type=prediction_type,
        beta_schedule=beta_schedule,
        steps_offset=int(prediction_type == "epsilon"),
        set_alpha_to_one=prediction_type == "epsilon",
    )
    # The reference's DDPM ends with 1e-10 of noise, to have a logarithm of its variance;
    # its LCM mixes the picture with 1e-5 of x, so that t = 0 would give x itself.
    tolerance = {"ddpm": 1e-8, "lcm": 1e-5}.get(name, 1e-10)
    for num_steps in (1, 2, 10) if spacing in ("trailing", "lcm") else (2, 10):
        ours = our_steps(name, config, spacing, num_steps, SEEDS, eta, double=True)
        theirs = reference_steps(name, config, spacing, num_steps, SeededNoise(SEEDS), eta or 0.0, double=True)
        assert max(largest_errors([at_unit_variance(step) for step in ours], theirs)) <= tolerance, num_steps


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_ancestral", "dpmpp_2m", "unipc"])
def test_every_step_is_the_references_at_zero_snr(name: str) -> None:
    config = ScheduleConfig(prediction_type="v_prediction", rescale_zero_snr=True)
    ours = our_steps(name, config, "trailing", 20, SEEDS, double=True)
    theirs = reference_steps(name, config, "trailing", 20, SeededNoise(SEEDS), 0.0, double=True)
    # The reference's DDIM starts at σ = ∞, all others at our 4096.
    tolerance = 1e-3 if name == "ddim" else 1e-10
    assert max(largest_errors([at_unit_variance(step) for step in ours], theirs)) <= tolerance


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [2, 5, 20, 50])
def test_float32_is_enough_where_noise_is_strongest(name: str, num_steps: int) -> None:
    """The cosine schedule begins at σ = 20 000. (Only ε-prediction loses there, which is why v exists.)"""
    config = ScheduleConfig(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2")
    for spacing in ["lcm"] if name == "lcm" else ["trailing", "linspace", "karras"]:
        single = our_steps(name, config, spacing, num_steps, SEEDS)
        double = our_steps(name, config, spacing, num_steps, SEEDS, double=True)
        errors = largest_errors([at_unit_variance(step) for step in single], [at_unit_variance(s) for s in double])
        assert max(errors) <= 1e-4, spacing


def test_ddim_and_euler_are_one_method() -> None:
    config = ScheduleConfig(set_alpha_to_one=True)
    runs = (our_steps(name, config, "leading", 20, SEEDS) for name in ("ddim", "euler"))
    for ddim, euler in zip(*runs, strict=True):
        torch.testing.assert_close(ddim.x, euler.x, atol=0, rtol=1e-6)


def test_ddpm_and_euler_ancestral_and_ddim_with_all_its_noise_are_one_method() -> None:
    config = ScheduleConfig(set_alpha_to_one=True)
    ddpm, euler_ancestral, ddim = (
        our_steps(name, config, "leading", 20, SEEDS, eta)
        for name, eta in (("ddpm", None), ("euler_ancestral", None), ("ddim", 1.0))
    )
    for step, *others in zip(ddpm, euler_ancestral, ddim, strict=True):
        assert all(torch.equal(step.x, other.x) for other in others)


# --- against closed forms: for pictures that are Gaussian, everything is known ----------------------------------------


class Gaussian(NamedTuple):
    """Every number of a picture is N(mean, deviation²)."""

    mean: Tensor
    deviation: Tensor

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        return (self.deviation**2 * x + sigma**2 * self.mean) / (self.deviation**2 + sigma**2)

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The probability-flow equation, solved."""
        spread, spread_next = (torch.sqrt(self.deviation**2 + s**2) for s in (sigma, sigma_next))
        return self.mean + (x - self.mean) * spread_next / spread


def no_noise(_x: Tensor) -> Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


def last_step(steps: Iterator[Step]) -> Step:
    *_, last = steps
    return last


@pytest.mark.parametrize("grid", [karras_sigmas, exponential_sigmas])
@pytest.mark.parametrize(
    ("name", "order"),
    # The corrector lifts UniPC by one order above the 2 of its predictor.
    [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ("unipc", 3)],
)
def test_error_falls_at_the_samplers_order(
    name: str, order: int, grid: Callable[[float, float, int], list[float]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, start, deviation = torch.randn(3, 1, *SHAPE, generator=generator, dtype=torch.float64)
    data = Gaussian(mean, deviation.abs() + 0.3)
    schedule = NoiseSchedule(ScheduleConfig())
    x = data.mean + start * schedule.sigma_max
    errors = []
    for num_steps in (40, 80, 160):
        sigmas = grid(schedule.sigma_min, schedule.sigma_max, num_steps + 1)
        end = last_step(SAMPLERS[name].sample(data.denoise, x, sigmas, no_noise))
        errors.append((end.x - data.flow(x, sigmas[0], sigmas[-1])).abs().max().item())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_find_the_distribution(name: str) -> None:
    data = Gaussian(torch.tensor(0.7), torch.tensor(0.5))
    schedule = NoiseSchedule(ScheduleConfig())
    sigmas = step_sigmas(schedule, "karras", 100)
    x = data.mean + torch.linspace(-3, 3, 101).view(1, 1, 1, -1) * math.sqrt(0.5**2 + sigmas[0] ** 2)
    end = last_step(SAMPLERS[name].sample(data.denoise, x, sigmas, no_noise)).x
    tolerance = 0.05 if name in ("euler", "ddim") else 0.005
    torch.testing.assert_close(end, data.flow(x, sigmas[0], 0.0), atol=tolerance, rtol=0)


def sampled(sample: SampleFunction, denoise: Denoise, data: Gaussian, sigmas: Sequence[float]) -> Tensor:
    """A hundred and sixty thousand numbers, from exact noise."""
    noise = SeededNoise([0])
    x = data.mean + noise.sample((1, 400, 400)) * torch.sqrt(data.deviation**2 + sigmas[0] ** 2)
    return last_step(sample(denoise, x, sigmas, noise)).x


@pytest.mark.parametrize(
    ("name", "bias"),  # what 200 steps leave of the discretisation's own error
    [("ddpm", 0.02), ("euler_ancestral", 0.02), ("dpmpp_sde", 0.002)],
)
def test_stochastic_samplers_find_the_distribution(name: str, bias: float) -> None:
    data = Gaussian(torch.tensor(0.7), torch.tensor(0.5))
    sigmas = step_sigmas(NoiseSchedule(ScheduleConfig()), "karras", 200)
    picture = sampled(SAMPLERS[name].sample, data.denoise, data, sigmas)
    standard_error = 0.5 / 400
    assert picture.mean().item() == pytest.approx(0.7, abs=4 * standard_error)
    assert picture.std().item() == pytest.approx(0.5, abs=4 * standard_error / math.sqrt(2) + 0.5 * bias)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_lcm_finds_the_distribution_in_any_number_of_steps(num_steps: int) -> None:
    """Its network does not expect the mean picture: it knows where the flow ends."""
    data = Gaussian(torch.tensor(0.7), torch.tensor(0.5))
    sigmas = step_sigmas(NoiseSchedule(ScheduleConfig()), "lcm", num_steps)
    picture = sampled(SAMPLERS["lcm"].sample, lambda x, sigma: data.flow(x, sigma, 0.0), data, sigmas)
    standard_error = 0.5 / 400
    assert picture.mean().item() == pytest.approx(0.7, abs=4 * standard_error)
    assert picture.std().item() == pytest.approx(0.5, abs=4 * standard_error / math.sqrt(2))


# --- what all samplers promise ----------------------------------------------------------------------------------------


class Run(NamedTuple):
    name: str
    config: ScheduleConfig
    sigmas: list[float]
    seeds: list[int]

    def network(self) -> ToyNetwork:
        return ToyNetwork(NoiseSchedule(self.config), self.config.prediction_type)

    def start(self, noise: SeededNoise) -> Tensor:
        return noise.sample(SHAPE) * math.sqrt(1 + self.sigmas[0] ** 2)

    def steps(self, network: ToyNetwork | None = None, seeds: list[int] | None = None) -> Iterator[Step]:
        network, noise = network or self.network(), SeededNoise(seeds or self.seeds)
        denoise = Denoiser(network, network.schedule, network.prediction_type)
        return SAMPLERS[self.name].sample(denoise, self.start(noise), self.sigmas, noise)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    name = draw(st.sampled_from(sorted(SAMPLERS)))
    config = ScheduleConfig(
        num_train_timesteps=draw(st.sampled_from([100, 1000])),
        beta_schedule=draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"])),
        prediction_type=draw(st.sampled_from(["epsilon", "v_prediction", "sample"])),
        steps_offset=draw(st.integers(0, 1)),
        rescale_zero_snr=draw(st.booleans()),
    )
    schedule = NoiseSchedule(config)
    sigmas = step_sigmas(
        schedule,
        draw(st.sampled_from(["leading", "trailing", "linspace", "karras", "exponential", "lcm"])),
        draw(st.integers(1, 12)),
        skips_first_timestep=SAMPLERS[name].skips_first_timestep,
        final_sigma=draw(st.sampled_from([0.0, schedule.sigma_min])) if name == "ddim" else 0.0,
    )
    sigmas = sigmas[draw(st.integers(0, len(sigmas) - 2)) :]  # image to image starts on the way
    return Run(name, config, sigmas, draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3)))


examples = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@examples
@given(runs())
def test_yields_every_step_and_only_finite_pictures(run: Run) -> None:
    network = run.network()
    steps = list(run.steps(network))
    assert [(step.index, step.sigma, step.sigma_next) for step in steps] == [
        (i, *pair) for i, pair in enumerate(pairwise(run.sigmas))
    ]
    for step in steps:
        assert step.x.shape == step.denoised.shape == (len(run.seeds), *SHAPE)
        assert step.x.dtype == step.denoised.dtype == torch.float32
        assert step.x.isfinite().all()
        assert step.denoised.isfinite().all()
    evaluations = SAMPLERS[run.name].evaluations
    # The last step goes straight to the picture.
    assert network.calls == len(steps) * evaluations - (evaluations - 1)


@examples
@given(runs(), st.data())
def test_a_picture_is_the_same_alone_and_in_a_batch(run: Run, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(run.seeds) - 1))
    for together, alone in zip(run.steps(), run.steps(seeds=[run.seeds[place]]), strict=True):
        x, expected = at_unit_variance(together)[place], at_unit_variance(alone)[0]
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


@examples
@given(runs())
def test_nothing_given_or_yielded_is_ever_changed(run: Run) -> None:
    noise, sigmas = SeededNoise(run.seeds), list(run.sigmas)
    x, perfect = run.start(noise), double_denoise(run.network())
    kept = [(x, x.clone())]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        denoised = perfect(x, sigma)
        kept.extend([(x, x.clone()), (denoised, denoised.clone())])
        return denoised

    for step in SAMPLERS[run.name].sample(denoise, x, sigmas, noise):
        kept.append((step.x, step.x.clone()))
    assert sigmas == run.sigmas
    assert all(torch.equal(tensor, copy) for tensor, copy in kept)


@settings(examples, max_examples=50)
@given(runs())
def test_two_runs_at_once_do_not_disturb_each_other(run: Run) -> None:
    for one, other, alone in zip(run.steps(), run.steps(), list(run.steps()), strict=True):
        assert torch.equal(one.x, alone.x)
        assert torch.equal(other.x, alone.x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_works_only_as_far_as_it_is_asked_to(name: str) -> None:
    schedule = NoiseSchedule(ScheduleConfig())
    run = Run(name, schedule.config, step_sigmas(schedule, "trailing", 10), [0])
    network = run.network()
    steps = run.steps(network)
    assert network.calls == 0
    list(islice(steps, 3))
    assert network.calls == 3 * SAMPLERS[name].evaluations


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_known_picture_is_reached_along_a_straight_line(name: str) -> None:
    x = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    picture, sigmas = torch.full_like(x, 0.3), [20.0, 7.0, 3.0, 2.9, 0.1, 0.0]
    for step in SAMPLERS[name].sample(lambda _x, _sigma: picture, x, sigmas, no_noise):
        torch.testing.assert_close(step.x, picture + (x - picture) * (step.sigma_next / 20), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_timestep_can_be_asked_for(name: str) -> None:
    """As many steps as the schedule has timesteps, and one fewer: where grids run out of room."""
    schedule = NoiseSchedule(ScheduleConfig(num_train_timesteps=50, steps_offset=1))
    data = Gaussian(torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE))
    for spacing in ("leading", "trailing", "linspace", "lcm"):
        for num_steps in (49, 50):
            skips = SAMPLERS[name].skips_first_timestep
            sigmas = step_sigmas(schedule, spacing, num_steps, skips_first_timestep=skips)
            noise = SeededNoise([0])
            x = noise.sample(SHAPE) * sigmas[0]
            assert last_step(SAMPLERS[name].sample(data.denoise, x, sigmas, noise)).x.isfinite().all()


def test_labels_are_told_apart() -> None:
    assert len({sampler.label for sampler in SAMPLERS.values()}) == len(SAMPLERS)
