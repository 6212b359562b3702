"""`python -m stablediff evaluate …`: one sub-command a report."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stablediff import typed
from stablediff.checkpoints.clip_model import load_clip
from stablediff.checkpoints.locate import BUNDLED, DEFAULT_MODEL, locate_clip
from stablediff.errors import EvaluationError
from stablediff.evaluation.artists import Artist, ModelArtist
from stablediff.evaluation.elsewhere import FolderArtist
from stablediff.evaluation.features import Embed
from stablediff.evaluation.inception import inception_features
from stablediff.evaluation.judge.command import add_judge
from stablediff.evaluation.judge.files import BUNDLED_JUDGE, load_judge
from stablediff.evaluation.prompts import TASKS, make_prompts
from stablediff.evaluation.reports.cost import Grid, report_cost, some_of_each
from stablediff.evaluation.reports.distribution import halves, report_distribution
from stablediff.evaluation.reports.folder import report_folder
from stablediff.evaluation.reports.memorisation import check_memorisation, report_memorisation
from stablediff.evaluation.reports.others import check_drawn, report_others
from stablediff.evaluation.reports.prompts import report_prompts
from stablediff.evaluation.reports.text import report_text
from stablediff.evaluation.reports.things import report_things
from stablediff.evaluation.setting import Setting, known_world, writing
from stablediff.pipeline import Pipeline, load
from stablediff.training.command import Commands
from stablediff.training.data.command import DEFAULT_FOLDER
from stablediff.training.data.icons import Icons
from stablediff.training.data.split import read_split

Report = Callable[[Setting, argparse.Namespace], Path]


def add_reports(parser: argparse.ArgumentParser) -> None:
    reports = parser.add_subparsers(required=True, metavar="REPORT")
    add_judge(reports)
    _add(reports, "prompts", "does it draw what it is asked for, task by task", _prompts)
    limited = _add(
        reports, "distribution", "how far its pictures are from real ones as a set", _distribution, asks=False
    )
    _add(reports, "memorisation", "does it draw, or remember", _memorisation)
    listed = _add(reports, "things", "which things does it draw, of all that there are", _things, asks=False)
    listed.add_argument("--per-thing", type=int, default=3, metavar="N", help="pictures of each thing (default: 3)")
    versus = _add(reports, "others", "the same prompts by other models and by looking up", _others)
    scored = _add(reports, "text", "do pictures and captions belong together, by any CLIP", _text)
    scored.add_argument("--clip", required=True, metavar="CLIP", help="both towers: a folder, or owner/name on the hub")
    _add_folder(reports)
    grid = _add(reports, "cost", "what steps, samplers and guidance buy, in seconds", _cost)
    everything = _add(reports, "all", "prompts, distribution, memorisation, others and cost", _all)
    for one in (limited, everything):
        one.add_argument("--limit", type=int, default=400, metavar="N", help="pictures a side of `distribution`")
        _add_inception(one)
    for one in (versus, everything):
        one.add_argument("--other", action="append", metavar="MODEL", help="compare with this model; can be repeated")
        one.add_argument(
            "--drawn",
            action="append",
            type=typed.folder,
            metavar="FOLDER",
            help="compare with what another program drew",
        )
    for one in (grid, everything):
        _add_grid(one)


def _add(reports: Commands, name: str, help_: str, report: Report, *, asks: bool = True) -> argparse.ArgumentParser:
    """Reports that ask none of the tasks' prompts take their options and do not offer them: commands can be alike."""
    parser: argparse.ArgumentParser = reports.add_parser(name, help=help_)
    parser.set_defaults(run=lambda arguments: _run(arguments, report))
    _add_model(parser)
    parser.add_argument("--data", type=typed.folder, default=DEFAULT_FOLDER, help="icons made by `train data`")
    parser.add_argument(
        "--judge", type=typed.folder, default=BUNDLED_JUDGE, help="the folder of one that you have trained"
    )
    parser.add_argument("--things", type=typed.file, metavar="FILE", help="what the model knows, a thing a line")
    parser.add_argument("--styles", type=_names, default=(), metavar="A,B", help="the styles that it knows")
    helps = {
        "tasks": f"some of: {', '.join(TASKS)}",
        "per_task": "prompts of each task (default: 70)",
        "images": "pictures of each prompt (default: 4)",
    }
    shown = helps if asks else dict.fromkeys(helps, argparse.SUPPRESS)
    parser.add_argument("--tasks", type=_names, default=(), metavar="A,B", help=shown["tasks"])
    parser.add_argument("--per-task", type=int, default=70, metavar="N", help=shown["per_task"])
    parser.add_argument("--images", type=int, default=4, metavar="N", help=shown["images"])
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"{', '.join(BUNDLED)}, a file, a folder, or owner/name on the hub"
    )
    parser.add_argument("--out", type=typed.folder, help="where the report goes (default: runs/evaluation/MODEL)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--dtype", help="auto, float32, bfloat16, float16 or int8")


def _add_folder(reports: Commands) -> None:
    parser = reports.add_parser("folder", help="any model against your own folder of pictures and captions")
    parser.set_defaults(run=_folder)
    _add_model(parser)
    parser.add_argument(
        "--pictures", type=typed.folder, required=True, metavar="FOLDER", help="with a .txt beside each"
    )
    parser.add_argument("--clip", metavar="CLIP", help="for scores of text too: a folder, or owner/name on the hub")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="take at most so many pictures")
    _add_inception(parser)


