"""The one function behind every front end: a request goes in, a progress report a step and the pictures come out.

prompt -> context -> noise -> ⟲ denoise -> latents -> picture
"""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stablediff.conditioning import ConditionedUNet, Conditioning, Shortcuts, encode_prompts
from stablediff.diffusion.denoiser import Denoise, Denoiser, Network, keep_known
from stablediff.diffusion.noise import SeededNoise
from stablediff.errors import OutOfMemoryError, RequestError, StableDiffError
from stablediff.fallback import NotFiniteError, Precisions, dtype_of, free_memory, is_out_of_memory
from stablediff.heap import give_back
from stablediff.images import (
    fit_image,
    has_alpha,
    mask_to_tensor,
    over_white,
    paste_known,
    to_images,
    to_pixels,
)
from stablediff.models.emphasis import parse_emphasis
from stablediff.models.rows import decode_in_rows
from stablediff.observer import Observer
from stablediff.pace.estimate import expect, memory_for
from stablediff.pace.plan import make_plan
from stablediff.pace.resolve import resolve
from stablediff.pace.speed import Speed
from stablediff.pipeline import Pipeline
from stablediff.preview import Previewer
from stablediff.request import Request, ResolvedRequest
from stablediff.result import Result, Update

_LARGE = 1024 * 1024  # pixels: pictures with more are decoded strip by strip

T = TypeVar("T")


def generate(
    pipeline: Pipeline,
    request: Request,
    should_stop: Callable[[], bool] = lambda: False,
    observer: Observer | None = None,
    speed: Speed | None = None,
) -> Iterator[Update | Result]:
    """Draws. Yields an `Update` a step and one `Result` at the end. An `observer` sees every step from inside.
    `speed`, what is known of this machine, lets the first update say how long it will take, and learns from the run.

    Closing the generator, or `should_stop` returning True, ends the work within one step; in the second case the result
    has what was finished before. So it has when something goes wrong, and the error comes after it. Picture i has the
    seed `request.seed + i`, whatever the batch and the device. One run at a time: a pipeline's layers remember the
    prompt that they are reading.
    Raises RequestError, NumericalError or OutOfMemoryError.
    """
    if not isinstance(request, Request) or not isinstance(pipeline, Pipeline):
        raise RequestError("generate takes a pipeline and a request, as in generate(load(), Request(prompt='a cat'))")
    if request.time_budget_s is not None and speed is None:
        speed = Speed(pipeline)
    resolved, notes = resolve(request, pipeline, speed)
    run = _Run(pipeline, resolved, should_stop, observer, speed, notes)
    try:
        result = yield from _draw(run)
    finally:
        give_back()
    yield result


def _draw(run: "_Run") -> Generator[Update | Result, None, Result]:
    resolved = run.request
    memory = memory_for(run.work, run.pipeline)
    yield Update("encode", 0, run.total, run.foretold, resolved, memory, notes=tuple(run.notes))
    try:
        yield from run.encode()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise run.too_large() from error

    seeds = [resolved.seed + i for i in range(resolved.num_images)]
    images: list[Image.Image] = []
    try:
        while len(images) < len(seeds) and not run.stopped:
            batch = seeds[len(images) : len(images) + run.batch_size]
            steps_before = run.steps_done
            try:
                latents = yield from run.denoise(batch, tuple(images))
                if latents is not None:
                    yield Update("decode", run.steps_done, run.total, images=tuple(images))
                    images += run.decode(latents)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                run.shrink(len(batch), steps_before, len(seeds) - len(images))
    except StableDiffError:
        if images:
            yield run.result(images, seeds, stopped=True)
        raise
    run.learn()
    return run.result(images, seeds, stopped=run.stopped)


