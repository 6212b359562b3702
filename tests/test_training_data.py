"""Scenes made of icons: what is drawn, what is said of it, and what is held out."""

import math
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from icon_packages import SETS, write_packages

from stablediff.errors import DataError
from stablediff.training.data import (
    Icons,
    IconScenes,
    Item,
    Sampler,
    Scene,
    SceneRecipe,
    Split,
    cache,
    caption,
    make_split,
    read_split,
    render_scene,
    sample_scene,
)
from stablediff.training.data.agreement import painted
from stablediff.training.data.colours import COLOURS, colours_of, recolour
from stablediff.training.data.icons import Icon
from stablediff.training.data.scenes import KINDS, paint

NOTHING = Split(0, frozenset(), frozenset(), frozenset(), frozenset())


@pytest.fixture(scope="module")
def icons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_packages(folder / "packages")
    cache.build(folder, processes=1, sets=SETS)
    return Icons(folder)


def captions(scene, icons, num=300, language="en", split=None):
    rng = np.random.default_rng(0)
    return [caption(scene, icons, rng, language, split) for _ in range(num)]


def one(thing="cat", style="flat", kind="single", size=0.92, colour=None, background=None):
    return Scene(style, (Item(thing, 0.5, 0.5, size, colour),), kind, background)


def pair(first, second, upright=False, style="classic"):
    places = ((0.5, 0.26), (0.5, 0.74)) if upright else ((0.26, 0.5), (0.74, 0.5))
    return Scene(style, tuple(Item(t, *at, 0.45) for t, at in zip((first, second), places, strict=True)), "pair")


def test_every_colour_is_recognised_where_it_was_painted(icons):
    for icon in icons.records:
        if icon.colours:
            for colour in COLOURS:
                painted = recolour(icons.picture(icon.index), colour)
                assert colours_of(painted)[0] == colour, (icon.source, colour)
                assert (painted[..., 3] == icons.picture(icon.index)[..., 3]).all()


def test_recolouring_keeps_shading_and_other_colours():
    picture = np.zeros((512, 512, 4), dtype=np.uint8)
    picture[..., 3] = 255
    picture[:300, :, :3] = np.linspace((120, 20, 30), (250, 60, 70), 512)[None]  # a shaded red
    picture[300:400, :, :3] = (60, 160, 60)
    picture[400:450, :, :3] = 255
    picture[450:, :, :3] = (20, 20, 20)
    painted = recolour(picture, "blue")
    assert colours_of(picture)[:2] == ("red", "green")
    assert colours_of(painted)[:2] == ("blue", "green")
    assert np.abs(painted[300:].astype(int) - picture[300:]).max() <= 3
    blues = painted[0, :, 2].astype(int)
    assert blues[-1] - blues[0] > 80
    assert (np.diff(blues) >= -1).all()


def test_a_white_thing_can_be_painted_and_its_eyes_stay():
    picture = np.full((64, 64, 4), 255, dtype=np.uint8)
    picture[20:30, 20:30, :3] = 20
    painted = recolour(picture, "green")
    assert colours_of(painted) == ("green",)
    assert np.abs(painted[22:28, 22:28].astype(int) - picture[22:28, 22:28]).max() <= 3


def test_an_empty_picture_has_no_colours():
    empty = np.zeros((512, 512, 4), dtype=np.uint8)
    assert colours_of(empty) == ()
    assert (recolour(empty, "red") == empty).all()


def test_a_scene_lies_where_its_items_say(icons):
    picture = render_scene(pair("dog", "umbrella"), icons, 100)
    assert picture.shape == (100, 100, 4)
    ys, xs = np.nonzero(picture[..., 3])
    # The fake icons are discs of 7/8 of their side.
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == pytest.approx((6, 94, 30, 70), abs=2)
    assert picture[50, 26, :3].tolist() == [0xC1, 0x69, 0x4F]
    assert picture[50, 74, :3].tolist() == [0x74, 0x4E, 0xAA]
    assert picture[50, 50].tolist() == [0, 0, 0, 0]


def test_icons_are_mapped_anew_in_another_process_instead_of_being_sent(icons):
    sent = pickle.dumps(icons)
    assert len(sent) < 1000
    assert (pickle.loads(sent).picture(0) == icons.picture(0)).all()


