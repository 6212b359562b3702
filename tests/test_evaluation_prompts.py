"""What is asked, in which words, at which level; and what counts as a right answer."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from sticker_world import STYLES, THINGS, Oracle, make_data, world_of

from stablediff.errors import EvaluationError
from stablediff.evaluation.judge.verdict import Seen, Verdict
from stablediff.evaluation.phrasing import phrase
from stablediff.evaluation.prompts import TASKS, Prompt, World, make_prompts
from stablediff.evaluation.scoring import ceiling, is_right, shares_by_task
from stablediff.training.data.colours import colours_of, recolour
from stablediff.training.data.icons import Icons
from stablediff.training.data.scenes import Item, Scene


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_of(make_data(tmp_path_factory.mktemp("world")))


def asked(task: str, *items: Item, style: str = "flat", kind: str = "single", ground: str | None = None) -> Prompt:
    scene = Scene(style, items, kind, ground)
    return Prompt(task, 1, phrase(scene), "", scene)


DISC, BAR = Item("disc", 0.26, 0.5, 0.45, "red"), Item("bar", 0.74, 0.5, 0.45, "blue")
SEEN_DISC, SEEN_BAR = Seen("disc", 0.3, 0.5, "red"), Seen("bar", 0.7, 0.55, "blue")


def test_phrases_are_those_that_users_are_told_of() -> None:
    disc = Item("disc", 0.5, 0.5, 0.9)
    assert phrase(Scene("flat", (disc,), "single")) == "disc, flat style"
    assert phrase(Scene("soft", (disc,) * 3, "count")) == "three discs, soft style"
    assert phrase(Scene("flat", (disc,), "background", "orange")) == "a disc on an orange background, flat style"
    assert phrase(Scene("flat", (DISC, BAR), "pair")) == "a red disc to the left of a blue bar, flat style"
    above = (Item("disc", 0.5, 0.26, 0.45), Item("bar", 0.5, 0.74, 0.45))
    assert phrase(Scene("flat", above, "pair")) == "a disc above a bar, flat style"


def test_prompts_are_many_different_and_the_same_every_time(world: World) -> None:
    prompts = make_prompts(world, 8)
    assert prompts == make_prompts(world, 8)
    assert prompts != make_prompts(world, 8, seed=1)
    counts = Counter(prompt.task for prompt in prompts)
    assert list(counts) == list(TASKS)
    assert all(4 < count <= 8 for count in counts.values())
    for task in TASKS:
        texts = [prompt.text for prompt in prompts if prompt.task == task]
        assert len(set(texts)) == len(texts)
        assert make_prompts(world, 8, tasks=[task, task]) == [p for p in prompts if p.task == task]
    assert all(prompt.text != prompt.swapped for prompt in prompts)


def test_levels_count_what_was_held_out(world: World) -> None:
    prompts = make_prompts(world, 12)
    split = world.split
    for prompt in prompts:
        items, new = prompt.scene.items, 0
        new += any(split.holds_out_style(item.thing, prompt.scene.style) for item in items)
        new += any(item.colour is not None and split.holds_out_colour(item.thing, item.colour) for item in items)
        new += prompt.scene.kind == "pair" and split.holds_out_pair(items[0].thing, items[1].thing)
        assert prompt.level == min(new, 2)
    assert {prompt.level for prompt in prompts} == {0, 1, 2}
    assert sum(prompt.level > 0 for prompt in prompts) > len(prompts) / 2


def test_only_what_is_known_is_asked(world: World) -> None:
    small = World(world.icons, world.split, ("disc", "ring", "box"), ("flat",))
    for prompt in make_prompts(small, 5):
        assert prompt.scene.style == "flat"
        assert {item.thing for item in prompt.scene.items} <= {"disc", "ring", "box"}


def test_what_cannot_be_asked_is_said(world: World) -> None:
    with pytest.raises(EvaluationError, match="no task 'dancing': choose among single object"):
        make_prompts(world, 3, tasks=["dancing"])
    with pytest.raises(EvaluationError, match="0 prompts a task: choose 1 or more"):
        make_prompts(world, 0)
    with pytest.raises(EvaluationError, match="nothing can be asked about 0 things"):
        make_prompts(World(world.icons, world.split, (), STYLES), 3)


@pytest.mark.parametrize(
    ("prompt", "right", "wrong"),
    [
        (asked("single object", DISC), [SEEN_DISC, SEEN_BAR], [SEEN_BAR]),
        (asked("two objects", DISC, BAR, kind="pair"), [SEEN_BAR, SEEN_DISC], [SEEN_DISC, SEEN_DISC]),
        (asked("counting", DISC, DISC), [SEEN_DISC] * 2, [SEEN_DISC] * 3),
        (asked("counting", DISC, DISC), [SEEN_DISC] * 2, [SEEN_DISC, SEEN_DISC, SEEN_BAR]),
        (asked("colours", DISC), [SEEN_DISC], [Seen("disc", 0.5, 0.5, "green"), Seen("bar", 0.5, 0.5, "red")]),
        (
            asked("position", DISC, BAR, kind="pair"),
            [SEEN_DISC, SEEN_BAR],
            [Seen("disc", 0.7, 0.5, "red"), Seen("bar", 0.3, 0.5, "blue")],
        ),
        (
            asked("position", DISC, BAR, kind="pair"),
            [SEEN_DISC, SEEN_BAR],
            [Seen("disc", 0.45, 0.2, "red"), Seen("bar", 0.55, 0.8, "blue")],
        ),
        (
            asked("colour binding", DISC, BAR, kind="pair"),
            [SEEN_DISC, SEEN_BAR],
            [Seen("disc", 0.3, 0.5, "blue"), Seen("bar", 0.7, 0.5, "red")],
        ),
        (asked("style", DISC), [SEEN_DISC], [SEEN_BAR]),
        (asked("background", DISC, ground="teal"), [SEEN_DISC], [SEEN_BAR]),
    ],
)
def test_right_and_wrong_answers(prompt: Prompt, right: list[Seen], wrong: list[Seen]) -> None:
    assert is_right(prompt, Verdict(tuple(right), "flat", prompt.scene.background))
    assert not is_right(prompt, Verdict(tuple(wrong), "flat", prompt.scene.background))


def test_style_and_background_are_looked_at() -> None:
    seen = (SEEN_DISC,)
    assert not is_right(asked("style", DISC), Verdict(seen, "soft", None))
    assert not is_right(asked("background", DISC, ground="teal"), Verdict(seen, "flat", None))
    assert not is_right(asked("background", DISC, ground="teal"), Verdict(seen, "flat", "blue"))
    assert is_right(asked("single object", DISC), Verdict(seen, "soft", "blue"))  # nobody asked


def test_real_pictures_answer_their_prompts(world: World) -> None:
    prompts = make_prompts(world, 2)
    right = ceiling(Oracle(), prompts, world.icons, each=1)
    shares = shares_by_task(prompts, right)
    assert list(shares) == list(TASKS)
    assert sum(right) >= 0.9 * len(right)
    assert sum(ceiling(Oracle(), prompts, _Turned(world.icons), each=1)) < 0.3 * len(right)


class _Turned(Icons):
    """The icons of other things under each name."""

    def __init__(self, icons: Icons) -> None:
        self.__dict__ |= icons.__dict__

    def picture(self, index: int) -> NDArray[np.uint8]:
        return super().picture((index + 3) % len(THINGS) + index // len(THINGS) * len(THINGS))


def test_what_is_asked_for_in_a_colour_can_have_it(world: World) -> None:
    for prompt in make_prompts(world, 20, tasks=("colours", "colour binding")):
        for item in prompt.scene.items:
            icon = world.icons.find(item.thing, prompt.scene.style)
            assert icon is not None
            assert item.colour is not None
            assert colours_of(recolour(world.icons.picture(icon.index), item.colour))[0] == item.colour
