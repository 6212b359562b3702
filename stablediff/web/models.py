"""The models that visitors can choose from: one in memory at a time, loaded when it is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from stablediff.checkpoints.progress import Progress
from stablediff.pace.estimate import memory_for, seconds_for
from stablediff.pace.plan import make_plan
from stablediff.pace.speed import Speed
from stablediff.pipeline import Pipeline
from stablediff.request import Limits, Request, ResolvedRequest
from stablediff.web.lent import is_lent


class Models:
    """What visitors can choose from: `names` as `load` takes them, the first being the one that is there already.

    `load(name, progress=…)` makes a pipeline. Only the worker's thread calls `get`.
    """

    def __init__(
        self, pipeline: Pipeline, names: Sequence[str], load: Callable[..., Pipeline], limits: Limits | None = None
    ) -> None:
        self.names = tuple(dict.fromkeys(names)) or (pipeline.name,)
        self.limits = limits or Limits()
        self.name, self.current, self.load = self.names[0], self._limited(pipeline), load
        self.speeds: dict[str, Speed] = {}

    def get(self, name: str, report: Progress) -> Pipeline:
        """The model in memory, after it was loaded and measured if need be. `report` hears what is being done."""
        if name != self.name:
            report("loading", 0.0)
            # The former one stays until the new one is there.
            self.current, self.name = self._limited(self.load(name, progress=report)), name
        if name not in self.speeds:
            report("measuring", 0.0)
            self.speeds[name] = measure(self.current)
        return self.current

    def _limited(self, pipeline: Pipeline) -> Pipeline:
        pipeline.config = self.limits.within(pipeline.config)
        return pipeline

    @property
    def speed(self) -> Speed | None:
        """Of the model in memory; None until it was measured."""
        return self.speeds.get(self.name)

    def seconds(self, *requests: ResolvedRequest) -> float | None:
        """How long these will take one after another, as soon as that is known. Raises RequestError."""
        plans = [make_plan(request, self.current) for request in requests]
        for i, (former, plan) in enumerate(pairwise(plans), start=1):
            then = replace(self.current, drawn_at=former.canvas.cells)
            plans[i] = replace(plan, cold=not then.is_warm(plan.canvas.cells))
        each = [None if self.speed is None else seconds_for(plan, self.speed) for plan in plans]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def memory(self, request: ResolvedRequest) -> float:
        """Bytes, about. Raises RequestError."""
        return memory_for(make_plan(request, self.current), self.current)


def measure(pipeline: Pipeline) -> Speed:
    """What is known of this machine, or a few calls of the networks at the model's usual size."""
    speed = Speed(pipeline)
    if not is_lent():  # a GPU's time is the visitors': their own pictures tell
        speed.measure(pipeline, make_plan(resolve(Request(), pipeline), pipeline))
    return speed


def resolve(request: Request, pipeline: Pipeline) -> ResolvedRequest:
    """What the model will make of it; the seed does not matter here."""
    config = pipeline.config
    return replace(request, seed=request.seed or 0).resolve(config.defaults, config.schedule.spacing)