def test_edges_have_the_colour_of_the_thing_and_no_dark_rim(icons):
    picture = render_scene(one("red apple"), icons, 128)
    edge = picture[(picture[..., 3] > 16) & (picture[..., 3] < 240)]
    assert len(edge) > 50
    assert np.abs(edge[:, :3].astype(int) - (0xDD, 0x2E, 0x44)).max() <= 12


def test_a_background_is_opaque(icons):
    picture = render_scene(one("red apple", kind="background", size=0.8, background="blue"), icons, 64)
    assert (picture[..., 3] == 255).all()
    assert tuple(picture[0, 0, :3]) == paint("blue")
    assert picture[32, 32, :3].tolist() == [0xDD, 0x2E, 0x44]
    with pytest.raises(DataError, match="there is no 'dog' in flat style"):
        render_scene(one("dog"), icons)


def test_the_form_that_users_are_told_of_is_the_most_common(icons):
    said = captions(one("red apple"), icons, 2000)
    common = {text: said.count(text) / len(said) for text in set(said)}
    assert max(common, key=common.__getitem__) in ("red apple, flat style", "red apple")
    assert common["red apple, flat style"] > 0.2
    assert 0.1 < common["red apple"] < 0.35
    for form in ("a red apple in flat style", "flat red apple sticker", "apple, flat style"):
        assert common[form] > 0.01


def test_what_is_not_the_things_own_is_always_said(icons):
    for text in captions(one("red apple", kind="colour", colour="blue"), icons):
        assert "blue " in text
        assert "red" not in text
    assert all("small " in text for text in captions(one(kind="size", size=0.5), icons))
    assert all("teal" in text for text in captions(one(kind="background", background="teal"), icons))
    two = Scene("flat", (Item("cat", 0.26, 0.5, 0.45), Item("cat", 0.74, 0.5, 0.45)), "count")
    assert all(
        re.search(r"\b(two|2) ([a-z]+ )*(cats|kitties|felines|mousers|cat2s)\b", t) for t in captions(two, icons)
    )


def test_places_are_told_from_either_side(icons):
    left = "dog.* (left of|on the left|and|next to|beside).*umbrella|umbrella.* right of .*dog"
    beside = captions(pair("dog", "umbrella"), icons)
    assert all(re.search(left, text) for text in beside)
    assert any(text.startswith("a dog and an umbrella") for text in beside)
    above = "dog.* (above|at the top).*umbrella|umbrella.* (below|under) .*dog"
    said = captions(pair("dog", "umbrella", upright=True), icons)
    assert all(re.search(above, text) for text in said)
    assert any(text.startswith("a dog above an umbrella") for text in said)
    assert any("an umbrella below a dog" in text for text in said)


def test_some_captions_say_only_how_it_looks(icons):
    said = captions(one("red apple"), icons, 2000)
    assert 0.1 < sum("something" in text for text in said) / len(said) < 0.2
    assert {"something, flat style", "red something, flat style"} <= set(said)
    assert not any("apple" in text for text in said if "something" in text)
    painted_ = captions(one("red apple", kind="colour", colour="blue"), icons, 1000, language="ru")
    assert "что-то, синего цвета, в плоском стиле" in painted_
    assert not any("something" in text for text in captions(pair("dog", "umbrella"), icons, 1000))


def test_russian_captions_agree_with_everything(icons):
    said = captions(one("red apple", kind="colour", colour="blue"), icons, language="ru")
    assert {"яблоко, синего цвета, в плоском стиле", "синее яблоко, в плоском стиле"} <= set(said)
    assert not any("красн" in text or re.search("[a-z]", text) for text in said)
    two = Scene("classic", (Item("dog", 0.26, 0.5, 0.45), Item("dog", 0.74, 0.5, 0.45)), "count")
    assert "собака, две штуки, в классическом стиле" in captions(two, icons, language="ru")
    beside = captions(pair("dog", "umbrella"), icons, language="ru")
    for placed in ("собака слева, зонт справа", "собака и зонт", "собака рядом с зонтом"):
        assert f"{placed}, в классическом стиле" in beside
    background = captions(one("cat", kind="background", background="blue"), icons, language="ru")
    assert "кошка на синем фоне, в плоском стиле" in background
    with pytest.raises(DataError, match="no captions in 'fr': choose en or ru"):
        caption(one(), icons, np.random.default_rng(0), "fr")


