"""Russian names after numbers and in places."""

import re
import sys

import numpy as np
import pytest
from icon_packages import SETS, write_packages

from stablediff.errors import DataError
from stablediff.training.data import Icons, Item, Scene, cache, caption, dictionary
from stablediff.training.data.declension import GENITIVE, INSTRUMENTAL, beside, counted, declined


@pytest.mark.parametrize(
    ("name", "two", "four", "of", "by"),
    [
        ("кот", "два кота", "четыре кота", "кота", "котом"),
        ("рыба", "две рыбы", "четыре рыбы", "рыбы", "рыбой"),
        ("яблоко", "два яблока", "четыре яблока", "яблока", "яблоком"),
        ("красное яблоко", "два красных яблока", "четыре красных яблока", "красного яблока", "красным яблоком"),
        ("синяя рыба", "две синие рыбы", "четыре синие рыбы", "синей рыбы", "синей рыбой"),
        ("рыба синего цвета", "две рыбы синего цвета", "четыре рыбы синего цвета", "рыбы синего цвета", None),
        ("самолет", "два самолета", "четыре самолета", "самолета", "самолетом"),
        ("пожарный", "два пожарных", "четыре пожарных", "пожарного", "пожарным"),
        ("мороженое", "два мороженых", "четыре мороженых", "мороженого", "мороженым"),
        ("герой", "два героя", "четыре героя", "героя", "героем"),
        ("змея", "две змеи", "четыре змеи", "змеи", "змеей"),
        ("леденец", "два леденца", "четыре леденца", "леденца", "леденцом"),
        ("плюшевый мишка", "два плюшевых мишки", "четыре плюшевых мишки", "плюшевого мишки", "плюшевым мишкой"),
        ("морда белого медведя", "две морды белого медведя", None, "морды белого медведя", None),
        ("цветок в горшке", "два цветка в горшке", None, "цветка в горшке", "цветком в горшке"),
    ],
)
def test_names_are_declined(name: str, two: str, four: str | None, of: str, by: str | None):
    assert (counted(name, 2), declined(name, GENITIVE)) == (two, of)
    assert four is None or counted(name, 4) == four
    assert by is None or declined(name, INSTRUMENTAL) == by


@pytest.mark.parametrize(
    "name",
    ["очки", "песочные часы", "вилка и нож", "на вечеринке", "широко улыбается", "лама", "что-то", "", "robot"],
)
def test_what_may_go_wrong_is_left_alone(name: str):
    assert (counted(name, 2), declined(name, GENITIVE), declined(name, INSTRUMENTAL)) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "with_it"),
    [
        ("кот", "с котом"),
        ("слон", "со слоном"),
        ("щит", "со щитом"),
        ("лев", "со львом"),
        ("сумка", "с сумкой"),
        ("очки", None),
    ],
)
def test_a_preposition_is_said_as_it_can_be(name: str, with_it: str | None):
    assert beside(name) == with_it


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Icons:
    folder = tmp_path_factory.mktemp("data")
    write_packages(folder / "packages")
    cache.build(folder, processes=1, sets=SETS)
    return Icons(folder)


def said_of(icons: Icons, scene: Scene) -> set[str]:
    rng = np.random.default_rng(0)
    return {caption(scene, icons, rng, "ru") for _ in range(400)}


def test_captions_count_as_people_do(icons: Icons):
    three = Scene("classic", tuple(Item("dog", x, 0.5, 0.3) for x in (0.2, 0.5, 0.8)), "count")
    said = said_of(icons, three)
    assert {"три собаки, в классическом стиле", "3 собаки, в классическом стиле"} <= said
    assert all(re.search(r"три|3", text) for text in said)
    blue = Scene("flat", tuple(Item("red apple", x, 0.5, 0.4, "blue") for x in (0.3, 0.7)), "count")
    assert {"два синих яблока, в плоском стиле", "два яблока синего цвета, в плоском стиле"} <= said_of(icons, blue)


def test_captions_say_places_from_either_side(icons: Icons):
    beside = Scene("classic", (Item("dog", 0.26, 0.5, 0.45), Item("umbrella", 0.74, 0.5, 0.45)), "pair")
    said = said_of(icons, beside)
    assert {"собака слева от зонта", "зонт справа от собаки"} <= {text.split(",")[0] for text in said}
    assert not any("слева от собаки" in text or "справа от зонта" in text for text in said)
    above = Scene("classic", (Item("dog", 0.5, 0.26, 0.45), Item("umbrella", 0.5, 0.74, 0.45)), "pair")
    said = said_of(icons, above)
    assert {"собака над зонтом", "зонт под собакой"} <= {text.split(",")[0] for text in said}
    assert not any("{" in text or "None" in text for text in said)


def test_without_the_dictionary_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch):
    dictionary._dictionary.cache_clear()
    monkeypatch.setitem(sys.modules, "pymorphy3", None)
    with pytest.raises(DataError, match=r"pymorphy3 is needed for Russian captions: run make train"):
        declined("кит", GENITIVE)
