"""What to draw. A request checks itself; a front end may offer less than these limits, never more."""

import math
import os
import re
import reprlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from PIL import Image

from stablediff.config import QUALITIES, Defaults, ModelConfig
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import SPACINGS
from stablediff.errors import RequestError

MAX_PROMPT_LENGTH = 5_000
MAX_STEPS = 1_000
MIN_SIZE, MAX_SIZE, SIZE_STEP = 64, 2048, 8
MAX_IMAGES = 64
MAX_GUIDANCE = 100.0
MAX_CACHE_INTERVAL = 20
_MAX_SIGMA = 10**9
MAX_MERGED = 0.75
MAX_SEED = 2**63 - 1
MAX_BUDGET = 86_400  # seconds: a day


@dataclass(frozen=True)
class Request:
    """One wish. What is None is left to the model (see `Defaults`) or, for the seed, to chance.

    Sizes are pixels, multiples of 8. `spacing` names the noise levels to visit ("karras", "trailing", …).
    `guidance_interval` = (low, high] are the noise levels σ with guidance. With `cache_interval` N above 1 the U-Net's
    deep layers answer at one call of N only; `merged_tokens`, up to 0.75, is the share of the finest self-attention's
    tokens that are merged into others: faster, and a little less like the model. `eta` is the share of fresh noise in
    DDIM and Euler ancestral. With `init_image` the picture starts from it, changed by `strength` in (0, 1]; with
    `mask_image` only its white parts are drawn anew, by a strength of 1 if none is said. Every `preview_every` steps an
    update carries a small preview; 0 means never. `quality` ("draft", "balanced", "best") chooses the steps, the
    sampler and the noise levels with guidance; so does `time_budget_s`, the seconds that all pictures of the request
    may take together, by what was measured on this machine.

    Raises RequestError (a ValueError) that names the value, the bound and the remedy.
    """

    prompt: str = ""
    negative_prompt: str = ""
    num_steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    cache_interval: int = 1
    merged_tokens: float = 0.0
    sampler: str | None = None
    spacing: str | None = None
    eta: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    num_images: int = 1
    init_image: Image.Image | None = None
    mask_image: Image.Image | None = None
    strength: float | None = None
    preview_every: int = 0
    quality: str | None = None
    time_budget_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise RequestError(f"{name} is {type(text).__name__}: it must be text")
            if len(text) > MAX_PROMPT_LENGTH:
                raise RequestError(
                    f"{name} has {len(text):,} characters: shorten it to at most {MAX_PROMPT_LENGTH:,} "
                    "(a model hears little of what comes late)"
                )
            if any("\ud800" <= letter <= "\udfff" for letter in text):  # undecodable bytes of a command line
                raise RequestError(f"{name} has characters that are not in Unicode: retype them, in UTF-8")
        for name in ("num_images", "preview_every", "guidance_rescale", "cache_interval", "merged_tokens"):
            if getattr(self, name) is None:
                raise RequestError(f"{name} is None: choose a number, or leave {name} away")
        _check_int("num_steps", self.num_steps, 1, MAX_STEPS)
        _check_int("num_images", self.num_images, 1, MAX_IMAGES)
        _check_int("seed", self.seed, 0, MAX_SEED)
        last_seed = MAX_SEED - self.num_images + 1  # each picture takes the next
        if self.seed is not None and self.seed > last_seed:
            raise RequestError(f"seed is {self.seed} with {self.num_images} pictures: choose at most {last_seed}")
        _check_int("preview_every", self.preview_every, 0, MAX_STEPS)
        _check_number("guidance_scale", self.guidance_scale, 0, MAX_GUIDANCE)
        _check_number("guidance_rescale", self.guidance_rescale, 0, 1)
        _check_number("eta", self.eta, 0, 1)
        _check_int("cache_interval", self.cache_interval, 1, MAX_CACHE_INTERVAL)
        _check_number("merged_tokens", self.merged_tokens, 0, MAX_MERGED)
        _check_number("strength", self.strength, 0, 1)
        if self.strength == 0:
            raise RequestError("strength is 0, which would change nothing: choose more than 0, up to 1")
        for name in ("width", "height"):
            _check_size(name, getattr(self, name))
        _check_choice("sampler", self.sampler, tuple(SAMPLERS))
        _check_choice("spacing", self.spacing, SPACINGS)
        if self.eta is not None and (self.sampler is None or not SAMPLERS[self.sampler].takes_eta):
            takers = " or ".join(name for name, sampler in SAMPLERS.items() if sampler.takes_eta)
            raise RequestError(f"eta is {self.eta}, which only the samplers {takers} know: choose one of them")
        if self.guidance_interval is not None:
            _check_interval(self.guidance_interval)
        for name in ("init_image", "mask_image"):
            _check_image(name, getattr(self, name))
        if self.mask_image is not None and self.init_image is None:
            raise RequestError("there is a mask_image and no init_image: give the picture that the mask belongs to")
        _check_choice("quality", self.quality, QUALITIES)
        if self.time_budget_s is not None:
            self._check_budget(self.time_budget_s)

    def _check_budget(self, seconds: float) -> None:
        if not _is_number(seconds) or not 0 < seconds <= MAX_BUDGET:  # nor is NaN
            raise RequestError(
                f"time_budget_s is {_shown(seconds)}: choose a number of seconds above 0, at most {MAX_BUDGET} (a day)"
            )
        for name in ("num_steps", "quality"):
            if getattr(self, name) is not None:
                raise RequestError(
                    f"time_budget_s is {seconds:g} with {name} {getattr(self, name)}, which is what a budget chooses: "
                    "leave one of them away"
                )

    def resolve(self, defaults: Defaults, spacing: str | None = None) -> "ResolvedRequest":
        """The same request with nothing left open; `spacing` is the model's own, if it has one.

        `quality` and `time_budget_s` are not looked at: stablediff.pace turns them into steps and the rest.
        """
        width, height = self.width, self.height
        if self.init_image is not None and width is None and height is None:
            width, height = _size_like(self.init_image, defaults)
        sampler = self.sampler or defaults.sampler
        usual = SAMPLERS[sampler].spacing
        choices = {
            "num_steps": defaults.num_steps if self.num_steps is None else self.num_steps,
            "guidance_scale": defaults.guidance_scale if self.guidance_scale is None else float(self.guidance_scale),
            "sampler": sampler,
            "spacing": self.spacing or (usual if usual == "lcm" else spacing or usual),
            "seed": secrets.randbelow(2**32) if self.seed is None else self.seed,
            "width": width or defaults.width,
            "height": height or defaults.height,
            "strength": self._strength(defaults),
            "quality": None,
            "time_budget_s": None,
        }
        return ResolvedRequest(**{**self.__dict__, **choices})

    def _strength(self, defaults: Defaults) -> float:
        """Where a mask says what stays, the rest need not resemble what was there."""
        if self.strength is not None:
            return self.strength
        return defaults.strength if self.mask_image is None else 1.0


