"""`python -m stablediff generate`: from what was typed to pictures on the disk, with a bar on the way."""

import argparse
import math
import os
import re
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from stablediff import command
from stablediff.device import DTYPES
from stablediff.errors import RequestError, StableDiffError
from stablediff.files import check_place
from stablediff.generate import generate
from stablediff.images import open_image, read_parameters
from stablediff.lexicon import NOT_LEARNT
from stablediff.pace.speed import Speed
from stablediff.pipeline import Pipeline, load
from stablediff.recipe import began_elsewhere, has_mask, not_understood, parse, starts_from_picture, wishes_of
from stablediff.recipe import loras as recipe_loras
from stablediff.recipe import precision as recipe_precision
from stablediff.request import Request, ResolvedRequest
from stablediff.result import Result, Update

# Without the time that is left by the steps' mean: `generate` knows better.
_BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

# Beyond these shares of the width or height that a model was made for, its user is warned.
_SMALL, _LARGE = 0.6, 2.0

# What a request's fields are called here, where they have another name.
_OPTIONS = {
    "negative_prompt": "--negative",
    "num_steps": "--steps",
    "guidance_scale": "--guidance",
    "guidance_rescale": "--guidance-rescale",
    "guidance_interval": "--guidance-interval",
    "cache_interval": "--cache-interval",
    "merged_tokens": "--merge-tokens",
    "num_images": "--num-images",
    "init_image": "--init",
    "mask_image": "--mask",
    "time_budget_s": "--seconds",
}


# Those that have the same name, which only at a message's beginning are surely meant.
_SAME = ("eta", "quality", "sampler", "seed", "spacing", "strength")


def draw_pictures(arguments: argparse.Namespace) -> int:
    """The sub-command. -> its exit code. Raises StableDiffError."""
    request = _request(arguments)
    for index in range(request.num_images):  # said before the work, not after it
        _check_out(_numbered(arguments.out or Path("picture.png"), index, request.num_images))
    pipeline = _load(arguments)
    if arguments.like is not None:
        _compare(arguments.like, pipeline)
    result, failure = _draw(pipeline, request)
    if result is not None:
        failure = _save(result, arguments.out, pipeline) or failure
    if isinstance(failure, RequestError):
        raise _in_options(failure) from failure
    if failure is not None:
        raise failure
    return 130 if result is not None and result.stopped else 0


def _save(result: Result, out: Path | None, pipeline: Pipeline) -> StableDiffError | None:
    """Writes all pictures that can be written. -> what went wrong with another."""
    count = result.request.num_images
    saved: list[Path] = []
    lost: list[tuple[Path, int, object]] = []  # with the seed and the reason
    for index, seed in enumerate(result.seeds):
        path = _numbered(out, index, count) if out else _free_name(result.request.prompt, seed)
        try:
            result.save(path, index)
            saved.append(path)
        except OSError as error:
            lost.append((path, seed, error.strerror or error))
    print(*saved, sep="\n", end="\n" * bool(saved))
    for note in result.notes:
        print(f"note: {note}{_where_known(note, pipeline)}", file=sys.stderr)
    if result.stopped:
        print(f"stopped: {len(result.images)} of {count} pictures were finished", file=sys.stderr)
    if not lost:
        seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in result.seconds.items())
        print(f"{seconds} · seed {result.request.seed}", file=sys.stderr)
        return None
    paths, seeds = (", ".join(str(entry[i]) for entry in lost) for i in (0, 1))
    again = f"--seed {seeds} draws the same picture again" if len(lost) == 1 else f"they had the seeds {seeds}"
    return StableDiffError(f"cannot write {paths}: {lost[0][2]}. Free some space or choose another --out; {again}")


def _compare(like: Path, pipeline: Pipeline) -> None:
    """Tells of all that will not be as it was with the picture that is repeated."""
    told = read_parameters(like) or ""
    fields = parse(told)
    model, decoder = fields.get("Model"), fields.get("Decoder")
    if model is not None and model != pipeline.name:
        print(
            f"note: {like} was drawn with {model}, and this will be with {pipeline.name}: see --model", file=sys.stderr
        )
    if (decoder == "tiny") != (pipeline.tiny_decoder is not None):
        which = "a tiny decoder" if decoder == "tiny" else "the model's own decoder"
        print(f"note: {like} was drawn with {which}, and this will not be: see --decoder", file=sys.stderr)
    theirs, ours = recipe_precision(told), pipeline.compute.name
    if theirs in (*DTYPES, "int8") and theirs != ours:
        print(
            f"note: {like} was drawn in {theirs} and this will be in {ours}, which is a little different: --dtype "
            f"{theirs} repeats it exactly, on the same machine",
            file=sys.stderr,
        )