def _add_inception(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inception", action="store_true", help="FID's own features too, by the package pytorch-fid")


def _add_grid(parser: argparse.ArgumentParser) -> None:
    usual = Grid()
    parser.add_argument("--steps", type=_numbers(int), default=usual.steps, metavar="6,25", help="of `cost`")
    parser.add_argument("--samplers", type=_names, default=usual.samplers, metavar="A,B", help="of `cost`")
    parser.add_argument("--guidance", type=_numbers(float), default=usual.guidance, metavar="1,4", help="of `cost`")
    parser.add_argument("--cost-per-task", type=int, default=3, metavar="N", help="prompts of each task in `cost`")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} names nothing: write names with commas between them")
    return names


def _numbers(kind: type[int] | type[float]) -> Callable[[str], tuple[float, ...]]:
    def read(text: str) -> tuple[float, ...]:
        try:
            return tuple(kind(part) for part in _names(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a list of numbers, such as 6,25") from error

    return read


def _run(arguments: argparse.Namespace, report: Report) -> int:
    print(report(_setting(arguments), arguments))
    return 0


def _setting(arguments: argparse.Namespace) -> Setting:
    """Everything is looked at before the first picture is drawn."""
    _check_numbers(arguments)
    judge = load_judge(arguments.judge)
    icons, split = Icons(arguments.data), read_split(arguments.data / "split.json")
    pipeline = load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    judge.to(pipeline.device)
    world = known_world(pipeline, judge, icons, split, arguments.things, arguments.styles)
    prompts = make_prompts(world, arguments.per_task, tasks=arguments.tasks)
    with writing(_out(arguments, pipeline)):
        pass
    return Setting(pipeline, judge, world, prompts, range(arguments.images), _out(arguments, pipeline))


def _check_numbers(arguments: argparse.Namespace) -> None:
    """Raises EvaluationError."""
    limits = {"images": 64, "per_thing": 64, "per_task": 1000, "cost_per_task": 1000, "limit": 100_000}
    for name, most in limits.items():
        if not 1 <= getattr(arguments, name, 1) <= most:
            raise EvaluationError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: choose 1 to {most}")


def _out(arguments: argparse.Namespace, pipeline: Pipeline) -> Path:
    return Path(arguments.out or Path("runs/evaluation") / pipeline.name.replace("/", "-"))


def _prompts(setting: Setting, _: argparse.Namespace) -> Path:
    return report_prompts(setting)


def _distribution(setting: Setting, arguments: argparse.Namespace) -> Path:
    return report_distribution(setting, arguments.limit, _inception(arguments, setting.pipeline))


def _inception(arguments: argparse.Namespace, pipeline: Pipeline) -> Embed | None:
    return inception_features(pipeline.device) if arguments.inception else None


def _memorisation(setting: Setting, _: argparse.Namespace) -> Path:
    return report_memorisation(setting)


def _things(setting: Setting, arguments: argparse.Namespace) -> Path:
    """All that the judge knows, whatever the model is said to know."""
    if arguments.things is None:
        setting.world = replace(setting.world, things=setting.judge.config.things)
    return report_things(setting, arguments.per_thing)


def _others(setting: Setting, arguments: argparse.Namespace) -> Path:
    return report_others(setting, _models(setting, arguments))


def _models(setting: Setting, arguments: argparse.Namespace) -> list[Artist]:
    """Those to compare with. Raises EvaluationError."""
    pictures = setting.out / "pictures"
    models: list[Artist] = [FolderArtist(folder) for folder in arguments.drawn or []]
    for name in arguments.other or []:
        pipeline = load(name, device=arguments.device, dtype=arguments.dtype)
        models.append(ModelArtist(pipeline, pictures, name=str(name)))
    names = [setting.artist.name, *(artist.name for artist in models)]
    if len(set(names)) < len(names):
        raise EvaluationError(f"two of {', '.join(names)} have the same name: give other paths, or rename a folder")
    return models


def _text(setting: Setting, arguments: argparse.Namespace) -> Path:
    place = locate_clip(arguments.clip)
    return report_text(setting, load_clip(place.path, setting.pipeline.device), place.name)


def _folder(arguments: argparse.Namespace) -> int:
    _check_numbers(arguments)
    pipeline = load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    place = locate_clip(arguments.clip) if arguments.clip else None
    clip = load_clip(place.path, pipeline.device) if place else None
    name = place.name if place else ""
    inception = _inception(arguments, pipeline)
    out = _out(arguments, pipeline)
    print(report_folder(pipeline, arguments.pictures, out, clip, name, arguments.limit, inception))
    return 0


def _cost(setting: Setting, arguments: argparse.Namespace) -> Path:
    return report_cost(setting, _grid(arguments), arguments.cost_per_task)


def _grid(arguments: argparse.Namespace) -> Grid:
    return Grid(arguments.steps, arguments.samplers, arguments.guidance)


def _all(setting: Setting, arguments: argparse.Namespace) -> Path:
    """What the later ones would refuse is refused before the first."""
    halves(setting, arguments.limit)
    _grid(arguments).settings()
    some_of_each(setting.prompts, arguments.cost_per_task)
    inception = _inception(arguments, setting.pipeline)
    models = _models(setting, arguments)
    check_drawn(setting, models)
    report_prompts(setting)
    report_distribution(setting, arguments.limit, inception)
    try:
        check_memorisation(setting)
        report_memorisation(setting)
    except EvaluationError as error:
        print(f"stablediff: the report on memorisation is left out: {error}", file=sys.stderr)
    report_others(setting, models)
    return _cost(setting, arguments)
