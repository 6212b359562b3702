"""The command line: `python -m stablediff generate "a red apple" --out apple.png`."""

import argparse
import io
import math
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tqdm import tqdm

from stablediff import command
from stablediff.checkpoints.locate import BUNDLED, DEFAULT_MODEL
from stablediff.config import QUALITIES
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import SPACINGS
from stablediff.errors import RequestError, StableDiffError
from stablediff.generate import Result, Update, generate
from stablediff.images import open_image, read_parameters, save_png
from stablediff.inventory import show_models
from stablediff.pace.speed import Speed
from stablediff.pipeline import Pipeline, load
from stablediff.recipe import loras as recipe_loras
from stablediff.recipe import parse, to_request
from stablediff.request import Request, parse_size
from stablediff.version import __version__

# Without the time that is left by the steps' mean: `generate` knows better.
_BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def _one_line(message: str) -> str:
    """What may be printed of a message that quotes strangers: one line, no control characters, no novel."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    return line if len(line) <= 600 else f"{line[:400]} … {line[-180:]}"


class _Parser(argparse.ArgumentParser):
    """One line for the user, exit code 2, and no usage text in the way."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"stablediff: {' '.join(message.split())} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one sub-command. -> 0 done, 2 something that the user can put right, 130 interrupted."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries talk to programmers
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may have letters that the terminal lacks
    try:
        try:
            argv = sys.argv[1:] if argv is None else argv
            parser = _parser(asked=argv[0] if argv else "")
            arguments = parser.parse_args(argv)
            for name, value in vars(arguments).items():
                if isinstance(value, list) and (not value or [] in value):  # "--name=--" slips through
                    parser.error(f"argument --{name.replace('_', '-')}: expected one argument")
            return int(arguments.run(arguments))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here and not when Python exits, where nobody could catch a closed pipe
    except StableDiffError as error:
        print(f"stablediff: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stablediff: interrupted", file=sys.stderr)
        return 130
    except OSError as error:  # most likely of our output: its reader has gone, or it goes to a full disk
        if sys.stdout is not None:  # drops what is still in its buffer
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"stablediff: {error}: check the disk, and whether this file may be used", file=sys.stderr)
        return 2


def _parser(asked: str = "") -> argparse.ArgumentParser:
    """With the stages of training, or the reports, only where they are asked for: others need not wait for imports."""
    parser = _Parser(prog="python -m stablediff", description="Stable Diffusion, written from scratch.")
    parser.add_argument("--version", action="version", version=f"stablediff {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    draw = commands.add_parser("generate", help="draw pictures from a prompt")
    draw.set_defaults(run=_generate)
    draw.add_argument(
        "prompt",
        nargs="?",
        help='what to draw, as "red apple, flat style"; (word:1.3) and [word] weigh words; or a whole "/gen …" command',
    )
    draw.add_argument("--out", type=Path, metavar="FILE.png", help="where to (default: named after the prompt)")
    draw.add_argument("--negative", "--no", default=None, metavar="TEXT", help="what to steer away from")
    draw.add_argument("--steps", type=_whole, metavar="N", help="denoising steps: more are slower and finer")
    draw.add_argument(
        "--quality", metavar="NAME", help=f"{', '.join(QUALITIES)}: sets steps and sampler for this model"
    )
    draw.add_argument(
        "--seconds", type=_number, metavar="X", help="how long all of it may take; sets steps, sampler, size"
    )
    draw.add_argument("--guidance", type=_number, metavar="X", help="how closely to follow the prompt; 1 is off")
    draw.add_argument("--guidance-rescale", type=_number, metavar="X", help="0 to 1, against overexposure")
    draw.add_argument(
        "--guidance-interval",
        type=_interval,
        metavar="LOW-HIGH",
        help="guidance only at these noise levels (sigma, from about 15 down to 0; 1- has no end)",
    )
    draw.add_argument("--cache-interval", type=_whole, metavar="N", help="at N-1 of N steps, reuse the deep layers")
    draw.add_argument("--merge-tokens", type=_number, metavar="X", help="0 to 0.75, this share of like cells as one")
    draw.add_argument("--sampler", metavar="NAME", help=", ".join(SAMPLERS))
    draw.add_argument("--spacing", metavar="NAME", help=f"which noise levels to visit: {', '.join(SPACINGS)}")
    draw.add_argument("--eta", type=_number, metavar="X", help="fresh noise in ddim and euler_ancestral, 0 to 1")
    draw.add_argument("--seed", type=_whole, metavar="N", help="the same seed draws the same picture")
    draw.add_argument("--size", type=_size, metavar="WxH", help="in pixels, as 512x512")
    draw.add_argument("--num-images", "--pictures", type=_whole, metavar="N", help="pictures, with the seeds N, N+1, …")
    draw.add_argument("--init", type=Path, metavar="FILE", help="a picture to start from")
    draw.add_argument("--mask", type=Path, metavar="FILE", help="draw only where this picture is white")
    draw.add_argument("--strength", type=_number, metavar="X", help="how much to change --init, up to 1")
    draw.add_argument(
        "--lora",
        action="append",
        type=_lora,
        metavar="FILE[:SCALE]",
        help="merge this LoRA into the model (a file, folder or hub id), as detail.safetensors:0.8; can be repeated",
    )
    draw.add_argument("--decoder", metavar="FILE", help="a tiny decoder (TAESD's, or one like it): fast, a little soft")
    draw.add_argument("--like", type=Path, metavar="FILE.png", help="take all settings from this picture's recipe")
    _add_model_options(draw)

    models = commands.add_parser("models", help="list the models on this disk, or describe one")
    models.set_defaults(run=show_models)
    models.add_argument("model", nargs="?", help="describe this one: its kind, sizes, and what was not read")
    models.add_argument("--allow-pickle", action="store_true", help=argparse.SUPPRESS)

    train = commands.add_parser("train", help="make training data, and train a model of your own")
    if asked == "train":
        from stablediff.training.command import add_stages

        add_stages(train)
    evaluate = commands.add_parser("evaluate", help="measure how good a model's pictures are, and against what")
    if asked == "evaluate":
        from stablediff.evaluation.command import add_reports

        add_reports(evaluate)
    bench = commands.add_parser("bench", help="measure the speed beside other programs (make bench)")
    if asked == "bench":
        from stablediff.bench.command import add_bench

        add_bench(bench)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(BUNDLED)
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=f"{names}, a .safetensors file, a diffusers folder, or owner/name on the hub",
    )
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--dtype", help="auto, float32, bfloat16, float16 or int8")
    parser.add_argument("--compile", action="store_true", help="faster steps, after a first one that takes minutes")
    parser.add_argument("--offload", action="store_true", help="parts are on the GPU only while they work")
    parser.add_argument(
        "--prediction",
        choices=["epsilon", "v_prediction", "sample"],
        help="what the model predicts, if it is not as detected",
    )
    parser.add_argument("--allow-pickle", action="store_true", help="read .ckpt files (tensors only, never code)")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number (or has too many digits)") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from error


