"""Whether a picture answers its prompt, by what the judge sees in it; and how far the judge itself can be trusted."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from stablediff.evaluation.judge.network import Judge
from stablediff.evaluation.judge.verdict import Seen, Verdict, judge_pictures
from stablediff.evaluation.phrasing import is_upright
from stablediff.evaluation.prompts import Prompt
from stablediff.training.data.icons import Icons
from stablediff.training.data.scenes import Item, Scene, render_scene

ADMITTED = 0.95  # a task counts if the judge is right on this share of real pictures
_MOVED = 0.03  # of the canvas: how far things of real pictures stand from where the scene has them


def is_right(prompt: Prompt, verdict: Verdict) -> bool:
    """The task's own question only: a picture of two things, say, may have them anywhere."""
    return _CHECKS[prompt.task](prompt.scene, verdict)


def _has_all(scene: Scene, verdict: Verdict) -> bool:
    things = {seen.thing for seen in verdict.seen}
    return all(item.thing in things for item in scene.items)


def _has_number(scene: Scene, verdict: Verdict) -> bool:
    return [seen.thing for seen in verdict.seen] == [item.thing for item in scene.items]


def _has_colours(scene: Scene, verdict: Verdict) -> bool:
    pairs = {(seen.thing, seen.colour) for seen in verdict.seen}
    return all((item.thing, item.colour) in pairs for item in scene.items)


def _has_places(scene: Scene, verdict: Verdict) -> bool:
    """The first is on the side that was asked for, and more so than on another."""
    first, second = scene.items
    upright = is_upright(scene)
    return any(
        one.y < other.y and abs(one.x - other.x) < other.y - one.y
        if upright
        else one.x < other.x and abs(one.y - other.y) < other.x - one.x
        for one in _all_of(first, verdict)
        for other in _all_of(second, verdict)
    )


def _all_of(item: Item, verdict: Verdict) -> list[Seen]:
    return [seen for seen in verdict.seen if seen.thing == item.thing]


def _has_style(scene: Scene, verdict: Verdict) -> bool:
    return verdict.style == scene.style and _has_all(scene, verdict)


def _has_background(scene: Scene, verdict: Verdict) -> bool:
    return verdict.background == scene.background and _has_all(scene, verdict)


_CHECKS: dict[str, Callable[[Scene, Verdict], bool]] = {
    "single object": _has_all,
    "two objects": _has_all,
    "counting": _has_number,
    "colours": _has_colours,
    "position": _has_places,
    "colour binding": _has_colours,
    "style": _has_style,
    "background": _has_background,
}


def real_answers(prompts: Sequence[Prompt], icons: Icons, each: int, seed: int = 0) -> Iterator[Image.Image]:
    """`each` composites of real icons for every prompt, things moved a little from one to the next."""
    for number, prompt in enumerate(prompts):
        for copy in range(each):
            moves = np.random.default_rng((seed, number, copy)).uniform(-_MOVED, _MOVED, (len(prompt.scene.items), 2))
            items = tuple(
                Item(item.thing, item.x + dx, item.y + dy, item.size, item.colour)
                for item, (dx, dy) in zip(prompt.scene.items, moves.tolist(), strict=True)
            )
            scene = Scene(prompt.scene.style, items, prompt.scene.kind, prompt.scene.background)
            yield Image.fromarray(render_scene(scene, icons, 256))


def ceiling(judge: Judge, prompts: Sequence[Prompt], icons: Icons, each: int = 1) -> list[bool]:
    """Whether the judge finds the real answers right, prompt by prompt, `each` after another."""
    verdicts, _ = judge_pictures(judge, real_answers(prompts, icons, each))
    return [is_right(prompt, verdicts[i * each + copy]) for i, prompt in enumerate(prompts) for copy in range(each)]


def shares_by_task(prompts: Sequence[Prompt], right: Sequence[bool]) -> dict[str, float]:
    """`right` has equally many entries a prompt. -> the share that is right, by task in their order."""
    each = len(right) // max(len(prompts), 1)
    tasks = dict.fromkeys(prompt.task for prompt in prompts)
    return {
        task: float(np.mean([r for i, p in enumerate(prompts) if p.task == task for r in right[i * each :][:each]]))
        for task in tasks
    }
