"""Report 4: whether pictures are drawn or remembered. The nearest training pictures are shown beside each."""

from pathlib import Path

import torch
from PIL import Image

from stablediff.errors import EvaluationError
from stablediff.evaluation.bootstrap import grouped_interval
from stablediff.evaluation.judge.verdict import judge_pictures
from stablediff.evaluation.neighbours import memorisation_threshold, nearest
from stablediff.evaluation.setting import Setting, as_figures, draw_all, percent, progress, write_section
from stablediff.evaluation.sheets import labelled_sheet, save_sheet
from stablediff.training.data.icons import Icon
from stablediff.training.data.scenes import ALONE, Item, Scene, render_scene

_SHOWN, _NEIGHBOURS = 8, 4
_ALONE = ("single object", "style")  # tasks whose pictures look like training pictures, if anything does


def report_memorisation(setting: Setting, false_positives: float = 0.05) -> Path:
    """Writes memorisation.json, its section and its grid. -> the report. Raises EvaluationError."""
    world, size = setting.world, 128
    known, styles = set(world.things), set(world.styles)
    icons = [icon for icon in world.icons.records if icon.thing in known and icon.style in styles]
    new = [icon for icon in icons if world.split.holds_out_style(icon.thing, icon.style)]
    learnt = [icon for icon in icons if not world.split.holds_out_style(icon.thing, icon.style)]
    check_memorisation(setting, false_positives)
    prompts = list({prompt.text: prompt for prompt in setting.prompts if prompt.task in _ALONE}.values())

    def render(icon: Icon) -> Image.Image:
        scene = Scene(icon.style, (Item(icon.thing, 0.5, 0.5, ALONE),), "single")
        return Image.fromarray(render_scene(scene, world.icons, size))

    _, learnt_features = judge_pictures(setting.judge, (render(i) for i in progress(learnt, "training pictures")))
    _, new_features = judge_pictures(setting.judge, (render(i) for i in progress(new, "held-out pictures")))
    threshold = memorisation_threshold(learnt_features, new_features, false_positives)
    drawn, seconds = draw_all(setting.artist, [prompt.text for prompt in prompts], setting.seeds)
    _, features = judge_pictures(setting.judge, (one.open() for one in drawn))
    found = nearest(features, learnt_features, min(_NEIGHBOURS, len(learnt)))
    by_heart = found.distance[:, 0] < threshold
    each = len(setting.seeds)
    share = grouped_interval(by_heart.double(), torch.arange(len(drawn)) // each)
    seen = torch.tensor([prompts[i // each].level == 0 for i in range(len(drawn))])
    nearest_first = found.distance[:, 0].argsort()[:_SHOWN].tolist()
    rows = [
        (
            f"{prompts[i // each].text}\ndistance {found.distance[i, 0].item():.2f}",
            [drawn[i].open(), *(render(learnt[j]) for j in found.index[i].tolist())],
        )
        for i in nearest_first
    ]
    lines = [
        f"{percent(share)} of {len(drawn)} pictures are nearer to a training picture than {threshold:.2f}, the "
        f"distance below which only {100 * false_positives:.0f} % of the {len(new)} held-out real pictures are "
        f"({len(learnt)} training pictures; distances between the judge's features). A model that draws its training "
        "pictures well on prompts that it has seen is nearer than that by right: for prompts of new combinations, "
        f"the share is {_share(by_heart, ~seen)}, for seen ones {_share(by_heart, seen)}.",
        "",
        "The nearest of all: what was drawn, and then the training pictures nearest to it.",
        "",
        save_sheet(labelled_sheet(rows), setting.out, "memorisation"),
    ]
    figures = {
        "threshold": threshold,
        "false_positives": false_positives,
        "pictures": len(drawn),
        "by_heart": as_figures(share),
        "seconds": round(seconds, 1),
    }
    return write_section(setting.out, "memorisation", "Does it draw, or remember?", lines, figures)


def check_memorisation(setting: Setting, false_positives: float = 0.05) -> None:
    """Raises EvaluationError before anything is drawn."""
    world = setting.world
    known, styles = set(world.things), set(world.styles)
    new = sum(
        icon.thing in known and icon.style in styles and world.split.holds_out_style(icon.thing, icon.style)
        for icon in world.icons.records
    )
    if new < 1 / false_positives - 1:
        raise EvaluationError(
            f"of these things and styles {new} pictures were held out from training, and to tell what is remembered "
            f"{1 / false_positives - 1:.0f} are needed: name more with --things and --styles"
        )
    if not any(prompt.task in _ALONE for prompt in setting.prompts):
        raise EvaluationError(f"none of the prompts is of {' or '.join(_ALONE)}: leave --tasks away")


def _share(by_heart: torch.Tensor, chosen: torch.Tensor) -> str:
    return f"{100 * by_heart[chosen].double().mean().item():.0f} %" if chosen.any() else "unknown"
