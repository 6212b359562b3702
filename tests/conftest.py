import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from stablediff import Pipeline, load

if TYPE_CHECKING:
    from tiny import TinyModel


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread for tiny models: more of them only wait for each other, tenfold where cores are shared."""
    before = torch.get_num_threads()
    if not request.node.get_closest_marker("slow"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sticker() -> Pipeline:
    """The bundled model, in float32 so that pictures do not depend on what the CPU computes best."""
    return load("sticker", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "TinyModel"]:
    """kind -> a random model of the reference libraries and the folder that they saved it in, once a session."""
    from tiny import save_model  # imports those libraries, which takes seconds

    return cache(lambda kind: save_model(kind, tmp_path_factory.mktemp("tiny") / kind))


@pytest.fixture
def copied(tiny_model: Callable[[str], "TinyModel"], tmp_path: Path) -> Path:
    """The folder of a tiny SD 1 model, to be tampered with."""
    return Path(shutil.copytree(tiny_model("sd1").folder, tmp_path / "model"))


@pytest.fixture
def toy() -> Pipeline:
    from toy import toy_pipeline

    return toy_pipeline()


@pytest.fixture
def apple(sticker: Pipeline) -> Image.Image:
    from toy import APPLE, draw

    return draw(sticker, **APPLE, seed=5).images[0]