@dataclass
class _Run:
    """One call of `generate`: its plan, its clock, and what it has learnt on the way."""

    pipeline: Pipeline
    request: ResolvedRequest
    should_stop: Callable[[], bool]
    observer: Observer | None = None
    speed: Speed | None = None
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "denoise": 0.0, "decode": 0.0})
    precisions: Precisions = field(default_factory=Precisions)
    stopped: bool = False
    steps_done: int = 0

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.work = make_plan(self.request, self.pipeline)
        self.schedule, self.canvas, self.sigmas = self.pipeline.schedule, self.work.canvas, self.work.sigmas
        self.arrival = expect(self.work, self.speed)
        # Large pictures from the start: a CPU's system ends a program sooner than it refuses it memory.
        self.in_rows = not self.pipeline.tiny_decoder and math.prod(self.canvas.cells) * self.canvas.cell**2 > _LARGE
        self.plan(self.work.batch_size, self.request.num_images)
        self.foretold = self.seconds_left(self.request.num_images)

    def result(self, images: list[Image.Image], seeds: list[int], *, stopped: bool) -> Result:
        return Result(
            images=tuple(images),
            seeds=tuple(seeds[: len(images)]),
            request=self.request,
            model=self.pipeline.name,
            seconds={**self.seconds, "total": time.perf_counter() - self.started},
            notes=tuple(self.notes),
            stopped=stopped,
            loras=self.pipeline.loras,
            precision=self.pipeline.compute.name,
            tiny_decoder=self.pipeline.tiny_decoder is not None,
        )

    def plan(self, batch_size: int, images_left: int) -> None:
        self.batch_size = batch_size
        self.total = self.steps_done + math.ceil(images_left / batch_size) * self.work.steps

    def seconds_left(self, pictures: int) -> float | None:
        return self.arrival.left(self.total - self.steps_done, pictures)

    def learn(self) -> None:
        """A whole run, done as it was planned and with nobody looking on, tells how fast this machine is."""
        as_planned = not self.stopped and self.observer is None and self.batch_size == self.work.batch_size
        if self.pipeline.unet.compiled:
            self.notes += self.arrival.remarks_on_compiling()
        elif as_planned:
            self.notes += self.arrival.remarks_on_lateness(self.foretold, time.perf_counter() - self.started)
        if self.speed is not None and as_planned and self.arrival.decode is not None:
            # A GPU is only told its steps, and does them later.
            steps = self.arrival.steps if self.pipeline.device.type == "cpu" else ()
            self.speed.learn(self.pipeline, self.work, steps, self.arrival.decode)

    @contextlib.contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Adds the time inside to a stage; inference mode holds inside only, never across a yield."""
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def encode(self) -> Iterator[Update]:
        """Reads the prompts, and the picture to start from."""
        request = self.request
        guided = self.work.guidance.scale > 1
        if request.negative_prompt and not guided:
            self.notes.append("the negative prompt had no effect, because there is none without guidance (above 1)")
        prompts = [request.prompt, request.negative_prompt] if guided else [request.prompt]
        self._remark_on(prompts)
        self.conditioning = self._finite("encode", self.pipeline.text_encoders, lambda: self._encode_prompts(prompts))
        yield Update("encode", 0, self.total)
        self.previewer = self._finite("encode", [self.pipeline.vae], self._make_previewer)
        self.known = self.mask = self.extra = None
        if request.init_image is not None:
            self.init = fit_image(request.init_image, self.canvas.width, self.canvas.height)
            pixels = self.canvas.pad(to_pixels(self.init, self.pipeline.config.vae.image_channels))
            self.known = self._finite("encode", [self.pipeline.vae], lambda: self._encode_pixels(pixels))
        if request.init_image is not None and request.mask_image is not None:
            # Laid over the whole picture, whatever its own size, so that both are cropped alike.
            mask = request.mask_image.convert("L").resize(request.init_image.size)
            self.mask_image = fit_image(mask, self.canvas.width, self.canvas.height)
            white = self.canvas.pad(mask_to_tensor(self.mask_image))  # a cell is drawn anew if any of its pixels is
            self.mask = (F.adaptive_max_pool2d(white, self.canvas.cells) > 0.5).float().to(self.pipeline.device)
        if self.pipeline.takes_mask:
            self.extra = self._finite("encode", [self.pipeline.vae], self._inpainting_channels)

    def _remark_on(self, prompts: list[str]) -> None:
        """Words that a small model has not learnt are told, not passed over."""
        if self.pipeline.lexicon is not None and not self.pipeline.loras:  # which may have taught it more
            plain = " ".join(span.text for prompt in prompts for span in parse_emphasis(prompt))
            remark = self.pipeline.lexicon.remark(plain)
            self.notes += [remark] if remark else []

    def _encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.clock("encode"):
            conditioning = encode_prompts(self.pipeline, prompts, self.canvas.width, self.canvas.height)
        if not torch.isfinite(conditioning.context).all():
            raise NotFiniteError
        return conditioning

    def _make_previewer(self) -> Previewer | None:
        with self.clock("encode"):
            return Previewer(self.pipeline) if self.request.preview_every else None

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        with self.clock("encode"):
            vae = self.pipeline.present(self.pipeline.vae)
            latents = vae.encode(pixels.to(self.pipeline.device, dtype_of(vae))).float()
        if not torch.isfinite(latents).all():
            raise NotFiniteError
        return latents

    def _inpainting_channels(self) -> Tensor:
        """(1,1+L,h,w): where to draw, and the known picture with a grey hole."""
        channels = self.pipeline.config.vae.image_channels
        size = (1, 1, self.canvas.height, self.canvas.width)
        if self.mask is None:
            mask, pixels = torch.ones(size), torch.zeros(1, channels, self.canvas.height, self.canvas.width)
            cells = torch.ones(1, 1, *self.canvas.cells, device=self.pipeline.device)
        else:
            mask, pixels, cells = mask_to_tensor(self.mask_image), to_pixels(self.init, channels), self.mask
        hole = self.canvas.pad(pixels * (mask < 0.5))
        return torch.cat([cells, self._encode_pixels(hole)], dim=1)

    def denoise(self, seeds: list[int], finished: tuple[Image.Image, ...]) -> Generator[Update, None, Tensor | None]:
        """Noise -> latents (B,L,h,w), or None if it was stopped."""
        steps_before = self.steps_done
        while True:
            try:
                return (yield from self._denoise(seeds, finished))
            except NotFiniteError as failure:
                self.notes.append(self.precisions.widen([self.pipeline.unet], "denoise", failure.step))
                self.steps_done = steps_before

    def _denoise(self, seeds: list[int], finished: tuple[Image.Image, ...]) -> Generator[Update, None, Tensor | None]:
        noise = SeededNoise(seeds)
        with self.clock("denoise"):
            denoise, x = self._start(noise)
            options = {} if self.request.eta is None else {"eta": self.request.eta}
            steps = partial(self.work.sampler.sample, **options)(denoise, x, self.sigmas, noise)
        while True:
            if self.should_stop():
                self.stopped = True
                return None
            before = self.seconds["denoise"]
            with self.clock("denoise"):
                step = next(steps, None)
                if step is None:
                    break
                # On a GPU this would wait for the step; there the end of the loop is early enough.
                if x.device.type == "cpu" and not torch.isfinite(step.x).all():
                    raise NotFiniteError(step.index + 1)
                x = step.x
                if self.observer is not None:
                    self.observer.see(step)
            self.steps_done, self.pipeline.drawn_at = self.steps_done + 1, self.canvas.cells
            self.arrival.saw_step(self.seconds["denoise"] - before)
            yield self._update(step.index, step.sigma_next, step.denoised, finished)
        with self.clock("denoise"):  # a GPU comes to an end only now
            finite = bool(torch.isfinite(x).all())
        if not finite:
            raise NotFiniteError
        return x / math.sqrt(1 + self.sigmas[-1] ** 2)  # back to the scale of the autoencoder

    def _start(self, noise: SeededNoise) -> tuple[Denoise, Tensor]:
        """The denoiser for a batch, and the noise (or the noisy picture) that it begins with."""
        config, device = self.pipeline.config, self.pipeline.device
        batch, sigma = len(noise.generators), self.sigmas[0]
        start = noise.sample((config.vae.latent_channels, *self.canvas.cells), device)
        extra = None if self.extra is None else self.extra.expand(batch, -1, -1, -1)
        at_sigma = self.work.sampler.starts_at_sigma and self.request.spacing != "leading"
        x = start * (sigma if at_sigma else math.sqrt(1 + sigma**2))
        # What is drawn quite anew must not begin with what was there; σ alone does not hide it.
        anew = self.mask is not None and self.request.strength == 1
        x = x if self.known is None or anew else self.known + sigma * start
        cuts, scale = Shortcuts(self.request.cache_interval, self.request.merged_tokens), self.request.guidance_scale
        unet = ConditionedUNet(self.pipeline.unet, self.conditioning, batch, scale, extra, cuts)
        network: Network = unet if self.observer is None else self.observer.begin(unet, x, self.sigmas)
        denoise: Denoise = Denoiser(network, self.schedule, config.schedule.prediction_type, self.work.guidance)
        if self.known is not None and self.mask is not None and not self.pipeline.takes_mask:
            denoise = keep_known(denoise, self.known, self.mask, start)
        self.pipeline.present(self.pipeline.unet)  # last: an observer may have asked the autoencoder
        return denoise, x

    def _update(self, index: int, sigma: float, denoised: Tensor, finished: tuple[Image.Image, ...]) -> Update:
        every = self.request.preview_every
        previews: tuple[Image.Image, ...] = ()
        if self.previewer and (index + 1) % every == 0:
            with self.clock("denoise"):
                previews = tuple(self.previewer(denoised))
        left = self.seconds_left(self.request.num_images - len(finished))
        return Update("denoise", self.steps_done, self.total, left, sigma=sigma, previews=previews, images=finished)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """(B,L,h,w) -> B pictures, one at a time: the decoder is where memory peaks."""
        images, before = [], self.seconds["decode"]
        for row in latents.split(1):
            pixels = self._finite("decode", [self.pipeline.decoder], partial(self._decode_one, row))
            image = to_images(self.canvas.crop(pixels))[0]
            if self.mask is not None:
                image = paste_known(image, self.init, self.mask_image, softness=max(4, self.canvas.cell // 4))
            if self.known is not None and not has_alpha(self.init):
                image = over_white(image)  # a photograph does not become a cut-out
            images.append(image)
        self.arrival.saw_decoding((self.seconds["decode"] - before) / len(images))
        return images

    def _decode_one(self, latents: Tensor) -> Tensor:
        with self.clock("decode"):
            give_back()  # of the U-Net's: here memory peaks
            decoder = self.pipeline.present(self.pipeline.decoder)
            latents = latents.to(dtype_of(decoder))
            pixels: Tensor | None = None
            if not self.in_rows:
                try:
                    pixels = decoder.decode(latents)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or decoder is not self.pipeline.vae:
                        raise
                    self.in_rows = True
            if pixels is None:  # not in the handler: the exception there holds on to what the attempt computed
                free_memory()
                pixels = decode_in_rows(self.pipeline.vae, latents)
            finite = bool(torch.isfinite(pixels).all())  # a GPU comes to an end only now
        if not finite:
            raise NotFiniteError
        return pixels

    def _finite(self, stage: str, parts: Sequence[nn.Module], work: Callable[[], T]) -> T:
        """Does the work, again in a wider precision if it overflows."""
        while True:
            try:
                return work()
            except NotFiniteError as failure:
                self.notes.append(self.precisions.widen(parts, stage, failure.step))

    def shrink(self, batch: int, steps_before: int, images_left: int) -> None:
        """After memory ran out: half the batch, or give up."""
        free_memory()
        if batch == 1:
            raise self.too_large()
        self.steps_done = steps_before
        self.plan(batch // 2, images_left)
        self.notes.append(f"memory was short: {self.batch_size} picture(s) at a time")

    def too_large(self) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"{self.canvas.width}x{self.canvas.height} does not fit into memory, even one picture at a time and "
            "decoded in strips: choose a smaller size, close other programs, load it with offload (GPU), or use a "
            "smaller model"
        )
