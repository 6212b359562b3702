"""A folder of one's own pictures: what is read, and what is left out and why."""

import json

import numpy as np
import pytest
from PIL import Image

from stablediff.errors import DataError
from stablediff.training.data import FolderPictures

RNG = np.random.default_rng(0)


def save(path, size=(64, 64), colour="red", mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_a_text_beside_each_picture(tmp_path, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("  a red\nsquare ")
    save(tmp_path / "b.JPG", colour="blue")
    (tmp_path / "b.txt").write_text("a blue square")
    pictures = FolderPictures(tmp_path, 32)
    assert len(pictures) == 2
    assert [pictures.caption(i, RNG) for i in range(2)] == ["a red square", "a blue square"]
    assert pictures.picture(0).shape == (32, 32, 3)
    assert pictures.picture(0)[16, 16].tolist() == [255, 0, 0]
    assert pictures.skipped == []
    assert capsys.readouterr().err == ""


def test_a_list_of_captions(tmp_path):
    save(tmp_path / "images" / "a.png")
    lines = [{"file": "a.png", "captions": ["one", "two"]}, {"file": "images/a.png", "caption": "three"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    pictures = FolderPictures(tmp_path, 16)
    assert {pictures.caption(0, RNG) for _ in range(50)} == {"one", "two"}
    assert pictures.caption(1, RNG) == "three"


def test_pictures_are_cropped_about_the_middle_and_keep_alpha_if_asked(tmp_path):
    picture = Image.new("RGBA", (90, 30), (0, 0, 0, 0))
    picture.paste((0, 255, 0, 255), (30, 0, 60, 30))
    picture.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("green")
    solid = FolderPictures(tmp_path, 30, channels=4).picture(0)
    assert solid.shape == (30, 30, 4)
    assert (solid == (0, 255, 0, 255)).all()
    half = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    half.save(tmp_path / "a.png")
    assert (FolderPictures(tmp_path, 30).picture(0) == 255).all()


def test_what_cannot_be_used_is_left_out_with_its_reason_and_said_once(tmp_path, capsys):
    for name in ("good", "empty", "small"):
        save(tmp_path / f"{name}.png", size=(10, 40) if name == "small" else (40, 40))
        (tmp_path / f"{name}.txt").write_text("" if name == "empty" else "words")
    save(tmp_path / "silent.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "broken.txt").write_text("words")
    Image.new("1", (8_000, 8_000)).save(tmp_path / "vast.png")
    (tmp_path / "vast.txt").write_text("words")
    save(tmp_path / "latin.png")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "notes.txt").write_text("no picture")
    pictures = FolderPictures(tmp_path, 32)
    assert len(pictures) == 1
    reasons = {path.stem: why for path, why in pictures.skipped}
    assert set(reasons) == {"empty", "small", "silent", "broken", "vast", "latin"}
    assert reasons["small"] == "it has 10 x 40 pixels, too few to be shown at 32"
    assert reasons["silent"] == reasons["empty"] == "it has no caption"
    assert reasons["latin"] == "latin.txt is not in UTF-8: save it anew as UTF-8"
    assert "must be a whole PNG" in reasons["broken"]
    assert "scale it down" in reasons["vast"]
    named = capsys.readouterr().err.splitlines()
    assert named == [f"{path} is left out: {why}" for path, why in pictures.skipped]


def test_the_first_twenty_that_are_left_out_are_named(tmp_path, capsys):
    for number in range(25):
        save(tmp_path / f"{number:02}.png", size=(16, 16))
    (tmp_path / "00.txt").write_text("words")
    assert len(FolderPictures(tmp_path, 16)) == 1
    named = capsys.readouterr().err.splitlines()
    assert len(named) == 21
    assert named[-1] == f"and 4 more in {tmp_path}"


def test_bad_lines_of_the_list_are_left_out(tmp_path):
    save(tmp_path / "data" / "images" / "a.png")
    save(tmp_path / "secret.png")
    lines = ['{"file": "a.png", "caption": "x"}', "{", "7", '{"file": "a.png"}', '{"file": "a.png", "caption": 3}']
    lines += ['{"file": "a.png", "captions": "xyz"}', '{"file": "a.png", "captions": {"x": 1}}']
    lines += ['{"file": "gone.png", "caption": "x"}', '{"file": "../secret.png", "caption": "x"}']
    (tmp_path / "data" / "captions.jsonl").write_text("\n".join(lines))
    pictures = FolderPictures(tmp_path / "data", 16)
    assert len(pictures) == 1
    whys = [why for _, why in pictures.skipped]
    assert [why[:8] for why in whys[:6]] == [f"line {number} i" for number in range(2, 8)]
    assert "there is no picture" in whys[6]
    assert whys[7] == "it lies outside of the folder"


def test_a_folder_of_nothing_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        FolderPictures(tmp_path / "gone", 32)
    with pytest.raises(
        DataError, match=r"no picture with a caption that can be used \(no picture at all\): each needs a .txt"
    ):
        FolderPictures(tmp_path, 32)
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"no picture with a caption that can be used \(a.png: it has no caption\)"):
        FolderPictures(tmp_path, 32)
    with pytest.raises(DataError, match="with 2 channels"):
        FolderPictures(tmp_path, 32, channels=2)
    (tmp_path / "captions.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="must be text in UTF-8"):
        FolderPictures(tmp_path, 32)


def _list(folder, *lines):
    save(folder / "a.png")
    (folder / "captions.jsonl").write_bytes("\n".join(lines).encode())
    return FolderPictures(folder, 16)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"file": "a.png", "caption": "red \ud800 disc"}, "line 2 has half a letter in its caption: write it in UTF-8"),
        ({"file": "a.png", "captions": ["x", "\udc00"]}, "line 2 has half a letter in its caption: write it in UTF-8"),
        ({"file": "a\0.png", "caption": "x"}, r"line 2 names the file 'a\x00.png': it has letters that no file name"),
        ({"file": "a\ud800.png", "caption": "x"}, r"line 2 names the file 'a\ud800.png': it has letters that no file"),
        ({"file": 7, "caption": "x"}, "line 2 is not {"),
    ],
)
def test_one_line_that_cannot_be_does_not_stop_a_run(tmp_path, capsys, line, why):
    pictures = _list(tmp_path, '{"file": "a.png", "caption": "one"}', json.dumps(line))
    assert len(pictures) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"captions.jsonl is left out: {why}" in said


