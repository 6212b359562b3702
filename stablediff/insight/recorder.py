"""An observer that remembers a run: each step's numbers, what was seen, and what was believed to be behind it."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from stablediff.conditioning import ConditionedUNet
from stablediff.diffusion.denoiser import Network
from stablediff.diffusion.samplers import Step
from stablediff.errors import RequestError
from stablediff.insight.attention import AttentionMaps, rms
from stablediff.pipeline import Pipeline
from stablediff.preview import Previewer


@dataclass(frozen=True)
class Moment:
    """A step. Lengths are root mean squares over the latents, so that pure noise has 1."""

    index: int
    sigma: float
    sigma_next: float
    t: float
    eps: float  # of (x - D) / σ: the noise that the network sees
    delta: float | None  # of what guidance adds to the network's output: (scale - 1)·(cond - uncond), for scale s
    difference: float | None  # of cond - uncond
    seen: Image.Image  # x_t before the step, one pixel a cell
    believed: Image.Image  # the picture expected behind the noise


@dataclass
class Record:
    """A run. It holds no part of a model, so that it can be kept, and sent to another process."""

    sigmas: tuple[float, ...] = ()
    moments: list[Moment] = field(default_factory=list)
    attention: AttentionMaps = field(default_factory=AttentionMaps)


class Recorder:
    """Follows the first picture of a run; see `stablediff.observer.Observer`."""

    def __init__(self, pipeline: Pipeline, guidance_scale: float) -> None:
        # A run that is looked at for long must not keep a model in memory that others have left.
        self._pipeline, self.guidance_scale = weakref.ref(pipeline), guidance_scale
        self._schedule = pipeline.schedule
        self.record = Record()

    @property
    def pipeline(self) -> Pipeline | None:
        """None when nobody draws with it any more."""
        return self._pipeline()

    def begin(self, network: ConditionedUNet, x: Tensor, sigmas: Sequence[float]) -> Network:
        if network.unet.compiled:
            raise RequestError("nobody can look into a compiled U-Net: load the model without compiled")
        self.record = record = Record(tuple(sigmas))
        pipeline = self.pipeline
        assert pipeline is not None  # it is drawing
        self._preview = Previewer(pipeline)
        self._x = x[:1]
        self._difference: float | None = None
        self._first = True

        def watched(x: Tensor, t: float, *, with_uncond: bool) -> Tensor:
            with record.attention.listening(network.unet, *x.shape[-2:]):
                output = network(x, t, with_uncond=with_uncond)
            if self._first:  # a sampler's second look in a step is not its first
                cond, uncond = output.chunk(2) if with_uncond else (output, None)
                self._difference = None if uncond is None else rms(cond[:1].float() - uncond[:1].float())
                self._first = False
            return output

        return watched

    def see(self, step: Step) -> None:
        difference = self._difference
        with torch.inference_mode():
            before, denoised = self._x, step.denoised[:1]
            self.record.moments.append(
                Moment(
                    index=step.index,
                    sigma=step.sigma,
                    sigma_next=step.sigma_next,
                    t=self._schedule.sigma_to_t(step.sigma),
                    eps=rms((before - denoised) / step.sigma),
                    delta=None if difference is None else (self.guidance_scale - 1) * difference,
                    difference=difference,
                    seen=self._preview(before / math.sqrt(1 + step.sigma**2))[0],
                    believed=self._preview(denoised)[0],
                )
            )
            self._x = step.x[:1]
        self._first = True
