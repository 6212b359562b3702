"""Latents are made once, in turn, and are those of the pictures and of the autoencoder that they are asked of."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stages import ShapePictures, autoencoder, loop

from stablediff.errors import DataError
from stablediff.models.vae import VAE
from stablediff.training import latents as module
from stablediff.training.crops import to_model
from stablediff.training.latents import cached_latents
from stablediff.training.loop import autocast

CPU = torch.device("cpu")


def latents_of(pictures: ShapePictures, folder: Path, vae: VAE, precision: str = "float32") -> torch.Tensor:
    return cached_latents(folder, "shapes", pictures, 64, vae, CPU, autocast(loop(precision=precision), CPU))


def test_latents_are_kept_and_a_damaged_file_of_them_is_made_anew(tmp_path: Path) -> None:
    vae = autoencoder().vae

    def latents() -> torch.Tensor:
        return latents_of(ShapePictures(), tmp_path, vae).clone()

    first = latents()
    assert first.shape == (16, 4, 16, 16)
    file = next(tmp_path.glob("*.npy"))
    made = file.stat().st_mtime_ns
    assert torch.equal(latents(), first)
    assert file.stat().st_mtime_ns == made
    for damaged in (file.read_bytes()[:300], b"no array at all"):
        file.write_bytes(damaged)
        assert torch.equal(latents(), first)


class Drawn(ShapePictures):
    def __init__(self, broken: int | None) -> None:
        super().__init__()
        self.broken, self.drawn = broken, set[int]()

    def picture(self, index: int) -> NDArray[np.uint8]:
        if index == self.broken:
            raise DataError("this picture is broken")
        self.drawn.add(index)
        return super().picture(index)


def test_latents_go_on_where_they_were_broken_off(tmp_path: Path) -> None:
    vae = autoencoder().vae
    with pytest.raises(DataError, match="this picture is broken"):
        latents_of(Drawn(broken=9), tmp_path / "broken", vae)
    mended, whole = Drawn(broken=None), Drawn(broken=None)
    assert torch.equal(latents_of(mended, tmp_path / "broken", vae), latents_of(whole, tmp_path / "whole", vae))
    assert mended.drawn == set(range(9, 16))
    assert whole.drawn == set(range(16))
    with torch.inference_mode():
        pixels = torch.stack([to_model(whole.picture(index), 4) for index in range(16)])
        assert (vae.encode(pixels) - latents_of(whole, tmp_path / "whole", vae)).abs().max() < 1e-2


def test_two_runs_make_the_same_latents_once(tmp_path: Path) -> None:
    vae, both = autoencoder().vae, [Drawn(broken=None), Drawn(broken=None)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda pictures: latents_of(pictures, tmp_path, vae), both)
    assert torch.equal(first, second)
    assert first.flatten(1).any(dim=1).all()
    assert sorted(len(pictures.drawn) for pictures in both) == [0, 16]


def test_what_was_counted_of_a_file_that_has_gone_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    vae = autoencoder().vae
    first = latents_of(ShapePictures(), tmp_path, vae).clone()
    file = next(tmp_path.glob("*.npy"))
    file.unlink()
    counts = []
    make = module._encoded

    def encoded(*arguments):
        counts.append(file.with_suffix(".json").exists())  # what a run that is killed now would leave
        return make(*arguments)

    monkeypatch.setattr(module, "_encoded", encoded)
    assert torch.equal(latents_of(ShapePictures(), tmp_path, vae), first)
    assert counts == [False]


def test_other_settings_and_another_precision_have_latents_of_their_own(tmp_path: Path) -> None:
    vae = autoencoder().vae
    latents_of(ShapePictures(), tmp_path, vae)
    latents_of(ShapePictures(), tmp_path, vae, precision="bfloat16")
    assert len(list(tmp_path.glob("*.npy"))) == 2
    vae.config = replace(vae.config, scaling_factor=0.5)
    latents_of(ShapePictures(), tmp_path, vae)
    assert len(list(tmp_path.glob("*.npy"))) == 3