def test_long_names_are_shortened(tmp_path, capsys):
    line = json.dumps({"file": "x" * 5_000 + ".png", "caption": "x"})
    assert len(_list(tmp_path, '{"file": "a.png", "caption": "one"}', line)) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert len(said) <= 600
    assert "is left out" in said
    with pytest.raises(DataError) as refused:
        _list(tmp_path, line)
    assert len(str(refused.value)) < 1_000


def test_marks_of_byte_order_are_no_part_of_the_text(tmp_path):
    pictures = _list(
        tmp_path / "list", '\ufeff{"file": "a.png", "caption": "one"}\r', '{"file": "a.png", "caption": "two"}'
    )
    assert [pictures.caption(i, RNG) for i in range(2)] == ["one", "two"]
    for name, text in (("a", "red disc"), ("b", "")):
        save(tmp_path / "beside" / f"{name}.png")
        (tmp_path / "beside" / f"{name}.txt").write_text(text, encoding="utf-8-sig")
    pictures = FolderPictures(tmp_path / "beside", 16)
    assert [pictures.caption(i, RNG) for i in range(len(pictures))] == ["red disc"]
    assert [(path.name, why) for path, why in pictures.skipped] == [("b.png", "it has no caption")]


def test_lines_of_the_list_end_where_json_lines_do(tmp_path):
    pictures = _list(
        tmp_path, '{"file": "a.png", "caption": "red\u2028disc"}', '{"file": "a.png", "caption": "x\u0085y"}'
    )
    assert pictures.skipped == []
    assert [pictures.caption(i, RNG) for i in range(2)] == ["red disc", "x y"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_captions_in_other_encodings_are_said_to_be(tmp_path, encoding):
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "b.txt").write_bytes("café".encode(encoding))
    assert FolderPictures(tmp_path, 16).skipped == [
        (tmp_path / "b.png", "b.txt is not in UTF-8: save it anew as UTF-8")
    ]


def test_pictures_of_other_formats_are_named(tmp_path):
    for name in ("a.png", "b.gif", "c.BMP", "d.tif", "e.gif"):
        save(tmp_path / name)
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text("words")
    pictures = FolderPictures(tmp_path, 16)
    assert len(pictures) == 1
    assert [path.name for path, _ in pictures.skipped] == ["b.gif", "c.BMP", "d.tif"]
    assert {why for _, why in pictures.skipped} == {"it is no PNG, JPEG or WebP: save it as one of them"}
