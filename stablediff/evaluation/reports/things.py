"""Which things it draws, each of them alone; what it draws reliably is written down, a thing a line."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from stablediff.evaluation.bootstrap import grouped_interval
from stablediff.evaluation.phrasing import phrase
from stablediff.evaluation.prompts import Prompt, World
from stablediff.evaluation.reports.prompts import Answers, answer
from stablediff.evaluation.scoring import ceiling
from stablediff.evaluation.setting import Setting, as_figures, percent, table, write_section, writing
from stablediff.evaluation.sheets import labelled_sheet, save_sheet
from stablediff.files import write_whole
from stablediff.training.data.icons import Icon
from stablediff.training.data.scenes import ALONE, Item, Scene

DRAWN = "things.txt"
_SHOWN = 3  # things of each group on the sheet
_SEED = 1000  # of no other report: what chose the things must not be what they are examined with


def report_things(setting: Setting, each: int) -> Path:
    """Asks for all things of the world, in up to `each` styles.

    Writes things.json, its section, its sheet, and things.txt with the things that most pictures of theirs show.
    -> the report. Raises EvaluationError.
    """
    prompts = ask_for_each(setting.world, each)
    real = ceiling(setting.judge, prompts, setting.world.icons)
    known = sum(real) / len(real)
    answers = answer(setting.artist, setting.judge, prompts, range(_SEED, _SEED + 1))
    tries: dict[str, list[bool]] = defaultdict(list)
    for prompt, good in zip(prompts, answers.right.bool().tolist(), strict=True):
        tries[_thing(prompt)].append(good)
    number_of = {thing: i for i, thing in enumerate(tries)}
    drawn = [thing for thing, goods in tries.items() if _mostly(goods)]
    with writing(setting.out):
        write_whole(setting.out / DRAWN, "".join(f"{thing}\n" for thing in drawn).encode())
    share = grouped_interval(answers.right, torch.tensor([number_of[_thing(prompt)] for prompt in prompts]))
    group_of = {icon.thing: icon.group for icon in setting.world.icons.records}
    groups: dict[str, list[str]] = defaultdict(list)
    for thing in tries:
        groups[group_of[thing]].append(thing)
    lines = [
        f"**{len(drawn)} of {len(tries)} things** are drawn so that the judge finds them in most of their pictures, "
        f"one in each of up to {each} styles; `{DRAWN}` lists them. Of all {len(prompts)} pictures {percent(share)} "
        f"show the thing that was asked for; of real pictures of the same things {100 * known:.0f} % do, by the judge.",
        "",
        *table(
            ["group", "things", "drawn", "pictures right"],
            [
                [group, len(things), sum(_mostly(tries[thing]) for thing in things), _percent(tries, things)]
                for group, things in groups.items()
            ],
        ),
        "",
        "Some of each group, and how many of their pictures are right.",
        "",
        save_sheet(_sheet(prompts, answers, tries, groups), setting.out, "things"),
    ]
    figures = {
        "model": setting.pipeline.name,
        "things": len(tries),
        "drawn": len(drawn),
        "pictures": len(prompts),
        "right": as_figures(share),
        "ceiling": known,
        "seconds": round(answers.seconds, 1),
    }
    return write_section(setting.out, "things", "Which things does it draw?", lines, figures)


def ask_for_each(world: World, each: int) -> list[Prompt]:
    """A prompt for each thing in up to `each` of its styles, those first in which training showed it."""
    icons: dict[str, list[Icon]] = defaultdict(list)
    for icon in world.icons.records:
        if icon.style in world.styles:
            icons[icon.thing].append(icon)
    prompts = []
    for thing in world.things:
        chosen = sorted(icons[thing], key=lambda icon: (_held_out(world, icon), _any(thing, icon.style)))[:each]
        for icon in chosen:
            scene = Scene(icon.style, (Item(thing, 0.5, 0.5, ALONE),), "single")
            prompts.append(Prompt("single object", int(_held_out(world, icon)), phrase(scene), "", scene))
    return prompts


def _held_out(world: World, icon: Icon) -> bool:
    return world.split.holds_out_style(icon.thing, icon.style)


def _any(thing: str, style: str) -> bytes:
    """An order that is not that of the styles, and always the same."""
    return hashlib.blake2b(f"{thing}\0{style}".encode()).digest()


def _thing(prompt: Prompt) -> str:
    return prompt.scene.items[0].thing


def _mostly(goods: Sequence[bool]) -> bool:
    return 2 * sum(goods) > len(goods)


def _percent(tries: Mapping[str, Sequence[bool]], things: Sequence[str]) -> str:
    goods = [good for thing in things for good in tries[thing]]
    return f"{100 * sum(goods) / len(goods):.0f} %"


def _sheet(
    prompts: Sequence[Prompt],
    answers: Answers,
    tries: Mapping[str, Sequence[bool]],
    groups: Mapping[str, Sequence[str]],
) -> Image.Image:
    """Things from all over each group."""
    pictures: dict[str, list[Image.Image]] = defaultdict(list)
    shown = {thing for things in groups.values() for thing in things[:: -(-len(things) // _SHOWN)]}
    for prompt, one in zip(prompts, answers.drawn, strict=True):
        if _thing(prompt) in shown:
            pictures[_thing(prompt)].append(one.open())
    return labelled_sheet([(f"{t}\n{sum(tries[t])} of {len(some)} right", some) for t, some in pictures.items()])
