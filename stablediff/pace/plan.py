"""What a request means for a model before anything is computed: noise levels, cells, guidance, how many at once."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from stablediff.canvas import Canvas
from stablediff.diffusion.denoiser import Guidance
from stablediff.diffusion.samplers import SAMPLERS, Sampler
from stablediff.diffusion.spacing import step_sigmas
from stablediff.errors import RequestError
from stablediff.models.deep_cache import is_due
from stablediff.pipeline import Pipeline
from stablediff.request import ResolvedRequest

# Latent cells drawn at once. Small models gain from a batch, up to eight pictures on a CPU; big ones do not there, and
# one picture comes sooner.
_CELLS_AT_ONCE = {"cpu": 2048, "mps": 8192, "cuda": 32768}


class Call(NamedTuple):
    """What the time of a call depends on, beside the size: not `whole` are those that ask no deep layers."""

    rows: int
    merged_tokens: float = 0.0
    whole: bool = True


@dataclass(frozen=True)
class Plan:
    """The work that a request asks for. `sigmas` has a level more than there are steps."""

    request: ResolvedRequest
    canvas: Canvas
    sampler: Sampler
    sigmas: tuple[float, ...]
    guidance: Guidance
    batch_size: int  # pictures at once
    cold: bool = False  # whether the first step would have to read weights, or to lay them out

    @property
    def steps(self) -> int:
        """Of one picture."""
        return len(self.sigmas) - 1

    def calls(self, pictures: int) -> "Counter[Call]":
        """How often the U-Net is asked for so many pictures at once, and how much of it answers."""
        return Counter(call for step in self.calls_by_step(pictures) for call in step)

    def calls_by_step(self, pictures: int) -> list[list[Call]]:
        steps: list[list[Call]] = []
        number = kept = 0
        for sigma, sigma_next in pairwise(self.sigmas):
            rows = pictures * (2 if self.guidance.active(sigma) else 1)
            steps.append([])
            # The second look of a step is at a level with noise; the last step has none.
            for _ in range(self.sampler.evaluations if sigma_next > 0 else 1):
                whole = is_due(number, self.request.cache_interval, rows, kept)
                steps[-1].append(Call(rows, self.request.merged_tokens, whole))
                kept = rows if whole else kept
                number += 1
        return steps

    @property
    def batches(self) -> "Counter[int]":
        """How many batches there are, by the pictures in them."""
        whole, rest = divmod(self.request.num_images, self.batch_size)
        return Counter({self.batch_size: whole}) + Counter({rest: 1} if rest else {})


def make_plan(request: ResolvedRequest, pipeline: Pipeline) -> Plan:
    """Raises RequestError if the model, as it was loaded, cannot do what the request says."""
    if request.merged_tokens and pipeline.unet.compiled:
        raise RequestError("merged_tokens changes layers that are compiled: leave it away, or load without compiled")
    config, schedule, sampler = pipeline.config, pipeline.schedule, SAMPLERS[request.sampler]
    # DDIM ends at the smallest training noise in models that were made so; all others end without noise.
    keeps_noise = request.sampler == "ddim" and not config.schedule.set_alpha_to_one
    try:
        sigmas = step_sigmas(
            schedule,
            request.spacing,
            request.num_steps,
            skips_first_timestep=sampler.skips_first_timestep,
            final_sigma=schedule.sigma_min if keeps_noise else 0.0,
            kind=config.kind,
        )
    except ValueError as error:
        raise RequestError(str(error)) from error
    if request.init_image is not None:  # join the walk where the picture is still recognisable
        steps = max(1, int(request.num_steps * request.strength))
        sigmas = sigmas[-steps - 1 :]
    # Models distilled with a guidance input take the scale as a number and need no second branch.
    guided = request.guidance_scale > 1 and config.unet.guidance_embedding_dim is None
    guidance = Guidance(
        request.guidance_scale if guided else 1.0,
        request.guidance_rescale,
        request.guidance_interval or (0.0, math.inf),
    )
    canvas = Canvas(request.width, request.height, config.vae.downscale)
    fitting = _CELLS_AT_ONCE.get(pipeline.device.type, 2048) // math.prod(canvas.cells)
    batch_size = min(max(fitting, 1), request.num_images)
    return Plan(request, canvas, sampler, tuple(sigmas), guidance, batch_size, cold=not pipeline.is_warm(canvas.cells))
