"""Styles that are drawn out of another one: what they look like, at any size, in scenes, and what is held out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stablediff.errors import DataError
from stablediff.evaluation.judge.stage import JudgeStage, JudgeStageConfig
from stablediff.training.config import LoopConfig
from stablediff.training.data import Icon, Icons, Item, Scene, Split, make_split, render_scene, styles
from stablediff.training.data.icons import PIXELS, RECORDS
from stablediff.training.data.scenes import paint
from stablediff.training.data.styles import (
    DRAWN_STYLES,
    drawing_of,
    drawn_in,
    glossed,
    lined,
    outlined,
    pixelated,
    softened,
)
from stablediff.training.material import crops_of

INK = 40  # what is darker is drawn in ink
RED, YELLOW = (210, 40, 50), (250, 210, 60)


def badge(size: int = 512) -> np.ndarray:
    """A red disc with a yellow square in it, on nothing. (size,size,4)"""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    picture = np.zeros((size, size, 4), np.uint8)
    disc, square = np.hypot(x, y) < 0.4, np.maximum(abs(x), abs(y)) < 0.2
    picture[disc] = (*RED, 255)
    picture[square] = (*YELLOW, 255)
    return picture


def inked(picture: np.ndarray) -> np.ndarray:
    return (picture[..., :3].max(axis=2) < INK) & (picture[..., 3] > 200)


@pytest.mark.parametrize("draw", [outlined, pixelated, lined, softened, glossed])
@pytest.mark.parametrize("size", [512, 256, 128])
def test_it_looks_alike_at_any_size(draw, size: int) -> None:
    large, small = draw(badge()), draw(badge(size))
    assert small.shape == (size, size, 4)
    assert small.dtype == np.uint8
    # What is transparent has no colour that counts.
    near, far = (
        np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BOX).convert("RGBa"), np.float32)
        for picture in (small, large)
    )
    assert np.abs(near - far).mean() < 6


@pytest.mark.parametrize("draw", [outlined, pixelated, lined, softened, glossed])
def test_nothing_stays_nothing(draw) -> None:
    assert not draw(np.zeros((128, 128, 4), np.uint8))[..., 3].any()


def test_an_outline_is_around_and_changes_nothing_inside() -> None:
    before = badge()
    after = outlined(before)
    inside = before[..., 3] == 255
    assert np.array_equal(after[inside], before[inside])
    row = after[256]  # from the left: nothing, ink, red
    assert not row[20, 3]
    assert inked(after)[256, 46]
    assert row[60, :3].tolist() == list(RED)
    ink = inked(after)[256, :256].sum()
    assert 5 <= ink <= 25


def test_a_pixel_picture_has_blocks_of_few_colours_with_a_rim() -> None:
    picture = pixelated(badge())
    blocks = picture[::16, ::16]
    assert np.array_equal(picture, blocks.repeat(16, axis=0).repeat(16, axis=1))
    assert set(np.unique(picture[..., 3])) == {0, 255}
    assert len(np.unique(blocks[blocks[..., 3] > 0], axis=0)) <= 17
    middle = blocks[16]
    first = int(np.argmax(middle[:, 3] > 0))
    assert middle[first, :3].max() < INK
    assert np.abs(middle[first + 2, :3].astype(int) - RED).max() < 12
    assert np.abs(middle[16, :3].astype(int) - YELLOW).max() < 12


def test_lines_are_where_colours_meet_and_all_else_is_white() -> None:
    picture = lined(badge())
    ink = inked(picture)
    assert ink[256, 51:54].any()  # where the disc begins
    assert ink[256, 152:156].any()  # where the square does
    assert (picture[256, 200:312] == 255).all()
    assert (picture[256, 80:130] == 255).all()
    assert 0.01 < ink.mean() < 0.08
    assert not picture[4, 4, 3]


def test_faint_shading_gives_no_line() -> None:
    shaded = badge()
    shaded[100:300, 100:300, :3] -= 10
    assert inked(lined(shaded)).sum() == inked(lined(badge())).sum()


def test_a_soft_picture_is_lit_from_the_upper_left() -> None:
    before = badge()
    after = softened(before)
    brightness = after[..., :3].astype(int).sum(axis=2) - before[..., :3].astype(int).sum(axis=2)
    assert brightness[256 - 138, 256 - 138] > 60  # within the disc, by its rim
    assert brightness[256 + 138, 256 + 138] < -60
    assert abs(brightness[256, 256]) < 6
    assert np.array_equal(after[..., 3], before[..., 3])


def test_a_glossy_picture_has_a_sheen_to_the_upper_left_off_the_rim() -> None:
    before = badge()
    after = glossed(before)
    whitened = (after[..., :3].astype(int) - before[..., :3]).sum(axis=2)
    along = whitened[range(256), range(256)]  # from the upper left corner to the middle
    brightest = int(along.argmax())
    assert 256 - 138 < brightest < 256 - 100  # within the disc, off its rim
    assert along[brightest] > 200
    assert (after[..., :3] >= before[..., :3]).all()
    assert not whitened[256:, 256:].any()
    assert np.array_equal(after[..., 3], before[..., 3])


def test_soft_and_glossy_pictures_are_no_flat_ones() -> None:
    assert np.array_equal(drawn_in("soft", badge()), softened(badge()))
    assert np.array_equal(drawn_in("glossy", badge()), glossed(badge()))
    assert np.array_equal(drawn_in("flat", badge()), badge())


def test_a_style_that_is_drawn_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawings = {style: drawing_of(style) for style in ("flat", "soft", "glossy", *DRAWN_STYLES)}
    assert len(set(drawings.values())) == len(drawings)
    monkeypatch.setattr(styles, "_LIT", 0.1)
    assert {style for style, drawing in drawings.items() if drawing_of(style) != drawing} == {"soft"}


def _icons(folder: Path) -> Icons:
    base = Icon(0, "set@1/badge", "plain", "badge", "objects", {"en": ("badge",)}, ("red", "yellow"))
    np.save(folder / PIXELS, badge()[None])
    records = [base, *(replace(base, style=style) for style in DRAWN_STYLES)]
    (folder / RECORDS).write_text("".join(record.to_json() + "\n" for record in records))
    return Icons(folder)


def test_an_autoencoder_learns_what_is_drawn_in_the_styles_that_it_is_to_know(tmp_path: Path) -> None:
    _icons(tmp_path)
    held_out = Split(0, frozenset({("badge", "bold")}), frozenset(), frozenset(), frozenset())
    held_out.write(tmp_path / "split.json")
    crops, held = crops_of(tmp_path, 4, 0, ("line", "bold"))
    assert crops.count == len(held) == 1
    assert np.array_equal(crops.picture(0), lined(badge()))
    assert np.array_equal(held[0], outlined(badge()))
    assert crops_of(tmp_path, 4, 0)[0].count == 3
    with pytest.raises(DataError, match="there is no style 'baroque' among the icons: choose of plain, bold"):
        crops_of(tmp_path, 4, 0, ("baroque",))


def test_crops_never_cut_the_blocks_of_a_pixel_picture(tmp_path: Path) -> None:
    _icons(tmp_path)
    Split(0, *[frozenset()] * 4).write(tmp_path / "split.json")
    seen = set()
    for style, is_of_blocks in (("pixel", True), ("bold", False)):
        crops, _ = crops_of(tmp_path, 4, 0, (style,))
        drawn = [crops.draw(np.random.default_rng(seed), 128) for seed in range(12)]
        blocks = [crop[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2) for crop in drawn]
        assert all(torch.equal(*pair) for pair in zip(drawn, blocks, strict=True)) == is_of_blocks
        seen |= {crop.numpy().tobytes() for crop in drawn}
    assert len(seen) > 20


def test_a_judge_can_be_of_some_styles(tmp_path: Path) -> None:
    icons = _icons(tmp_path)
    judge = JudgeStageConfig(
        LoopConfig(steps=1, batch_size=8, learning_rate=1e-3), styles=("pixel", "line"), widths=(8, 8, 16)
    )
    stage = JudgeStage(judge, icons, Split(0, *[frozenset()] * 4), ("badge",))
    assert stage.judge.config.styles == ("pixel", "line")
    assert set(stage.batch(0, slice(0, 8))["style"].tolist()) == {0, 1}


def test_a_scene_is_drawn_as_a_whole_and_its_ground_is_not(tmp_path: Path) -> None:
    icons = _icons(tmp_path)
    sides = [Scene("bold", (Item("badge", 0.5, 0.5, side),), "single") for side in (0.4, 0.8)]
    widths = [inked(render_scene(scene, icons))[256, :256].sum() for scene in sides]
    assert abs(int(widths[0]) - int(widths[1])) <= 2  # a pen has one width
    two = tuple(Item("badge", x, 0.5, 0.45) for x in (0.26, 0.74))
    blocks = render_scene(Scene("pixel", two, "pair", "blue"), icons)
    assert np.array_equal(blocks, blocks[::16, ::16].repeat(16, axis=0).repeat(16, axis=1))
    assert blocks[0, 0].tolist() == [*paint("blue"), 255]
    line = render_scene(Scene("line", two, "count", "blue"), icons)
    assert line[0, 0].tolist() == [*paint("blue"), 255]
    assert line[256, 133].tolist() == [255, 255, 255, 255]


def test_a_thing_has_at_most_one_style_held_out_and_those_of_sets_come_first() -> None:
    styles = ("flat", "soft", "plain", "glossy", *DRAWN_STYLES)
    names = [f"thing {i}" for i in range(2000)]
    icons = [Icon(0, "s", style, name, "objects", {"en": (name,)}, ()) for name in names for style in styles]
    held = make_split(icons).styles
    assert len({thing for thing, _ in held}) == len(held)
    of_sets = {pair for pair in held if pair[1] not in DRAWN_STYLES}
    assert of_sets == make_split([icon for icon in icons if icon.style not in DRAWN_STYLES]).styles
    assert {style for _, style in held} == set(styles)
    drawn = len(held) - len(of_sets)
    assert 0.08 * len(names) < drawn < 0.16 * len(names)
