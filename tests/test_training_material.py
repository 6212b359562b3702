"""What stages learn from: latents are made anew when the icons are others; sizes and seeds are checked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import TINY_VAE, loop, shape

from stablediff.errors import ConfigError
from stablediff.training.data import Icon, make_split
from stablediff.training.data.icons import PIXELS, RECORDS
from stablediff.training.initialise import new_vae
from stablediff.training.loop import autocast
from stablediff.training.material import ScenesConfig, shown_of

ICON = Icon(0, "set@1/disc", "flat", "disc", "shapes", {"en": ("disc",)}, ("red",))
VAE = new_vae(TINY_VAE)
CPU = torch.device("cpu")


def _write(folder: Path, icon: Icon, index: int) -> None:
    folder.mkdir(exist_ok=True)
    np.save(folder / PIXELS, shape(index, 512)[None])
    (folder / RECORDS).write_text(icon.to_json() + "\n")
    make_split([icon]).write(folder / "split.json")


def _latents(folder: Path, size: int = 32) -> torch.Tensor:
    return shown_of(folder, ScenesConfig(num=2), size, VAE, CPU, autocast(loop(), CPU))[0].latents.clone()


def test_latents_are_those_of_the_icons_that_are_there(tmp_path: Path) -> None:
    _write(tmp_path, ICON, 0)
    first = _latents(tmp_path)
    assert torch.equal(_latents(tmp_path), first)
    assert len(list((tmp_path / "latents").glob("*.npy"))) == 2  # and none that are held out
    _write(tmp_path, replace(ICON, source="set@2/disc"), 1)
    assert not torch.equal(_latents(tmp_path), first)
    _write(tmp_path, ICON, 0)
    assert torch.equal(_latents(tmp_path), first)


@pytest.mark.parametrize("size", [33, 66])
def test_a_size_that_is_no_number_of_cells_is_refused(tmp_path: Path, size: int) -> None:
    _write(tmp_path, ICON, 0)
    with pytest.raises(ConfigError, match=f"size is {size}: choose a multiple of 4"):
        _latents(tmp_path, size)


@pytest.mark.parametrize("name", ["seed", "num_things"])
def test_scenes_have_no_negative_numbers(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is -1: choose 0 or more"):
        ScenesConfig(**{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"caf\xe9\n", r"cannot read things_file .*things.txt \(.*\): it must be text in UTF-8"),
        (b"\n  \n", "things.txt names nothing: write a thing a line"),
        (b"\xef\xbb\xbf", "things.txt names nothing: write a thing a line"),
        (None, "cannot read things_file .*things.txt: No such file"),
    ],
)
def test_a_file_of_things_that_names_none_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "things.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        ScenesConfig(things_file=tmp_path / "things.txt").recipe()


def test_things_are_taken_once_and_without_a_mark_of_byte_order(tmp_path: Path) -> None:
    (tmp_path / "things.txt").write_text("disc\r\nring\ndisc\nbar\n", encoding="utf-8-sig")
    assert ScenesConfig(things_file=tmp_path / "things.txt").recipe().things == ("disc", "ring", "bar")
    assert ScenesConfig(things_file=tmp_path / "things.txt", num_things=3).recipe().things[-1] == "bar"
