"""Icons on their way from packages to the cache: fetched once, rendered once, named, and opened again."""

import argparse
import builtins
import json
import shutil

import numpy as np
import pytest
from icon_packages import SETS, install_npm, write_package, write_packages

from stablediff.errors import DataError
from stablediff.training.data import Icons, cache, read_split
from stablediff.training.data.command import add_data_command
from stablediff.training.data.render import render, to_svg
from stablediff.training.data.sources import ICON_SETS, KEYWORDS, LABELS, fetch, read_json


@pytest.fixture
def folder(tmp_path):
    write_packages(tmp_path / "data" / "packages")
    return tmp_path / "data"


def test_a_package_is_fetched_once_and_kept(tmp_path, monkeypatch):
    write_package(SETS[0], tmp_path / "shelf")
    log = install_npm(tmp_path, tmp_path / "shelf", monkeypatch)
    path = fetch(SETS[0], tmp_path / "packages")
    assert read_json(path, "icons.json")["width"] == 16
    assert fetch(SETS[0], tmp_path / "packages") == path
    assert log.read_text().splitlines() == ["pack @iconify-json/twemoji@1.2.5"]
    assert [file.name for file in (tmp_path / "packages").iterdir()] == ["iconify-json-twemoji-1.2.5.tgz"]


def test_without_npm_or_network_the_user_is_told_what_to_do(tmp_path, monkeypatch):
    install_npm(tmp_path, tmp_path / "nowhere", monkeypatch)
    with pytest.raises(DataError, match=r"emojilib@4.0.3 \(code ENOTFOUND\): connect and run this again, or put emoji"):
        fetch(KEYWORDS, tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []
    (tmp_path / "bin" / "npm").unlink()
    with pytest.raises(DataError, match=r"npm is needed to fetch emojibase-data@17.0.0: install Node.js"):
        fetch(LABELS, tmp_path / "packages")


def test_a_damaged_package_is_named(tmp_path):
    path = write_package(SETS[0], tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"twemoji-1.2.5.tgz is damaged or lacks icons.json: delete it"):
        read_json(path, "icons.json")


def test_no_set_is_share_alike_or_non_commercial():
    assert {icon_set.licence for icon_set in ICON_SETS} == {"MIT", "Apache-2.0", "CC-BY-4.0"}
    assert all(source.author and source.url for source in (*ICON_SETS, LABELS, KEYWORDS))
    assert len({icon_set.style for icon_set in ICON_SETS}) == len(ICON_SETS)


def test_rendering_keeps_alpha_straight_and_turns_aliases():
    body = '<path fill="#ff0000" fill-opacity="0.5" d="M8 0h8v16h-8z"/>'
    icons = {
        "width": 16,
        "height": 16,
        "icons": {"half": {"body": body}, "wide": {"body": body, "width": 32}},
        "aliases": {"mirrored": {"parent": "half", "hFlip": True}, "turned": {"parent": "half", "rotate": 1}},
    }
    picture = render(to_svg(icons, "half"), 32)
    assert picture.shape == (32, 32, 4)
    assert picture[16, 24].tolist() == pytest.approx([255, 0, 0, 128], abs=2)
    assert picture[16, 8, 3] == 0
    assert (render(to_svg(icons, "mirrored"), 32) == picture[:, ::-1]).all()
    assert (render(to_svg(icons, "turned"), 32) == np.rot90(picture, -1)).all()
    assert render(to_svg(icons, "wide"), 32)[[2, 16], 12, 3].tolist() == pytest.approx([0, 128], abs=2)
    with pytest.raises(DataError, match="cannot be rendered"):
        render("<no svg")


def test_what_was_built_opens_with_names_colours_and_pixels(folder):
    cache.build(folder, processes=1, sets=SETS)
    icons = Icons(folder)
    assert icons.styles == ("flat", "classic", "simple", "line")
    found = {(icon.style, icon.thing): icon.source.rsplit("/", 1)[1] for icon in icons.records}
    lined = {thing: source for (style, thing), source in found.items() if style == "line"}
    assert lined == {thing: f"{found['flat', thing]} in line style" for thing in lined}
    assert len(lined) == 4
    assert {pair: source for pair, source in found.items() if pair[0] != "line"} == {
        ("flat", "red apple"): "red-apple",
        ("flat", "cat"): "cat",
        ("flat", "cat face"): "cat-face",
        ("flat", "key"): "key",
        ("classic", "red apple"): "red-apple",
        ("classic", "dog"): "dog",
        ("classic", "umbrella"): "umbrella",
        ("simple", "red apple"): "redapple",
        ("simple", "cat"): "catside",
        ("simple", "cat face"): "cat",
        ("simple", "dog"): "dogside",
    }
    apple = icons.find("red apple", "flat")
    assert apple is not None
    assert apple.names == {"en": ("red apple", "apple", "fruit", "ringo"), "ru": ("красное яблоко", "яблоко")}
    assert (apple.colours, apple.group) == (("red",), "food-drink")
    picture = icons.picture(apple.index)
    assert picture[256, 256].tolist() == [0xDD, 0x2E, 0x44, 255]
    assert picture[0, 0].tolist() == [0, 0, 0, 0]
    assert icons.find("dog", "flat") is None
    read_split(folder / "split.json")
    licences = (folder / "LICENCES.md").read_text()
    assert "| CC-BY-4.0 | Twitter, jdecked |" in licences
    assert "emojilib" in licences


def test_building_goes_on_where_it_was_broken_off(folder, monkeypatch, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    cache.build(whole, processes=1, sets=SETS)
    monkeypatch.setattr(cache, "_CHUNK", 2)
    real_write, rendered = cache.write_whole, []

    def die(path, data):
        real_write(path, data)
        if b"done" in data and json.loads(data)["done"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(cache, "write_whole", die)
    with pytest.raises(KeyboardInterrupt):
        cache.build(folder, processes=1, sets=SETS)
    with pytest.raises(DataError, match=r"there are no icons in .*: run: python -m stablediff train data"):
        Icons(folder)
    monkeypatch.setattr(cache, "write_whole", real_write)
    real_svgs = cache._svgs
    monkeypatch.setattr(cache, "_svgs", lambda plan, at, start: rendered.append(start) or real_svgs(plan, at, start))
    cache.build(folder, processes=1, sets=SETS)
    cache.build(folder, processes=1, sets=SETS)
    assert rendered == [4, 11]
    for name in ("icons.npy", "icons.jsonl", "split.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_another_list_of_icons_is_rendered_anew(folder):
    cache.build(folder, processes=1, sets=SETS)
    cache.build(folder, processes=1, sets=SETS[1:])
    assert Icons(folder).styles == ("classic", "simple")


def test_a_full_disk_is_found_before_the_work(folder, monkeypatch, capsys):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    with pytest.raises(DataError, match=r"has 0.0 GB free and needs 0.0: choose another data folder"):
        cache.build(folder, processes=1, sets=SETS)
    assert "11 icons need 0.0 GB" in capsys.readouterr().out
    assert not (folder / "icons.npy").exists()


def test_pixels_that_are_not_what_was_noted_are_found(folder):
    cache.build(folder, processes=1, sets=SETS)
    (folder / "icons.npy").write_bytes(b"short")
    with pytest.raises(DataError, match=r"icons.npy is damaged .*: delete it and run this again"):
        cache.build(folder, processes=1, sets=SETS)


def test_without_the_renderer_the_user_is_told_what_to_install(folder, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *rest, **options):
        if name == "resvg_py":
            raise ImportError(name)
        return real_import(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match="run make train"):
        cache.build(folder, processes=1, sets=SETS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("icons.jsonl", b"{}\n"),
        ("icons.jsonl", b""),
        ("icons.npy", b"no array"),
        ("icons.jsonl", b"[1]\n"),
        ("icons.npy", b""),
    ],
)
def test_a_damaged_cache_is_no_riddle(folder, name, content):
    cache.build(folder, processes=1, sets=SETS)
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match="run: python -m stablediff train data"):
        Icons(folder)


def test_the_command_builds_and_counts(folder, monkeypatch, capsys):
    monkeypatch.setattr(cache.build, "__defaults__", (1, SETS))
    parser = argparse.ArgumentParser()
    add_data_command(parser.add_subparsers())
    arguments = parser.parse_args(["data", "--folder", str(folder), "--processes", "1"])
    assert arguments.run(arguments) == 0
    assert "15 pictures of 6 things in" in capsys.readouterr().out
    arguments = parser.parse_args(["data", "--folder", str(folder), "--processes", "0"])
    with pytest.raises(DataError, match="--processes 0"):
        arguments.run(arguments)
