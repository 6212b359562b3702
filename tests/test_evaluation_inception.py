"""FID's own features, by a package that is fetched with its weights; here one of the same face stands in for it."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stablediff.errors import EvaluationError
from stablediff.evaluation.features import embed_all, random_features
from stablediff.evaluation.frechet import frechet_distance
from stablediff.evaluation.inception import inception_features


class Network(nn.Module):
    """Means of each colour, where the package has 2048 features."""

    BLOCK_INDEX_BY_DIM: ClassVar = {2048: 3}

    def __init__(self, blocks: list[int]) -> None:
        super().__init__()
        assert blocks == [3]

    def forward(self, x: Tensor) -> list[Tensor]:
        assert x.shape[1] == 3
        assert x.min() >= 0
        assert x.max() <= 1
        return [x.mean(dim=(2, 3), keepdim=True)]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("pytorch_fid.inception")
    module.InceptionV3 = Network
    monkeypatch.setitem(sys.modules, "pytorch_fid", ModuleType("pytorch_fid"))
    monkeypatch.setitem(sys.modules, "pytorch_fid.inception", module)
    return module


@pytest.mark.usefixtures("package")
def test_pictures_of_any_size_over_white() -> None:
    clear = Image.new("RGBA", (40, 30), (255, 0, 0, 0))
    half = Image.new("RGB", (8, 8), (51, 102, 153))
    embed = inception_features(torch.device("cpu"))
    features = embed(iter([clear, half] * 10))
    assert features.shape == (20, 3)
    assert torch.allclose(features[0], torch.ones(3))
    assert torch.allclose(features[1], torch.tensor([0.2, 0.4, 0.6]))
    assert len(embed([])) == 0


@pytest.mark.usefixtures("package")
def test_all_kinds_of_features_in_one_pass() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in noise]
    ways = {"inception": inception_features(torch.device("cpu")), "random": random_features}
    found = embed_all(iter(pictures), ways)
    for name, embed in ways.items():
        assert torch.allclose(found[name], embed(pictures), atol=1e-5)
        assert frechet_distance(found[name], embed(pictures)) < 1e-3
        assert embed_all([], ways)[name].shape[0] == 0


def test_what_is_missing_is_said(package: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(_: list[int]) -> Network:
        raise URLError("no route to host")

    unreachable.BLOCK_INDEX_BY_DIM = Network.BLOCK_INDEX_BY_DIM  # type: ignore[attr-defined]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    package.InceptionV3 = unreachable
    with pytest.raises(EvaluationError, match=r"no route to host.*put pt_inception-2015-12-05-6726825d.pth"):
        inception_features(torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "pytorch_fid.inception", None)
    with pytest.raises(EvaluationError, match="pip install"):
        inception_features(torch.device("cpu"))
