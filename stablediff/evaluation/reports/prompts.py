"""Report 1: how often a picture shows what its prompt asked for, task by task."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stablediff.errors import EvaluationError
from stablediff.evaluation.artists import Artist, Drawn
from stablediff.evaluation.bootstrap import Interval, grouped_interval
from stablediff.evaluation.judge.network import Judge
from stablediff.evaluation.judge.verdict import judge_pictures
from stablediff.evaluation.prompts import Prompt
from stablediff.evaluation.scoring import ADMITTED, ceiling, is_right, shares_by_task
from stablediff.evaluation.setting import Setting, as_figures, draw_all, percent, table, write_section
from stablediff.evaluation.sheets import labelled_sheet, save_sheet

_REAL = 4  # real composites a prompt


@dataclass(frozen=True, eq=False)
class Answers:
    """One artist's pictures for all prompts, `each` a prompt, and which of them are right (N,) float64.

    `groups` (P,) has a number for each prompt: those of two tasks with the same text have the same pictures.
    """

    drawn: list[Drawn]
    right: Tensor
    groups: Tensor
    seconds: float

    def of(self, chosen: Sequence[int], each: int) -> tuple[Tensor, Tensor]:
        """For the prompts with these numbers: right (M,), and the group of each (M,)."""
        rows = torch.tensor([i * each + copy for i in chosen for copy in range(each)], dtype=torch.int64)
        return self.right[rows], self.groups[rows // each]


def answer(artist: Artist, judge: Judge, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Answers:
    """Draws and judges. Raises EvaluationError if a picture is missing for a prompt."""
    drawn, seconds = draw_all(artist, [prompt.text for prompt in prompts], seeds)
    each = len(seeds)
    if len(drawn) != each * len(prompts):
        raise EvaluationError(
            f"{artist.name} drew {len(drawn)} pictures for {len(prompts)} prompts of {each} seeds: it must draw all"
        )
    verdicts, _ = judge_pictures(judge, (one.open() for one in drawn))
    right = [is_right(prompts[i // each], verdict) for i, verdict in enumerate(verdicts)]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(prompt.text for prompt in prompts))}
    groups = torch.tensor([numbers[prompt.text] for prompt in prompts])
    return Answers(drawn, torch.tensor(right, dtype=torch.float64), groups, seconds)


def admitted_tasks(setting: Setting) -> dict[str, float]:
    """The judge's own score on real composites of the same prompts, by task. Those from 95 % on are admitted."""
    return shares_by_task(setting.prompts, ceiling(setting.judge, setting.prompts, setting.world.icons, _REAL))


def interval_of(answers: Answers, chosen: Sequence[int], each: int) -> Interval:
    return grouped_interval(*answers.of(chosen, each))


def numbers_of(prompts: Sequence[Prompt], tasks: Sequence[str]) -> list[int]:
    return [i for i, prompt in enumerate(prompts) if prompt.task in tasks]


def report_prompts(setting: Setting) -> Path:
    """Writes prompts.json and its section. -> the report."""
    prompts, each = setting.prompts, len(setting.seeds)
    ceilings = admitted_tasks(setting)
    answers = answer(setting.artist, setting.judge, prompts, setting.seeds)
    good = [task for task, share in ceilings.items() if share >= ADMITTED]
    rows: list[list[object]] = []
    by_task: dict[str, Any] = {}
    for task, share in ceilings.items():
        chosen = numbers_of(prompts, [task])
        score = interval_of(answers, chosen, each)
        levels = {level: [i for i in chosen if prompts[i].level == level] for level in (0, 1, 2)}
        by_level = {level: answers.of(some, each)[0].mean().item() for level, some in levels.items() if some}
        admitted = task in good
        rows.append(
            [task, len(chosen), f"{100 * share:.0f} %", percent(score) if admitted else f"({percent(score)})"]
            + [f"{100 * by_level[level]:.0f} %" if level in by_level else "" for level in (0, 1, 2)]
        )
        by_task[task] = {"ceiling": share, "admitted": admitted, "prompts": len(chosen), **as_figures(score)}
        by_task[task]["levels"] = {str(level): value for level, value in by_level.items()}
    overall = interval_of(answers, numbers_of(prompts, good), each) if good else None
    lines = [
        f"{setting.pipeline.name}: {len(prompts)} prompts, {each} pictures each, about {len(setting.world.things)} "
        f"things in the styles {', '.join(setting.world.styles)}. Drawing took {answers.seconds / 60:.1f} minutes.",
        "",
        f"**Over all admitted tasks: {percent(overall)}.**" if overall else "**No task is admitted.**",
        "",
        *table(["task", "prompts", "ceiling", "right", "level 0", "level 1", "level 2"], rows),
        "",
        "The ceiling is what the judge gives real pictures of the same prompts. Below 95 % a task is not admitted: "
        "its score stands in brackets and does not count. Behind each score is its 95 % interval over prompts. "
        "Of level 0 nothing was held out from training, level 1 has one combination that was, level 2 two. Training "
        "shows the icons one by one and a few of all pairs, so that of pairs level 0 is mostly new as well.",
        "",
        save_sheet(_sheet(prompts, answers, each), setting.out, "prompts"),
    ]
    figures = {
        "model": setting.pipeline.name,
        "overall": as_figures(overall) if overall else None,
        "tasks": by_task,
        "pictures": len(answers.drawn),
        "seconds": round(answers.seconds, 1),
    }
    return write_section(setting.out, "prompts", "Does it draw what it is asked for?", lines, figures)


def _sheet(prompts: Sequence[Prompt], answers: Answers, each: int) -> Image.Image:
    """The first two prompts of each task, each picture with the judge's word."""
    rows = []
    for task in dict.fromkeys(prompt.task for prompt in prompts):
        for i in numbers_of(prompts, [task])[:2]:
            right = int(answers.of([i], each)[0].sum())
            pictures = [one.open() for one in answers.drawn[i * each : (i + 1) * each]]
            rows.append((f"{task}: {prompts[i].text}\n{right} of {each} right", pictures))
    return labelled_sheet(rows)
