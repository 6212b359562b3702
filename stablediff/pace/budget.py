"""So much time, and not more: which steps, sampler and size make the best of it on this machine."""

import bisect
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from stablediff.config import QUALITIES
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.errors import RequestError
from stablediff.pace.estimate import seconds_for
from stablediff.pace.plan import Plan, make_plan
from stablediff.pace.presets import Preset, apply_preset, fewest_steps, preset_for
from stablediff.pace.speed import Speed, costliest
from stablediff.pipeline import Pipeline
from stablediff.request import MIN_SIZE, Request

_AIM = 0.95  # of the budget: a machine is never as quiet as when it was measured
_SMALLER = (0.75, 0.5)  # sides, where the request leaves the size to the model
_SIDE = 64  # pixels: sides are multiples of it
_CHEAP = 0.02  # of the budget: a call that costs less is timed anew, which also warms up
_DOUBT = 3  # times its share of a smaller size's time: attention explains some of that
_PATIENCE = 0.1  # of the budget: a first measurement that takes longer is not counted


@dataclass(frozen=True)
class Choice:
    """What fits: a request without a budget, the seconds that it should take, and a line for the user."""

    request: Request
    seconds: float
    note: str


def fit(request: Request, pipeline: Pipeline, speed: Speed) -> Choice:
    """Makes the best of `request.time_budget_s`, which counts for all its pictures together.

    What the request names stays: its size, its sampler, its guidance. What it leaves open is chosen: the number of
    steps first, the sampler and the noise levels by the preset that they reach, and a smaller size if even few steps
    would not fit. Measures the machine where it is not known. Raises RequestError if not even one step fits.
    """
    budget, started = request.time_budget_s or 0.0, time.perf_counter()
    fewest = fewest_steps(pipeline.config)
    *larger, smallest = _sizes(replace(request, time_budget_s=None), pipeline)

    def attempt(sized: Request) -> Request | None:
        return within(budget - min(time.perf_counter() - started, _PATIENCE * budget), sized, pipeline, speed)

    def search() -> Request | None:
        least = _plan(smallest, pipeline, 1)
        _measure(least, pipeline, speed, budget)
        for sized in larger:
            plan = _plan(sized, pipeline, 1)
            doubtful = _is_doubtful(plan, least, speed)
            if doubtful or _steps(attempt(sized)) >= fewest:  # in proportion: now at its own size
                _measure(plan, pipeline, speed, budget, again=doubtful)
                chosen = attempt(sized)
                if _steps(chosen) >= fewest:
                    return chosen
        return attempt(smallest)

    chosen = search()
    if chosen is None and not speed.timed:  # what is kept may be of a busier hour
        speed.measure(pipeline, _plan(smallest, pipeline, 1), again=True, decoder=True)
        chosen = search()
    if chosen is not None:
        plan = _plan(chosen, pipeline)
        seconds = seconds_for(plan, speed) or 0.0
        usual = pipeline.config.defaults.width * pipeline.config.defaults.height
        shrunk = chosen.width != request.width and plan.request.width * plan.request.height < usual
        return Choice(chosen, seconds, _note(plan, budget, seconds, fewest, shrunk=shrunk))
    least = (seconds_for(_plan(smallest, pipeline, 1), speed) or 0.0) / _AIM
    raise RequestError(
        f"time_budget_s is {budget:g}, and one step takes about {least:.2g} s here, with the decoding: give more time, "
        "or choose a smaller size, fewer pictures or a smaller model"
    )


def within(seconds: float, request: Request, pipeline: Pipeline, speed: Speed) -> Request | None:
    """The request with as many steps as fit, up to the best preset's, and what goes with them; None if not one does.

    Its size stays. The speed must be known.
    """
    most = preset_for("best", pipeline).num_steps

    def cost(num_steps: int) -> float:
        return seconds_for(_plan(request, pipeline, num_steps), speed) or 0.0

    num_steps = bisect.bisect_right(range(1, most + 1), _AIM * seconds, key=cost)
    return _with_steps(request, pipeline, num_steps) if num_steps else None


def _sizes(request: Request, pipeline: Pipeline) -> Iterator[Request]:
    """The request as it is, and smaller, if it does not name a size and starts from no picture."""
    yield request
    if request.width or request.height or request.init_image is not None:
        return
    defaults = pipeline.config.defaults
    for share in _SMALLER:
        width, height = (int(share * side) // _SIDE * _SIDE for side in (defaults.width, defaults.height))
        if min(width, height) >= MIN_SIZE:
            yield replace(request, width=width, height=height)


def _reached(pipeline: Pipeline, num_steps: int) -> Preset:
    """The richest preset that so many steps reach, or the poorest."""
    presets = [preset_for(quality, pipeline) for quality in QUALITIES]
    reached = [one for one in presets if one.num_steps <= num_steps]
    return max(reached, key=lambda one: one.num_steps, default=min(presets, key=lambda one: one.num_steps))


def _with_steps(request: Request, pipeline: Pipeline, num_steps: int) -> Request:
    return apply_preset(request, _reached(pipeline, num_steps), num_steps)


def _steps(request: Request | None) -> int:
    return 0 if request is None else request.num_steps or 0


def _plan(request: Request, pipeline: Pipeline, num_steps: int | None = None) -> Plan:
    """Of a request that has its steps, or gets so many."""
    config = pipeline.config
    chosen = request if num_steps is None else _with_steps(request, pipeline, num_steps)
    chosen = replace(chosen, seed=request.seed or 0)
    return make_plan(chosen.resolve(config.defaults, config.schedule.spacing), pipeline)


def _measure(plan: Plan, pipeline: Pipeline, speed: Speed, budget: float, *, again: bool = False) -> None:
    call = speed.unet(plan.canvas.cells, costliest(plan))
    cheap = call is not None and call < _CHEAP * budget
    speed.measure(pipeline, plan, again=again or cheap, decoder=again)


def _is_doubtful(plan: Plan, smaller: Plan, speed: Speed) -> bool:
    """Whether a call takes much longer than a smaller one makes believe: it was measured when others were at work."""
    one, other = (speed.unet(each.canvas.cells, costliest(each)) for each in (plan, smaller))
    if one is None or other is None:
        return False
    return one > _DOUBT * other * math.prod(plan.canvas.cells) / math.prod(smaller.canvas.cells)


def _note(plan: Plan, budget: float, seconds: float, fewest: int, *, shrunk: bool) -> str:
    request = plan.request
    sampler = SAMPLERS[request.sampler].label
    steps = f"{request.num_steps} step{'s' if request.num_steps > 1 else ''}"
    doubt = f"; so few steps rarely make a good picture, {fewest} would" if request.num_steps < fewest else ""
    doubt += "; it was not made for so small a picture, which may come out badly" if shrunk else ""
    size = f"{request.width}x{request.height}"
    return f"for {budget:g} s: {steps} of {sampler} at {size}, which should take {seconds:.2g} s{doubt}"