@dataclass(frozen=True, kw_only=True)
class ResolvedRequest(Request):
    """A request with nothing left open."""

    num_steps: int
    guidance_scale: float
    sampler: str
    spacing: str
    seed: int
    width: int
    height: int
    strength: float


# What the front ends ask for when a picture is to be varied or enlarged.
VARIATION_STRENGTH, UPSCALE_STRENGTH = 0.8, 0.35


@dataclass(frozen=True)
class Limits:
    """What a server that strangers use draws for them: less than a request may ask for. Sizes are pixels."""

    max_side: int = 1024
    max_steps: int = 100
    max_images: int = 4  # of one request
    max_grid: int = 16  # pictures of one comparison
    max_waiting: int = 32  # jobs in the queue
    max_jobs: int = 2  # of one visitor (a page, or a name that has logged in), running or waiting
    max_crowd_jobs: int = 8  # of all visitors with one network address

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> "Limits":
        """STABLEDIFF_MAX_SIDE and so on. Raises RequestError."""
        highest = {"max_side": MAX_SIZE, "max_steps": MAX_STEPS, "max_images": MAX_IMAGES}
        chosen = {}
        for field in fields(Limits):
            name = f"STABLEDIFF_{field.name.upper()}"
            if not environment.get(name):
                continue
            text = environment[name]
            if not re.fullmatch(r"\d{1,9}", text):
                raise RequestError(f"{name} is {text[:50]!r}: it must be a whole number")
            low = MIN_SIZE if field.name == "max_side" else 1
            _check_int(name, int(text), low, highest.get(field.name, 10_000))
            chosen[field.name] = int(text)
        return Limits(**chosen)

    def within(self, config: ModelConfig) -> ModelConfig:
        """The same with defaults that may be drawn here."""
        usual = config.defaults
        shrink = min(self.max_side / max(usual.width, usual.height), 1.0)
        width, height = (
            side if shrink == 1 else max(int(side * shrink) // SIZE_STEP * SIZE_STEP, MIN_SIZE)
            for side in (usual.width, usual.height)
        )
        steps = min(usual.num_steps, self.max_steps)
        return replace(config, defaults=replace(usual, num_steps=steps, width=width, height=height))

    def check(self, request: ResolvedRequest) -> None:
        """Raises RequestError."""
        self.check_values(request.__dict__)

    def check_values(self, values: Mapping[str, Any]) -> None:
        """As `check`, of what is there: so that nobody is told the request's own, wider bounds first."""
        for name in ("width", "height"):
            value = values.get(name)
            if value is not None and value > self.max_side:
                raise RequestError(f"{name} is {_shown(value)}: choose at most {self.max_side} here")
        _check_int("num_steps", values.get("num_steps"), 1, self.max_steps)
        _check_int("num_images", values.get("num_images"), 1, self.max_images)


def parse_size(text: str) -> tuple[int, int]:
    """ "512x768" or "512" -> (width, height); whether they can be drawn is for the request to say."""
    text = str(text)
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:[xX×*хХ]\s*(\d{1,9})\s*)?", text)
    if match is None:
        raise RequestError(f"{text[:50]!r} is not a size: write width x height in pixels, as 512x512")
    return int(match[1]), int(match[2] or match[1])


