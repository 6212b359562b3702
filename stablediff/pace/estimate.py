"""Seconds and bytes that a plan will take, before it is begun, and the seconds that are left while it goes on."""

from dataclasses import dataclass, field

from stablediff.models.frozen import count_bytes
from stablediff.pace.plan import Plan
from stablediff.pace.speed import Speed
from stablediff.pace.store import median
from stablediff.pipeline import Pipeline

_PROGRAM = 0.4e9  # bytes that Python and torch take
_COPIES = 7  # of the decoder's widest feature map, at its peak
_ENCODER = 0.45  # of the decoder's time: its share of the multiplications
_NOTICEABLE = 2.0  # seconds
_LATE = 0.25  # of the time that was foretold
_RECENT = 8  # steps that tell how fast it goes now


def seconds_for(plan: Plan, speed: Speed) -> float | None:
    """Seconds of the whole run, as far as the speed is known; None if it is not."""
    decoder = speed.decoder(plan.canvas.cells)
    total = (speed.text() or 0.0) * (2 if plan.guidance.scale > 1 else 1) + (speed.warm_up() if plan.cold else 0.0)
    for pictures, batches in plan.batches.items():
        for call, times in plan.calls(pictures).items():
            seconds = speed.unet(plan.canvas.cells, call)
            if seconds is None or decoder is None:
                return None
            total += batches * times * seconds
    started = _ENCODER if plan.request.init_image is not None else 0.0
    return total + (decoder or 0.0) * (plan.request.num_images + started)


def memory_for(plan: Plan, pipeline: Pipeline) -> float:
    """Bytes, about: the weights, the program, and the decoder at its peak (docs/measurements.md has real ones)."""
    networks = [*pipeline.text_encoders, pipeline.unet, pipeline.vae, *filter(None, [pipeline.tiny_decoder])]
    sizes = [count_bytes(network) for network in networks]
    weights = max(sizes) if pipeline.turns else sum(sizes)  # on the GPU, where one part is at a time
    config, size = pipeline.config.vae, next(pipeline.decoder.parameters()).element_size()
    pixels = plan.request.width * plan.request.height / config.patch_size**2
    channels = pipeline.tiny_decoder.config.width if pipeline.tiny_decoder else config.channels[0]
    return _PROGRAM + weights + _COPIES * pixels * channels * size


@dataclass
class Arrival:
    """The seconds that are left of a run: from what is known of the machine, corrected by what this run shows.

    `step` and `decode` are seconds of a batch's step and of a picture's decoding, as far as they are known; `steps` are
    those that this run has made. The first one takes `warm_up` longer.
    """

    step: float | None = None
    decode: float | None = None
    warm_up: float = 0.0
    steps: list[float] = field(default_factory=list)

    def saw_step(self, seconds: float) -> None:
        self.steps.append(seconds)
        late = self.steps[-_RECENT:] if len(self.steps) > 1 else [max(seconds - self.warm_up, 0.0) or seconds]
        # The first one also warms up: as soon as there are others, it says nothing about those to come.
        late = late[1:] if len(self.steps) <= _RECENT and len(late) > 1 else late
        self.step = sum(late) / len(late)

    def saw_decoding(self, seconds: float) -> None:
        self.decode = seconds

    def remarks_on_compiling(self) -> list[str]:
        """What a first step that waited for the compiler cost, and what the others take; nothing if it did not wait."""
        if len(self.steps) < 2 or self.steps[0] < median(self.steps[1:]) + _NOTICEABLE:
            return []
        first, usual = self.steps[0], median(self.steps[1:])
        return [f"compiling for this size took about {first - usual:.0f} s, once: a step takes {usual:.2g} s now"]

    def remarks_on_lateness(self, foretold: float | None, took: float) -> list[str]:
        """That a run took much longer than was said before it; nothing if it did not."""
        if foretold is None or took < foretold + max(_NOTICEABLE, _LATE * foretold):
            return []
        said = f"{foretold:.{0 if foretold >= 10 else 1}f}"
        return [f"it took {took:.0f} s instead of the {said} s foretold: were other programs at work?"]

    def left(self, steps: int, pictures: int) -> float | None:
        """For so many steps and pictures more; what is not known of the decoder counts nothing."""
        if self.step is None:
            return None
        return (0.0 if self.steps else self.warm_up) + steps * self.step + pictures * (self.decode or 0.0)


def expect(plan: Plan, speed: Speed | None) -> Arrival:
    """What is known before the first step."""
    if speed is None:
        return Arrival()
    calls = plan.calls(plan.batch_size)
    seconds = [speed.unet(plan.canvas.cells, call) for call in calls]
    known = [one * count for one, count in zip(seconds, calls.values(), strict=True) if one is not None]
    step = sum(known) / plan.steps if len(known) == len(seconds) else None
    return Arrival(step, speed.decoder(plan.canvas.cells), speed.warm_up() if plan.cold else 0.0)