def _request(arguments: argparse.Namespace) -> Request:
    """What was typed, over the recipe of `--like` if there is one."""
    options: dict[str, object] = {}
    recipe = None
    if arguments.like is not None:
        if not os.path.exists(arguments.like):  # noqa: PTH110 (names that are too long do not exist either)
            raise RequestError(f"there is no picture {arguments.like}: check its name")
        recipe = read_parameters(arguments.like)
        if recipe is None or "Steps" not in parse(recipe):
            raise RequestError(f"{arguments.like} holds no recipe: only a PNG that was saved with one can be repeated")
        options = wishes_of(recipe)
        for strange in not_understood(recipe):
            print(f"note: {strange} is not known here, and the model's own is taken instead", file=sys.stderr)
        if starts_from_picture(recipe) and arguments.init is None:
            raise RequestError(f"{arguments.like} was drawn from another picture: give that one with --init")
        if has_mask(recipe) and arguments.mask is None:
            raise RequestError(f"{arguments.like} was drawn only where a mask was white: give that one with --mask")
        loras = recipe_loras(recipe)
        if loras and not arguments.lora:
            raise RequestError(f"{arguments.like} was drawn with the LoRA {loras}: give it with --lora FILE:SCALE")
    elif arguments.prompt is None:
        raise RequestError('say what to draw, as in: python -m stablediff generate "red apple, flat style"')
    elif command.START.match(arguments.prompt):
        options = command.parse(command.START.sub("", arguments.prompt, count=1))
        arguments.prompt = None
        if "strength" in options and arguments.init is None:
            raise RequestError("this command changes a picture: give that one with --init")
    width, height = arguments.size or (None, None)
    typed = {
        "prompt": arguments.prompt,
        "negative_prompt": arguments.negative,
        "num_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "guidance_rescale": arguments.guidance_rescale,
        "guidance_interval": arguments.guidance_interval,
        "cache_interval": arguments.cache_interval,
        "merged_tokens": arguments.merge_tokens,
        "sampler": arguments.sampler,
        "spacing": arguments.spacing,
        "eta": arguments.eta,
        "seed": arguments.seed,
        "width": width,
        "height": height,
        "num_images": arguments.num_images,
        "init_image": open_image(arguments.init) if arguments.init else None,
        "mask_image": open_image(arguments.mask) if arguments.mask else None,
        "strength": arguments.strength,
        "quality": arguments.quality,
        "time_budget_s": arguments.seconds,
    }
    chosen: tuple[str, ...] = ("sampler", "eta") if arguments.sampler is not None else ()
    if arguments.quality is not None or arguments.seconds is not None:
        chosen = ("num_steps", "sampler", "eta", "spacing")
    for name in chosen:  # anew
        options.pop(name, None)
    try:
        request = Request(**{**options, **{name: value for name, value in typed.items() if value is not None}})
    except RequestError as error:
        raise _in_options(error) from error
    for what in began_elsewhere(recipe or "", request.init_image, request.mask_image):
        print(f"note: {arguments.like} was drawn from another {what}, so this one will differ from it", file=sys.stderr)
    if arguments.strength is not None and request.init_image is None:
        raise RequestError("--strength is for pictures that start from another: give that one with --init")
    return request


def _in_options(error: RequestError) -> RequestError:
    """The same refusal in the words of the command line; what it quotes stays as it is."""
    field = r"(?<![\w'\"])[a-z]+(?:_[a-z]+)+(?![\w'\"])"
    message = re.sub(field, lambda found: _OPTIONS.get(found[0], found[0]), str(error))
    return RequestError(re.sub(rf"^({'|'.join(_SAME)}) is ", r"--\1 is ", message))


def _check_out(out: Path) -> None:
    """Says before the work, not after it, that the picture could not be kept."""
    if out.suffix.lower() != ".png":
        name = out.parent / (out.stem.strip(".") or "picture")
        raise RequestError(
            f"--out {out} does not end in .png, the format that keeps the picture's recipe: call it {name}.png"
        )
    try:
        check_place(out)
        # The folder is made when there is a picture to put into it.
        there = next(folder for folder in Path(os.path.realpath(out)).parents if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=there) as trial:
            trial.write(b"room for a few bytes")
    except OSError as error:
        raise RequestError(f"cannot write --out {out}: {error.strerror}. Choose another place") from error


