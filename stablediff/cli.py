"""The command line: `python -m stablediff generate "a red apple" --out apple.png`."""

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from stablediff import interrupt, typed
from stablediff.checkpoints.locate import BUNDLED, DEFAULT_MODEL
from stablediff.config import QUALITIES
from stablediff.diffusion.samplers import SAMPLERS
from stablediff.diffusion.spacing import SPACINGS
from stablediff.drawing import draw_pictures
from stablediff.errors import StableDiffError, one_line
from stablediff.inventory import show_models
from stablediff.version import __version__


class _Parser(argparse.ArgumentParser):
    """One line for the user, exit code 2, and no usage text in the way."""

    command = ""  # which was asked for: it does not complain itself of what it does not know

    def error(self, message: str) -> NoReturn:
        where = f"{self.prog} {self.command}".rstrip()
        self.exit(2, f"stablediff: {one_line(message)} (see {where} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one sub-command. -> 0 done, 2 something that the user can put right, 130 interrupted."""
    interrupt.listen()
    if sys.stderr is None:  # closed by whoever started this and does not want to read it
        sys.stderr = io.StringIO()
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
        _complain(one_line(str(error)))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except OSError as error:  # most likely of our output: its reader has gone, or it goes to a full disk
        if sys.stdout is not None:  # drops what is still in its buffer
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        _complain(one_line(f"{error}: check the disk, and whether this file may be used"))
        return 2


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # there is nobody whom it could be told
        print(f"stablediff: {line}", file=sys.stderr, flush=True)


def _parser(asked: str = "") -> argparse.ArgumentParser:
    """With the stages of training, or the reports, only where they are asked for: others need not wait for imports."""
    parser = _Parser(prog="python -m stablediff", description="Stable Diffusion, written from scratch.")
    parser.add_argument("--version", action="version", version=f"stablediff {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    draw = commands.add_parser("generate", help="draw pictures from a prompt")
    draw.set_defaults(run=draw_pictures)
    draw.add_argument(
        "prompt",
        nargs="?",
        help='what to draw, as "red apple, flat style"; (word:1.3) and [word] weigh words; or a whole "/gen …" command',
    )
    draw.add_argument("--out", type=typed.file, metavar="FILE.png", help="where to (default: named after the prompt)")
    draw.add_argument("--negative", "--no", default=None, metavar="TEXT", help="what to steer away from")
    draw.add_argument("--steps", type=typed.whole, metavar="N", help="denoising steps: more are slower and finer")
    draw.add_argument(
        "--quality", metavar="NAME", help=f"{', '.join(QUALITIES)}: sets steps, sampler and guidance for this model"
    )
    draw.add_argument(
        "--seconds", type=typed.number, metavar="X", help="how long all of it may take; sets steps, sampler, size"
    )
    draw.add_argument("--guidance", type=typed.number, metavar="X", help="how closely to follow the prompt; 1 is off")
    draw.add_argument("--guidance-rescale", type=typed.number, metavar="X", help="0 to 1, against overexposure")
    draw.add_argument(
        "--guidance-interval",
        type=typed.interval,
        metavar="LOW-HIGH",
        help="guidance only at these noise levels (the model's own: of SD about 15 down to 0; 1- has no end)",
    )
    draw.add_argument(
        "--cache-interval", type=typed.whole, metavar="N", help="at N-1 of N steps, reuse the deep layers"
    )
    draw.add_argument(
        "--merge-tokens", type=typed.number, metavar="X", help="0 to 0.75, this share of like cells as one"
    )
    draw.add_argument("--sampler", metavar="NAME", help=", ".join(SAMPLERS))
    draw.add_argument("--spacing", metavar="NAME", help=f"which noise levels to visit: {', '.join(SPACINGS)}")
    draw.add_argument("--eta", type=typed.number, metavar="X", help="fresh noise in ddim and euler_ancestral, 0 to 1")
    draw.add_argument("--seed", type=typed.whole, metavar="N", help="the same seed draws the same picture")
    draw.add_argument("--size", type=typed.size, metavar="WxH", help="in pixels, as 512x512")
    draw.add_argument(
        "--num-images", "--pictures", type=typed.whole, metavar="N", help="so many pictures, each of the next seed"
    )
    draw.add_argument("--init", type=typed.file, metavar="FILE", help="a picture to start from")
    draw.add_argument(
        "--mask", type=typed.file, metavar="FILE", help="draw only where this picture is white, with a soft edge"
    )
    draw.add_argument(
        "--strength",
        type=typed.number,
        metavar="X",
        help="how much to change --init, up to 1 (which --mask has by itself)",
    )
    draw.add_argument(
        "--lora",
        action="append",
        type=typed.lora,
        metavar="FILE[:SCALE]",
        help="merge this LoRA into the model (a file, folder or hub id), as detail.safetensors:0.8; can be repeated",
    )
    draw.add_argument("--decoder", metavar="FILE", help="a tiny decoder (TAESD's, or one like it): fast, a little soft")
    draw.add_argument(
        "--like", type=typed.file, metavar="FILE.png", help="take all settings from this picture's recipe"
    )
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
    parser.command = asked if asked in commands.choices else ""
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