def parse_interval(text: str) -> tuple[float, float]:
    """ "0.28-5.42" -> (0.28, 5.42), noise levels σ; "0.28-" has no end."""
    number = r"(?:\d{1,10}(?:[.,]\d{0,20})?|[.,]\d{1,20})(?:e[+-]?\d{1,3})?"
    match = re.fullmatch(rf"\s*({number})\s*[-–]\s*({number}|inf)?\s*", text, re.IGNORECASE)
    ends = match.groups() if match else ("nan", "nan")
    low, high = (float((end or "inf").replace(",", ".")) for end in ends)
    try:
        _check_interval((low, high))
    except RequestError as error:
        raise RequestError(
            f"{text[:40]!r} is no interval: write two noise levels, the lower one first, as 0.28-5.42, or 0.28- "
            "without an end"
        ) from error
    return low, high


def interval_text(interval: tuple[float, float] | None) -> str:
    """As `parse_interval` reads it; nothing for none."""
    if interval is None:
        return ""
    low, high = interval
    return f"{low + 0.0}-" + (f"{high}" if high < math.inf else "")  # of -0.0, too


def _check_int(name: str, value: int | None, low: int, high: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} is {_shown(value)}: it must be a whole number from {low} to {high}")
    if not low <= value <= high:
        raise RequestError(f"{name} is {_shown(value)}: choose {low} to {high}")


def _check_number(name: str, value: float | None, low: float, high: float) -> None:
    if value is None:
        return
    if not _is_number(value):
        raise RequestError(f"{name} is {_shown(value)}: it must be a number from {low:g} to {high:g}")
    if not low <= value <= high:  # nor is NaN
        raise RequestError(f"{name} is {_shown(value)}: choose {low:g} to {high:g}")


def _check_interval(value: Sequence[float]) -> None:
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(_is_number(bound) for bound in value):
        raise RequestError(f"guidance_interval is {_shown(value)}: it must be two numbers (low, high) in units of σ")
    low, high = value
    if not 0 <= low < high or low > _MAX_SIGMA or _MAX_SIGMA < high < math.inf:
        raise RequestError(
            f"guidance_interval is {_shown(low)} to {_shown(high)}: choose 0 <= low < high, in units of σ (up to "
            f"{_MAX_SIGMA}, or without an end)"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A wrong value, as far as a message has room for it."""
    if isinstance(value, int) and abs(value) >= 2**64:  # Python itself refuses to write out the longest
        return f"about {'-' if value < 0 else ''}2^{math.log2(abs(value)):.0f}"
    return reprlib.repr(value)


def _check_image(name: str, image: object) -> None:
    if image is None:
        return
    if not isinstance(image, Image.Image):
        raise RequestError(
            f"{name} is {type(image).__name__}: it must be a Pillow picture; images.open_image reads one"
        )
    if 0 in image.size:
        raise RequestError(f"{name} has no pixels ({image.width} x {image.height}): choose another picture")
    try:
        image.load()
        for mode in ("RGBA", "L"):  # not all modes can be
            image.crop((0, 0, 1, 1)).convert(mode)
    except Exception as error:  # it was only opened so far and is damaged, or is closed again
        raise RequestError(f"{name} cannot be read ({error}): choose another picture, in RGB or RGBA") from error


def _check_size(name: str, value: int | None) -> None:
    _check_int(name, value, MIN_SIZE, MAX_SIZE)
    if value is not None and value % SIZE_STEP:
        lower = value - value % SIZE_STEP
        raise RequestError(
            f"{name} is {value}: choose a multiple of {SIZE_STEP}, such as {lower} or {lower + SIZE_STEP}"
        )


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise RequestError(f"{name} {_shown(value)} is not known: choose one of {', '.join(choices)}")


def _size_like(image: Image.Image, defaults: Defaults) -> tuple[int, int]:
    """The picture's own proportions, at no more than the area that the model was trained at."""
    scale = min(1.0, math.sqrt(defaults.width * defaults.height / (image.width * image.height)))

    def fit(length: int) -> int:
        return min(max(round(length * scale / SIZE_STEP) * SIZE_STEP, MIN_SIZE), MAX_SIZE)

    return fit(image.width), fit(image.height)