def _numbered(out: Path, index: int, count: int) -> Path:
    return out if count == 1 else out.with_stem(f"{out.stem}-{index + 1}")


def _free_name(prompt: str, seed: int) -> Path:
    """A name after the prompt and the seed that no file has yet."""
    slug = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40] or "picture"
    path = Path(f"{slug}-{seed}.png")
    count = 1
    while path.exists():
        count += 1
        path = Path(f"{slug}-{seed}-{count}.png")
    return path


def _load(arguments: argparse.Namespace) -> Pipeline:
    pipeline = load(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        prediction_type=arguments.prediction,
        allow_pickle=arguments.allow_pickle,
        loras=arguments.lora or (),
        decoder=arguments.decoder,
        compiled=arguments.compile,
        offload=arguments.offload,
    )
    print(pipeline.describe(), file=sys.stderr)
    if pipeline.report.dropped:
        count, name = len(pipeline.report.dropped), arguments.model
        print(
            f"{count} tensors not needed and left out (python -m stablediff models {name} lists them)", file=sys.stderr
        )
    return pipeline


def _draw(pipeline: Pipeline, request: Request) -> tuple[Result | None, StableDiffError | None]:
    """Draws with a progress bar. -> what was finished, with the notes that were not told before, and what went wrong.

    Ctrl+C (or a polite kill, or a closed terminal) stops within a step; a second one breaks off.
    """
    interrupted, told = False, 0
    result: Result | None = None

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    signals = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    former = {number: signal.signal(number, stop) for number in signals}
    try:
        with tqdm(unit="step", leave=False, disable=None, bar_format=_BAR) as bar:
            speed = Speed(pipeline)
            if request.time_budget_s is not None and not speed.times:
                bar.write("measuring how fast this machine is, once", file=sys.stderr)
            for event in generate(pipeline, request, should_stop=lambda: interrupted, speed=speed):
                if isinstance(event, Update):
                    if event.request is not None and event.memory is not None:
                        told = len(event.notes)  # said now, and not once more at the end
                        for note in event.notes:
                            bar.write(f"note: {note}{_where_known(note, pipeline)}", file=sys.stderr)
                        estimate = _estimate(event.request, event.seconds_left, event.memory)
                        bar.write(estimate + _unusual(event.request, pipeline), file=sys.stderr)
                    bar.total = event.total
                    bar.set_description(event.stage, refresh=False)
                    bar.set_postfix_str(_left(event.seconds_left), refresh=False)
                    bar.update(event.step - bar.n)
                else:
                    result = replace(event, notes=event.notes[told:])
    except StableDiffError as error:
        return result, error
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return result, None


def _where_known(note: str, pipeline: Pipeline) -> str:
    """Behind a note of words that a small model has not learnt: what shows those that it has."""
    if not note.startswith(NOT_LEARNT) or not pipeline.things("en"):
        return ""
    return f" (python -m stablediff models {pipeline.name} lists what it can draw)"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{_about(seconds)} left"


def _estimate(request: ResolvedRequest, seconds: float | None, memory: float) -> str:
    """What will be drawn, and what it will take."""
    low, high = request.guidance_interval or (0.0, 0.0)
    levels = f"between {low:g} and {high:g}" if high < math.inf else f"above {low:g}"
    shortcuts = {
        f"guidance {levels}": request.guidance_interval is not None,
        f"deep layers at one call of {request.cache_interval}": request.cache_interval > 1,
        f"{request.merged_tokens:g} of the tokens merged": request.merged_tokens > 0,
    }
    what = f"{request.width}x{request.height}, {request.num_steps} steps of {request.sampler}"
    what = ", ".join([what, *(name for name, taken in shortcuts.items() if taken)])
    needed = f"about {memory / 1e9:.1f} GB of memory are needed"
    if seconds is None:
        return f"{what}: {needed}; the time is known from the second picture on"
    return f"{what}: {_about(seconds)} and {needed}"


def _unusual(request: ResolvedRequest, pipeline: Pipeline) -> str:
    """Behind the estimate of a size that is far from what the model has seen."""
    usual = pipeline.config.defaults
    wide, high = request.width / usual.width, request.height / usual.height
    if min(wide, high) >= _SMALL and max(wide, high) <= _LARGE:
        return ""
    return f"; the model was made for {usual.width}x{usual.height}, and this size may come out badly"


def _about(seconds: float) -> str:
    return f"about {seconds:.{0 if seconds >= 10 else 1}f} s"
