"""The judge: what it is taught, what is read out of its maps, and how it is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from sticker_world import STYLES, THINGS, make_data, world_of

from stablediff.errors import EvaluationError
from stablediff.evaluation.judge.files import WEIGHTS, load_judge, save_judge, take_over
from stablediff.evaluation.judge.network import GRID, SIDE, Judge, JudgeConfig, Reading
from stablediff.evaluation.judge.scenes import JudgeScenes
from stablediff.evaluation.judge.stage import JudgeStage, JudgeStageConfig, spoil
from stablediff.evaluation.judge.verdict import Seen, Verdict, judge_pictures, recoloured, to_pixels, verdicts_of
from stablediff.evaluation.prompts import World
from stablediff.training.config import LoopConfig
from stablediff.training.data.colours import COLOURS
from stablediff.training.data.words import without_colour
from stablediff.training.loop import train

CONFIG = JudgeConfig(THINGS, STYLES, (8, 8, 16))
LOOP = LoopConfig(steps=4, batch_size=4, learning_rate=3e-3, warmup_steps=1, precision="float32", sheet_steps=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_of(make_data(tmp_path_factory.mktemp("world")))


@pytest.fixture
def judge() -> Judge:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Judge(CONFIG).eval().requires_grad_(requires_grad=False)


def stage_of(world: World, steps: int = 4) -> JudgeStage:
    config = JudgeStageConfig(replace(LOOP, steps=steps), widths=(8, 8, 16))
    return JudgeStage(config, world.icons, world.split, THINGS)


def blank() -> Reading:
    return Reading(
        torch.full((1, GRID, GRID), -9.0),
        torch.zeros(1, len(THINGS), GRID, GRID),
        torch.zeros(1, len(COLOURS), GRID, GRID),
        torch.tensor([[0.0, 1.0]]),
        torch.eye(len(COLOURS) + 1)[-1:],
        torch.zeros(1, 16),
    )


def put(reading: Reading, cells: list[tuple[int, int]], thing: str, colour: str, height: float = 5.0) -> None:
    for row, column in cells:
        reading.presence[0, row, column] = height
        reading.things[0, THINGS.index(thing), row, column] = 5
        reading.colours[0, list(COLOURS).index(colour), row, column] = 5


def test_shapes(judge: Judge) -> None:
    reading = judge(torch.zeros(2, 4, SIDE, SIDE))
    assert [tuple(part.shape) for part in reading] == [
        (2, 8, 8), (2, 7, 8, 8), (2, 12, 8, 8), (2, 2), (2, 13), (2, 16),
    ]  # fmt: skip
    full = Judge(JudgeConfig(tuple(map(str, range(333))), tuple("abcdefg")))
    assert 2 * sum(p.numel() for p in full.parameters()) < 3.5e6  # bytes in float16


def test_a_centre_between_cells_is_one_thing(judge: Judge) -> None:
    reading = blank()
    put(reading, [(3, 3), (3, 4), (4, 3), (4, 4)], "disc", "red")
    (verdict,) = verdicts_of(judge, reading)
    (seen,) = verdict.seen
    assert (seen.thing, seen.colour, verdict.style, verdict.background) == ("disc", "red", "soft", None)
    assert (seen.x, seen.y) == pytest.approx((0.5, 0.5), abs=1e-3)


def test_things_are_told_apart_and_placed(judge: Judge) -> None:
    reading = blank()
    put(reading, [(1, 1)], "disc", "red")
    put(reading, [(6, 5)], "bar", "blue")
    reading.background[0, list(COLOURS).index("teal")] = 9
    (verdict,) = verdicts_of(judge, reading)
    assert [(s.thing, s.colour) for s in verdict.seen] == [("disc", "red"), ("bar", "blue")]
    assert [(s.x, s.y) for s in verdict.seen] == [(1.5 / 8, 1.5 / 8), (5.5 / 8, 6.5 / 8)]
    assert verdict.background == "teal"
    assert verdicts_of(judge, blank())[0].seen == ()


def test_the_cells_around_a_centre_vote(judge: Judge) -> None:
    reading = blank()
    put(reading, [(2, 2), (2, 3)], "disc", "red", height=4.0)
    put(reading, [(3, 2)], "bar", "blue", height=4.2)
    (verdict,) = verdicts_of(judge, reading)
    assert [(s.thing, s.colour) for s in verdict.seen] == [("disc", "red")]


def test_batches_are_functions_of_the_step(world: World) -> None:
    stage = stage_of(world)
    batch, again = stage.batch(3, slice(0, 4)), stage_of(world).batch(3, slice(0, 4))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    some = stage.batch(3, slice(2, 4))
    assert all(torch.equal(batch[name][2:], some[name]) for name in batch)
    assert not torch.equal(batch["pixels"], stage.batch(4, slice(0, 4))["pixels"])
    assert batch["pixels"].shape == (4, 4, SIDE, SIDE)
    assert batch["pixels"].abs().max() <= 1


def test_the_map_says_where_things_are(world: World) -> None:
    stage, scenes = stage_of(world), JudgeScenes(world.icons, world.split, THINGS, STYLES)
    for i in range(20):
        scene = scenes.draw(np.random.default_rng(i))
        things, colours = stage._maps(scene)
        for item in scene.items:
            cell = min(int(item.y * GRID), 7), min(int(item.x * GRID), 7)
            assert things[cell] == THINGS.index(item.thing)
            if item.colour:
                assert colours[cell] == list(COLOURS).index(item.colour)
        assert len(scene.items) <= (things >= 0).sum() <= 4 * len(scene.items)


def test_all_icons_are_learnt_and_no_colour_or_pair_that_is_held_out(world: World) -> None:
    scenes = JudgeScenes(world.icons, world.split, THINGS, STYLES)
    drawn = [scenes.draw(np.random.default_rng(i)) for i in range(400)]
    split = world.split
    assert {len(scene.items) for scene in drawn} == {1, 2, 3, 4}
    assert any(split.holds_out_style(scene.items[0].thing, scene.style) for scene in drawn)
    for scene in drawn:
        assert not any(item.colour and split.holds_out_colour(item.thing, item.colour) for item in scene.items)
        names = {without_colour(item.thing) for item in scene.items}
        assert not any(split.holds_out_pair(a, b) for a in names for b in names if a != b)


def test_spoilt_pictures_are_pictures() -> None:
    pixels = torch.linspace(-1, 1, 4 * SIDE * SIDE).view(4, SIDE, SIDE)
    results = [spoil(pixels, np.random.default_rng(i)) for i in range(12)]
    assert all(r.shape == pixels.shape and r.dtype == torch.float32 and r.abs().max() <= 1 for r in results)
    assert any(torch.equal(r, pixels) for r in results)
    assert sum(not torch.equal(r, pixels) for r in results) > 4


def test_it_learns_and_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    whole, first, second = stage_of(world), stage_of(world), stage_of(world)
    assert train(whole, whole.config.loop, tmp_path / "whole").finished
    before = {name: value.clone() for name, value in stage_of(world).judge.state_dict().items()}
    assert any(not torch.equal(before[name], value) for name, value in whole.judge.state_dict().items())
    half = train(first, first.config.loop, tmp_path / "halves", minutes=0)
    assert (half.step, half.finished) == (1, False)
    assert train(second, second.config.loop, tmp_path / "halves").finished
    ours, theirs = (load_judge(tmp_path / name / "model").state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_saved_and_loaded(judge: Judge, world: World, tmp_path: Path) -> None:
    save_judge(judge, tmp_path)
    loaded = load_judge(tmp_path)
    assert loaded.config == CONFIG
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS).values()} == {torch.float16}
    picture = Image.fromarray(world.icons.picture(0))
    _, features = judge_pictures(judge, [picture] * 3)
    _, others = judge_pictures(loaded, [picture] * 3)
    assert features.shape == (3, 16)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, others, atol=5e-3, rtol=5e-2)
    assert judge_pictures(judge, [])[1].shape == (0, 16)


def test_bad_judges_are_named(judge: Judge, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no judge in .*evaluate judge"):
        load_judge(tmp_path)
    save_judge(judge, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["conv_in.weight"][0] = torch.nan
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        load_judge(tmp_path)
    del tensors["conv_in.weight"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(EvaluationError, match="cannot be read"):
        load_judge(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match=r"cannot save the judge .*free some space"):
        save_judge(judge, tmp_path / "file")


def test_a_style_can_be_asked_for_without_recognising_the_thing(judge: Judge) -> None:
    pixels = torch.rand(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    both, plain = judge(pixels, torch.tensor([1.0, 0.0])).style, judge(pixels).style
    assert torch.allclose(both[0], plain[0])
    assert not torch.allclose(both[1], plain[1])


def test_a_judge_can_start_from_another(judge: Judge, world: World, tmp_path: Path) -> None:
    known = (THINGS[4], "a unicycle", THINGS[0])
    save_judge(Judge(replace(CONFIG, things=known)), tmp_path)
    former, before = load_file(tmp_path / WEIGHTS), {name: value.clone() for name, value in judge.state_dict().items()}
    take_over(judge, tmp_path)
    after = judge.state_dict()
    assert torch.equal(after["conv_in.weight"], former["conv_in.weight"].float())
    assert torch.equal(after["style.2.bias"], former["style.2.bias"].float())
    for row, thing in enumerate(THINGS):
        theirs = former["things.weight"][known.index(thing)].float() if thing in known else None
        assert torch.equal(after["things.weight"][row], before["things.weight"][row] if theirs is None else theirs)
    config = JudgeStageConfig(LOOP, widths=(8, 8, 16), start_from=tmp_path)
    learning = JudgeStage(config, world.icons, world.split, THINGS).judge
    assert torch.equal(learning.conv_in.weight, after["conv_in.weight"])
    former["a_layer_of_another_time.bias"] = former.pop("conv_in.bias")  # of another network, as far as it fits
    save_file(former, tmp_path / WEIGHTS)
    bias = judge.conv_in.bias.clone()
    take_over(judge, tmp_path)
    assert torch.equal(judge.conv_in.bias, bias)
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(EvaluationError, match="cannot be read"):
        take_over(judge, tmp_path)
    with pytest.raises(EvaluationError, match="there is no judge in"):
        take_over(judge, tmp_path / "nowhere")


@pytest.mark.parametrize(("ground", "expected"), [((0, 0, 0, 0), ["red", "blue"]), ((9, 99, 9, 255), ["teal", "teal"])])
def test_colours_are_told_by_the_rule_of_the_icons(ground: tuple[int, int, int, int], expected: list[str]) -> None:
    """On a clear ground; another one would be taken for the things, and the judge's own word stands."""
    picture = Image.new("RGBA", (400, 400), ground)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20, 120, 180, 280), (220, 40, 40, 255))
    draw.rectangle((230, 150, 360, 250), (40, 90, 220, 255))
    verdict = Verdict((Seen("disc", 0.25, 0.5, "teal"), Seen("box", 0.74, 0.5, "teal")), "flat", None)
    found = recoloured(verdict, to_pixels(picture))
    assert [seen.colour for seen in found.seen] == expected
    assert [seen.thing for seen in found.seen] == ["disc", "box"]
    nothing = Verdict((), "flat", None)
    assert recoloured(nothing, to_pixels(picture)) == nothing
