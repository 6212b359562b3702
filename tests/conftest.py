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
    from command_line import Outcome
    from playwright.sync_api import Browser, Page
    from telegram_people import BotProcess, Person
    from telegram_server import TelegramServer
    from tiny import TinyModel


_ALL_THREADS = torch.get_num_threads()
# One for tiny models: more of them only wait for each other, tenfold where cores are shared. From the start, because
# what several compute together can differ in the last bit, and a page that was opened before a test would have several.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """All of them for large models only."""
    if request.node.get_closest_marker("slow"):
        torch.set_num_threads(_ALL_THREADS)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured in a test is forgotten after it."""
    monkeypatch.setenv("STABLEDIFF_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pages of tests that run side by side keep their files apart: each clears up after itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("pictures")))
        yield


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
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., "Outcome"]:
    """`run("generate", "a cat", …)` in this process, in a folder of its own."""
    from command_line import Outcome

    from stablediff.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> "Outcome":
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = exit_.code
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, sticker: Pipeline) -> Pipeline:
    """The bundled model, already in memory."""
    from stablediff import drawing

    monkeypatch.setattr(drawing, "load", lambda *_, **__: sticker)
    return sticker


@pytest.fixture
def toy() -> Pipeline:
    from toy import toy_pipeline

    return toy_pipeline()


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toy import toy_pipeline

    folder = tmp_path_factory.mktemp("toy") / "toy"
    toy_pipeline().save(folder)
    return folder


@pytest.fixture(scope="session")
def model(toy_folder: Path) -> Pipeline:
    """What the bots of `toy_folder` draw with."""
    return load(toy_folder, device="cpu", dtype="float32")


@pytest.fixture
def telegram(bot: "BotProcess") -> Iterator["TelegramServer"]:
    """The Telegram of the module's bot. It is well again after each test."""
    yield bot.server
    bot.server.faults.clear()


@pytest.fixture
def ann(telegram: "TelegramServer") -> "Person":
    """Somebody whom the bot never saw."""
    from telegram_people import new_person

    return new_person(telegram)


@pytest.fixture
def apple(sticker: Pipeline) -> Image.Image:
    from toy import APPLE, draw

    return draw(sticker, **APPLE, seed=5).images[0]


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """One Chromium a session; visitors have contexts of their own in it."""
    from browser import CHROMIUM, QUIET
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """What the module's page draws with."""
    from toy import toy_pipeline

    return toy_pipeline()


@pytest.fixture(scope="module")
def address(pipeline: Pipeline) -> Iterator[str]:
    """Where the module's page is served."""
    from browser import serving

    with serving(pipeline) as url:
        yield url


@pytest.fixture
def visitor(browser: "Browser", address: str) -> "Iterator[Page]":
    from browser import visiting

    with visiting(browser, address) as page:
        yield page