def _interval(text: str) -> tuple[float, float]:
    """ "0.28-5.42"; "0.28-" has no end."""
    found = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)-(.*)", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no interval: write two noise levels, as 0.28-5.42")
    low, high = found.groups()
    return _number(low), _number(high) if high else math.inf


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _lora(text: str) -> tuple[str, float]:
    """FILE or FILE:SCALE; a colon with no number behind it is a part of the name."""
    file, colon, scale = text.rpartition(":")
    try:
        return (file, float(scale)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0


def _generate(arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    for index in range(request.num_images):  # said before the work, not after it
        _check_out(_numbered(arguments.out or Path("picture.png"), index, request.num_images))
    pipeline = _load(arguments)
    result, failure = _draw(pipeline, request)
    if result is not None:
        failure = _save(result, arguments.out) or failure
    if failure is not None:
        raise failure
    return 130 if result is not None and result.stopped else 0


def _save(result: Result, out: Path | None) -> StableDiffError | None:
    """Writes all pictures that can be written. -> what went wrong with another."""
    failure: StableDiffError | None = None
    count = result.request.num_images
    for index, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        path = _numbered(out, index, count) if out else _free_name(result.request.prompt, seed)
        try:
            save_png(image, path, result.parameters(index))
            print(path)
        except OSError as error:
            failure = StableDiffError(
                f"cannot write {path}: {error.strerror or error}. Free some space or choose another --out; "
                f"--seed {seed} draws the same picture again"
            )
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    if result.stopped:
        print(f"stopped: {len(result.images)} of {count} pictures were finished", file=sys.stderr)
    if failure is None:
        seconds = ", ".join(f"{stage} {s:.1f} s" for stage, s in result.seconds.items())
        print(f"{seconds} · seed {result.request.seed}", file=sys.stderr)
    return failure


def _request(arguments: argparse.Namespace) -> Request:
    """What was typed, over the recipe of `--like` if there is one."""
    options: dict[str, object] = {}
    if arguments.like is not None:
        if not os.path.exists(arguments.like):  # noqa: PTH110 (names that are too long do not exist either)
            raise RequestError(f"there is no picture {arguments.like}: check its name")
        recipe = read_parameters(arguments.like)
        if recipe is None:
            raise RequestError(f"{arguments.like} holds no recipe: only a PNG that was saved with one can be repeated")
        options = dict(to_request(recipe).__dict__)
        if "Denoising strength" in parse(recipe) and arguments.init is None:
            raise RequestError(f"{arguments.like} was drawn from another picture: give that one with --init")
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
    if arguments.quality is not None or arguments.seconds is not None:
        for name in ("num_steps", "sampler", "spacing"):  # these are what is chosen anew
            options.pop(name, None)
    request = Request(**{**options, **{name: value for name, value in typed.items() if value is not None}})
    if arguments.strength is not None and request.init_image is None:
        raise RequestError("--strength is for pictures that start from another: give that one with --init")
    return request


def _check_out(out: Path) -> None:
    """Says before the work, not after it, that the picture could not be kept."""
    if out.suffix.lower() != ".png":
        raise RequestError(f"--out {out} does not end in .png, the format that keeps the picture's recipe: rename it")
    try:
        if out.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent) as trial:
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
    """Draws with a progress bar. -> what was finished, and what went wrong.

    Ctrl+C (or a polite kill, or a closed terminal) stops within a step; a second one breaks off.
    """
    interrupted = False
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
            for event in generate(pipeline, request, should_stop=lambda: interrupted, speed=Speed(pipeline)):
                if isinstance(event, Update):
                    if event.memory is not None:
                        bar.write(_estimate(event.seconds_left, event.memory), file=sys.stderr)
                    bar.total = event.total
                    bar.set_description(event.stage, refresh=False)
                    bar.set_postfix_str(_left(event.seconds_left), refresh=False)
                    bar.update(event.step - bar.n)
                else:
                    result = event
    except StableDiffError as error:
        return result, error
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return result, None


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{_about(seconds)} left"


def _estimate(seconds: float | None, memory: float) -> str:
    needed = f"about {memory / 1e9:.1f} GB of memory are needed"
    later = f"{needed}; the time is known from the second picture on"
    return later if seconds is None else f"{_about(seconds)} and {needed}"


def _about(seconds: float) -> str:
    return f"about {seconds:.{0 if seconds >= 10 else 1}f} s"