@pytest.mark.parametrize(
    ("name", "blue"),
    [
        ("рыба", "синяя рыба"),
        ("воздушный шар", "синий воздушный шар"),
        ("морда кошки", "синяя морда кошки"),
        ("здание суда", "синее здание суда"),
        ("очки", "синие очки"),
        ("знамя", "синее знамя"),
        ("лошадь", "синяя лошадь"),
        ("медведь", "синий медведь"),
        ("ёж", "синий ёж"),
        ("коктейль", None),
        ("плачет", None),
        ("на вечеринке", None),
        ("широко улыбается", None),
        ("киви", None),
        ("зомби", None),
        ("мужчина", None),
        ("1 место", None),
        ("", None),
    ],
)
def test_russian_adjectives_agree_or_stay_away(name: str, blue: str | None):
    assert painted(name, ["blue"]) == blue
    assert painted("шар", ["red", "blue"]) == "красный и синий шар"


def records(num_things=200, num_styles=5):
    names = {"en": ("label", "one", "two", "three"), "ru": ("имя",)}
    return [
        Icon(i * num_styles + j, "", f"style {j}", f"thing {i}", "objects", names, ("red",))
        for i in range(num_things)
        for j in range(num_styles)
    ]


def test_a_split_is_decided_by_its_seed_alone(tmp_path):
    split = make_split(records())
    assert split == make_split(reversed(records()))
    assert split != make_split(records(), seed=1)
    split.write(tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == split
    assert 0.02 < len(split.styles) / 1000 < 0.06
    assert len({thing for thing, _ in split.styles}) == len(split.styles)
    assert 0.03 < len(split.colours) / (200 * 11) < 0.07
    assert not any(colour == "red" for _, colour in split.colours)
    assert 0.3 < len(split.names) / 200 < 0.7
    pairs = [split.holds_out_pair(f"thing {i}", f"thing {j}") for i in range(60) for j in range(60)]
    assert 0.08 < np.mean(pairs) < 0.12
    assert make_split(records(num_styles=3)).styles == frozenset()
    # More things change nothing for those that were there.
    assert {held for held in make_split(records(300)).styles if int(held[0].split()[1]) < 200} == split.styles


def test_a_split_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*: run: python -m stablediff train data"):
        read_split(tmp_path / "split.json")
    (tmp_path / "split.json").write_text('{"seed": 0, "styles": [1]}')
    with pytest.raises(DataError, match="is not a split"):
        read_split(tmp_path / "split.json")


def test_what_is_held_out_is_neither_drawn_nor_said(icons):
    split = Split(
        0,
        styles=frozenset({("cat", "flat"), ("dog", "simple")}),
        colours=frozenset({("apple", colour) for colour in COLOURS if colour not in ("blue", "green")}),
        names=frozenset({("red apple", "fruit"), ("red apple", "яблоко")}),
        templates=frozenset({"{style} {body} sticker"}),
    )
    recipe = SceneRecipe(mix=dict.fromkeys(KINDS, 1.0))
    rng, kinds = np.random.default_rng(0), set()
    sampler = Sampler(recipe, split, icons)
    for _ in range(600):
        scene = sampler.sample(rng)
        kinds.add(scene.kind)
        for item in scene.items:
            assert not split.holds_out_style(item.thing, scene.style)
            assert item.colour is None or not split.holds_out_colour(item.thing, item.colour)
        if scene.kind == "pair":
            assert not split.holds_out_pair(*(item.thing for item in scene.items))
        text = caption(scene, icons, rng, "en", split)
        assert "fruit" not in text
        assert not re.match(r"flat .* sticker", text)
    assert kinds == set(KINDS)


def test_items_do_not_overlap_and_stay_on_the_canvas(icons):
    sampler = Sampler(SceneRecipe(mix={"pair": 1, "count": 1}), NOTHING, icons)
    rng = np.random.default_rng(0)
    for _ in range(100):
        items = sampler.sample(rng).items
        for i, item in enumerate(items):
            assert item.size / 2 <= item.x <= 1 - item.size / 2
            assert item.size / 2 <= item.y <= 1 - item.size / 2
            for other in items[:i]:
                assert max(abs(item.x - other.x), abs(item.y - other.y)) >= item.size


def test_scenes_are_a_function_of_seed_and_number(icons):
    recipe = SceneRecipe(things=("cat", "dog", "red apple"), styles=("flat", "simple"))
    scenes = IconScenes(icons, NOTHING, recipe, num=50, seed=3, size=32, russian=0.5)
    again = IconScenes(icons, NOTHING, recipe, num=9, seed=3, size=32)
    assert len(scenes) == 50
    assert [scenes.scene(i) for i in reversed(range(9))] == [again.scene(i) for i in reversed(range(9))]
    assert (scenes.picture(4) == again.picture(4)).all()
    assert scenes.picture(0).shape == (32, 32, 4)
    assert {item.thing for i in range(50) for item in scenes.scene(i).items} == {"cat", "dog", "red apple"}
    assert {scenes.scene(i).style for i in range(50)} == {"flat", "simple"}
    rng = np.random.default_rng(0)
    said = [scenes.caption(i, rng) for i in range(50)]
    assert 10 < sum(bool(re.search("[а-я]", text)) for text in said) < 40
    assert sample_scene(recipe, NOTHING, icons, np.random.default_rng((3, 0))) == scenes.scene(0)
    with pytest.raises(IndexError):
        scenes.scene(50)


def test_other_things_have_their_share_and_change_nothing_without_one(icons):
    wanted = ("cat", "dog")
    recipe = SceneRecipe(things=wanted, styles=("flat", "classic", "simple"), mix={"single": 1, "pair": 1})
    plain, mixed = Sampler(recipe, NOTHING, icons), Sampler(replace(recipe, others=0.3), NOTHING, icons)
    shown = [item.thing for i in range(400) for item in mixed.sample(np.random.default_rng(i)).items]
    assert 0.2 < sum(thing not in wanted for thing in shown) / len(shown) < 0.4
    assert set(shown) == set(icons.things)
    assert {item.thing for i in range(50) for item in plain.sample(np.random.default_rng(i)).items} == set(wanted)
    with pytest.raises(DataError, match=r"others is 0\.3, but there are none"):
        Sampler(SceneRecipe(others=0.3), NOTHING, icons)
    for strange in (-0.1, 1.0, float("nan")):
        with pytest.raises(DataError, match="others is"):
            SceneRecipe(others=strange)


def test_the_newest_things_have_a_share_of_their_own(icons):
    recipe = SceneRecipe(("cat", "dog", "red apple"), ("flat", "simple"), {"single": 1})
    practised = Sampler(replace(recipe, newest=("red apple",), newest_share=0.6), NOTHING, icons)
    shown = [item.thing for i in range(400) for item in practised.sample(np.random.default_rng(i)).items]
    even = 1 / 3  # of the rest, which is drawn from all three
    assert shown.count("red apple") / len(shown) == pytest.approx(0.6 + 0.4 * even, abs=0.1)
    assert set(shown) == {"cat", "dog", "red apple"}
    with pytest.raises(DataError, match="no things are newest"):
        SceneRecipe(newest_share=0.5)
    with pytest.raises(DataError, match="newest_share is 0"):
        SceneRecipe(newest=("cat",))
    with pytest.raises(DataError, match="more than all"):
        SceneRecipe(others=0.5, newest=("cat",), newest_share=0.6)
    with pytest.raises(DataError, match="no icon of the newest"):
        Sampler(replace(recipe, newest=("unknown",), newest_share=0.5), NOTHING, icons)


def test_recipes_that_cannot_be_filled_are_refused(icons):
    with pytest.raises(DataError, match="mix names the kind 'sinlge'"):
        SceneRecipe(mix={"sinlge": 1})
    for mix in ({"single": 0}, {"single": math.nan}, {"single": math.inf}, {"single": 1e308, "pair": 1e308}):
        with pytest.raises(DataError, match="shares in mix"):
            SceneRecipe(mix=mix)
    with pytest.raises(DataError, match="no thing 'dgo'"):
        Sampler(SceneRecipe(things=("dgo",)), NOTHING, icons)
    with pytest.raises(DataError, match="leaves no icon"):
        Sampler(SceneRecipe(things=("dog",), styles=("flat",)), NOTHING, icons)
    alone = Sampler(SceneRecipe(things=("dog",), mix={"pair": 1}), NOTHING, icons)
    with pytest.raises(DataError, match="nothing for scenes of the kind 'pair'"):
        alone.sample(np.random.default_rng(0))
    with pytest.raises(DataError, match="use 1 or more"):
        IconScenes(icons, NOTHING, SceneRecipe(), num=0, seed=0)
