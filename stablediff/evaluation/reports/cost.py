"""Report 6: what more steps, another sampler or more guidance buy, and what they cost."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stablediff.errors import EvaluationError
from stablediff.evaluation.artists import ModelArtist, Settings
from stablediff.evaluation.bootstrap import difference_interval
from stablediff.evaluation.plot import Point, pareto_front, scatter
from stablediff.evaluation.prompts import Prompt
from stablediff.evaluation.reports.prompts import Answers, answer, interval_of
from stablediff.evaluation.setting import Setting, as_figures, percent, table, write_section
from stablediff.evaluation.sheets import save_sheet
from stablediff.request import Request

_DRAWN_AGAIN = 1e-3  # seconds: below this nobody knows any more how long a picture took


@dataclass(frozen=True)
class Grid:
    """All combinations of these are tried."""

    steps: tuple[int, ...] = (6, 12, 25, 50)
    samplers: tuple[str, ...] = ("ddim", "dpmpp_2m")
    guidance: tuple[float, ...] = (1.0, 2.5, 4.0, 7.0)

    def settings(self) -> list[Settings]:
        if not (self.steps and self.samplers and self.guidance):
            raise EvaluationError("the grid is empty: give --steps, --samplers and --guidance at least one value each")
        combined = itertools.product(self.steps, self.samplers, self.guidance)
        settings = [Settings(steps, guidance, sampler) for steps, sampler, guidance in combined]
        for one in settings:
            Request(**asdict(one))  # says what is wrong with it, before anything is drawn
        return settings


def report_cost(setting: Setting, grid: Grid, per_task: int = 3) -> Path:
    """Draws `per_task` prompts of each task with the first seed. Writes cost.json and its section. -> the report."""
    prompts, wishes = some_of_each(setting.prompts, per_task), grid.settings()
    found: list[tuple[Settings, Answers, float]] = []
    for wish in wishes:
        name = label(wish)
        artist = ModelArtist(setting.pipeline, setting.out / "pictures", wish, name)
        answers = answer(artist, setting.judge, prompts, setting.seeds[:1])
        times = [one.seconds for one in answers.drawn if one.seconds > _DRAWN_AGAIN]
        if not times:
            raise EvaluationError(
                f"nobody knows how long the pictures in {setting.out} took: delete its pictures to draw them anew"
            )
        found.append((wish, answers, sum(times) / len(times)))
    scores = [interval_of(answers, range(len(prompts)), 1) for _, answers, _ in found]
    points = [
        Point(cost, score.value, wish.sampler or "", label(wish))
        for (wish, _, cost), score in zip(found, scores, strict=True)
    ]
    front = pareto_front(points)
    best = choose(found)
    rows = [
        [point.label, f"{point.cost:.2f}", percent(score), "front" if point in front else ""]
        for point, score in sorted(zip(points, scores, strict=True), key=lambda pair: pair[0].cost)
    ]
    plot = scatter(points, "seconds a picture", "prompts answered right")
    lines = [
        f"{len(prompts)} prompts, one picture each, with {len(found)} settings on {setting.pipeline.compute.reason}.",
        "",
        save_sheet(plot, setting.out, "cost"),
        "",
        f"**{label(best)}** is the cheapest that is not surely worse than the best.",
        "",
        *table(["setting", "seconds a picture", "right", ""], rows),
    ]
    figures: dict[str, Any] = {
        "prompts": len(prompts),
        "chosen": asdict(best),
        "settings": [
            {**asdict(wish), "seconds": round(cost, 4), "score": as_figures(score), "front": point in front}
            for (wish, _, cost), score, point in zip(found, scores, points, strict=True)
        ],
    }
    return write_section(setting.out, "cost", "What does quality cost?", lines, figures)


def choose(found: Sequence[tuple[Settings, Answers, float]]) -> Settings:
    """The cheapest whose loss against the best may be nothing, by the 95 % interval over the same prompts."""
    _, best, _ = max(found, key=lambda one: (one[1].right.mean().item(), -one[2]))
    for wish, answers, _ in sorted(found, key=lambda one: one[2]):
        if answers is best or difference_interval(answers.right, best.right).high >= 0:
            return wish
    raise AssertionError("the best is as good as itself")


def label(wish: Settings) -> str:
    return f"{wish.sampler}, {wish.num_steps} steps, guidance {wish.guidance_scale:g}"


def some_of_each(prompts: Sequence[Prompt], per_task: int) -> list[Prompt]:
    """The first of each task. Raises EvaluationError if they are too few to compare settings by."""
    tasks = dict.fromkeys(prompt.task for prompt in prompts)
    chosen = [p for task in tasks for p in [p for p in prompts if p.task == task][:per_task]]
    if len(chosen) < 2:
        raise EvaluationError(
            f"{len(chosen)} prompts say nothing about settings: raise --per-task or --cost-per-task, or name tasks"
        )
    return chosen
