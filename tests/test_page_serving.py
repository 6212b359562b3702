"""What a server says to programs, to those who come back, and to its environment."""

import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, PATIENCE, PHONE, Browser, draw, expect, go_to, open_page, serving, visiting
from gradio_client import Client
from PIL import Image
from toy import toy_pipeline

from stablediff import CheckpointError, Pipeline, Request, RequestError, Result, generate
from stablediff.checkpoints.progress import Progress
from stablediff.config import Defaults
from stablediff.images import read_parameters
from stablediff.request import Limits
from stablediff.web.serving import launch_options, read_auth, read_repository


def test_a_program_gets_the_same_picture(address: str, pipeline: Pipeline, tmp_path: Path) -> None:
    client = Client(address, verbose=False, download_files=str(tmp_path))
    options = {"prompt": "a red cat", "steps": 3, "seed": "7"}
    files, recipes, notes = client.predict(**options, pictures=2, api_name="/generate")
    assert notes == []
    *_, result = generate(pipeline, Request(prompt="a red cat", num_steps=3, seed=7, num_images=2))
    assert isinstance(result, Result)
    for file, recipe, image in zip(files, recipes, result.images, strict=True):
        assert Image.open(file).tobytes() == image.tobytes()
        assert read_parameters(file) == recipe
    _, _, notes = client.predict(**options, guidance=1, negative_prompt="blue", api_name="/generate")
    assert ["the negative prompt had no effect" in note for note in notes] == [True]
    with pytest.raises(Exception, match="seed is -1"):
        client.predict(prompt="cat", seed="-1", api_name="/generate")
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/generate"]  # type: ignore[index]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")
def test_a_job_survives_a_refresh(browser: Browser, address: str, pipeline: Pipeline) -> None:
    slowly = pipeline.unet.register_forward_pre_hook(lambda *_: time.sleep(0.2))  # so that the refresh is in its midst
    try:
        with visiting(browser, address, leaves=True) as page:
            draw(page, "a red cat", seed="1", steps=60)
            expect(page.locator("#status")).to_contain_text("step", timeout=PATIENCE)
            open_page(page, address)
            expect(page.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
            expect(page.locator("#create-recipe textarea")).to_have_value(re.compile("Steps: 60,.* Seed: 1,"))
    finally:
        slowly.remove()
    with visiting(browser, address) as page:  # another visitor sees nothing of it
        expect(page.locator("#estimate")).to_be_attached()
        expect(page.locator("#create-recipe textarea")).to_have_value("")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")
def test_history_is_kept_in_the_visitors_browser(browser: Browser, address: str) -> None:
    with visiting(browser, address, PHONE, "ru-RU") as page:
        draw(page, "синий кит", seed="11", steps=2)
        expect(page.locator("#status")).to_contain_text("Готово", timeout=PATIENCE)
        go_to(page, "history")
        expect(page.locator("#history .card")).to_have_count(1, timeout=PATIENCE)
        open_page(page, address)
        page.fill("#prompt textarea", "")
        go_to(page, "history")
        expect(page.locator("#history .words")).to_have_text("синий кит", timeout=PATIENCE)
        with page.expect_download() as download:
            page.click("#history .keep")
        assert "Seed: 11," in (read_parameters(download.value.path()) or "")
        page.click("#history .again")
        expect(page.locator("#prompt textarea")).to_have_value("синий кит", timeout=PATIENCE)
        expect(page.locator("#seed input, #seed textarea")).to_have_value("11")
        go_to(page, "history")
        page.click("#history .gone")
        expect(page.locator("#history .card")).to_have_count(0, timeout=PATIENCE)
        expect(page.locator("#history .quiet")).to_contain_text("Пока пусто")
    with visiting(browser, address) as page:
        go_to(page, "history")
        expect(page.locator("#history .quiet")).to_contain_text("Nothing yet", timeout=PATIENCE)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")
def test_another_model_can_be_chosen(browser: Browser) -> None:
    seen = threading.Event()

    def loader(name: str, progress: Progress) -> Pipeline:
        if name == "broken":
            raise CheckpointError("there is no model 'broken'")
        progress("loading", 0.5)
        seen.wait(PATIENCE / 1000)
        other = toy_pipeline()
        other.name = name
        other.config = replace(other.config, defaults=Defaults(num_steps=2, width=128, height=64, sampler="euler"))
        return other

    with (
        serving(toy_pipeline(), models=("toy", "other", "broken"), loader=loader) as url,
        visiting(browser, url, locale="ru-RU") as bystander,
        visiting(browser, url) as page,
    ):
        for name, answer in [("other", "other is ready"), ("broken", "no model 'broken'")]:
            page.locator("#model input").blur()  # a list that is still open would not open again
            page.click("#model input")
            page.get_by_role("option", name=name).click()
            if name == "other":
                expect(page.locator("#status")).to_contain_text("Loading the model other: 50%", timeout=PATIENCE)
                seen.set()
            expect(page.locator("#status")).to_contain_text(answer, timeout=PATIENCE)
        expect(page.locator("#model input")).to_have_value("other", timeout=PATIENCE)
        expect(page.locator("#steps input[type=number]")).to_have_value("2", timeout=PATIENCE)
        draw(page, "a cat", seed="2", steps=2)
        expect(page.locator("#create-recipe textarea")).to_have_value(
            re.compile("Sampler: Euler,.*Size: 128x64, Model: other"), timeout=PATIENCE
        )
        expect(page.locator("#restored")).to_be_empty()
        expect(bystander.locator("#restored")).to_contain_text("Кто-то выбрал модель other", timeout=PATIENCE)
        expect(bystander.locator("#model input")).to_have_value("other", timeout=PATIENCE)
        expect(bystander.locator("#steps input[type=number]")).to_have_value("2", timeout=PATIENCE)


def test_the_environment_narrows_what_may_be_asked_for() -> None:
    assert Limits.from_environment({}) == Limits()
    limits = Limits.from_environment({"STABLEDIFF_MAX_SIDE": "256", "STABLEDIFF_MAX_IMAGES": "1"})
    assert (limits.max_side, limits.max_images) == (256, 1)
    for name, value in [("MAX_SIDE", "32"), ("MAX_STEPS", "many"), ("MAX_IMAGES", "0")]:
        with pytest.raises(RequestError, match=name):
            Limits.from_environment({f"STABLEDIFF_{name}": value})
    with pytest.raises(RequestError, match="at most 256 here"):
        limits.check(Request(width=512, seed=1).resolve(toy_pipeline().config.defaults))


def test_where_our_files_can_be_read() -> None:
    assert read_repository({}) == ""
    assert read_repository({"SPACE_ID": "ann/draws"}) == "https://huggingface.co/spaces/ann/draws/blob/main"
    own = {"SPACE_ID": "ann/draws", "STABLEDIFF_REPOSITORY": "https://github.com/ann/draws/blob/main/"}
    assert read_repository(own) == "https://github.com/ann/draws/blob/main"
    for wrong in ("javascript:alert(1)", "github.com/x", 'https://x.org/"onclick="x'):
        with pytest.raises(RequestError, match="STABLEDIFF_REPOSITORY"):
            read_repository({"STABLEDIFF_REPOSITORY": wrong})


def test_the_front_matter_names_what_the_space_needs() -> None:
    root = Path(__file__).parent.parent
    _, front, _ = (root / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    named = dict(line.split(": ", 1) for line in front.splitlines())
    assert named["sdk"] == "gradio"
    assert f"gradio=={named['sdk_version']}" in (root / "requirements.txt").read_text().splitlines()
    assert (root / named["app_file"]).is_file()
    assert len(named["short_description"]) <= 60  # or the Space is refused


def test_who_may_come_in() -> None:
    assert read_auth("") is None
    assert read_auth("ann:a:b, bob:c") == [("ann", "a:b"), ("bob", "c")]
    assert launch_options({})["auth"] is None
    for wrong in ("ann", "ann:", ":x"):
        with pytest.raises(RequestError, match="STABLEDIFF_AUTH"):
            read_auth(wrong)
