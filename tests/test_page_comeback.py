"""A refresh in the midst of a run: the run is still there, in every tab."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, PATIENCE, PIXELS, Browser, Page, expect, go_to, open_page, tell, visiting
from PIL import Image
from test_page_edit import drop

from stablediff import Pipeline

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")


class Brake:
    """Lets the network compute so many times, and then waits until it is let go: a refresh is in the midst of a run."""

    def __init__(self, calls: int) -> None:
        self.left, self.free = calls, threading.Event()

    def __call__(self, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            self.free.wait(PATIENCE / 1000)


@contextmanager
def braked(pipeline: Pipeline, calls: int) -> Iterator[Brake]:
    brake = Brake(calls)
    hook = pipeline.unet.register_forward_pre_hook(brake)
    try:
        yield brake
    finally:
        brake.free.set()
        hook.remove()


def leave_and_come_back(page: Page, address: str, tab: str, status: str) -> None:
    """In the midst of a run, which goes on meanwhile."""
    expect(page.locator(status)).to_contain_text("step", timeout=PATIENCE)
    open_page(page, address)
    go_to(page, tab)
    expect(page.locator(status)).to_contain_text("step", timeout=PATIENCE)


def test_a_watched_run_and_its_film_survive_a_refresh(browser: Browser, address: str, pipeline: Pipeline) -> None:
    with braked(pipeline, 20) as brake, visiting(browser, address, leaves=True) as page:
        tell(page, "a red cat", seed="1", steps=60)
        go_to(page, "inside")
        page.click("#watch")
        leave_and_come_back(page, address, "inside", "#watch-status")
        brake.free.set()
        expect(page.locator("#watch-status")).to_contain_text("Drawn in", timeout=PATIENCE)
        expect(page.locator("#scrub input[type=number]")).to_have_value("60", timeout=PATIENCE)
        first = page.locator("#heat img").get_attribute("src")
        page.locator("#word").get_by_text("cat").click()
        expect(page.locator("#heat img")).not_to_have_attribute("src", str(first), timeout=PATIENCE)


def test_a_comparison_survives_a_refresh_and_can_be_stopped_then(
    browser: Browser, address: str, pipeline: Pipeline
) -> None:
    with braked(pipeline, 30) as brake, visiting(browser, address, leaves=True) as page:
        tell(page, "a red cat", seed="1", steps=12)
        go_to(page, "compare")
        page.fill("#values-across textarea", "1; 2,5; 3; 4; 5; 6; 7; 8")
        page.click("#compare")
        expect(page.locator("#comparison img")).to_be_visible(timeout=PATIENCE)  # the first cells
        leave_and_come_back(page, address, "compare", "#compare-status")
        page.click("#compare-stop")
        expect(page.locator("#compare-status")).to_contain_text("Stopping", timeout=PATIENCE)
        brake.free.set()
        expect(page.locator("#compare-status")).to_contain_text("Pictures kept: 2.", timeout=PATIENCE)
        expect(page.locator("#comparison img")).to_be_visible(timeout=PATIENCE)
        expect(page.locator("#compare")).to_be_enabled(timeout=PATIENCE)


def test_an_edit_and_its_picture_survive_a_refresh(
    browser: Browser, address: str, pipeline: Pipeline, tmp_path: Path
) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "grey.png")
    with braked(pipeline, 20) as brake, visiting(browser, address, leaves=True) as page:
        tell(page, "", seed="3", steps=60)
        go_to(page, "edit")
        page.wait_for_function(PIXELS)
        drop(page, tmp_path / "grey.png")
        page.fill("#edit-prompt textarea", "green apple, flat style")
        page.click("#edit")
        leave_and_come_back(page, address, "edit", "#edit-status")
        brake.free.set()
        expect(page.locator("#edit-status")).to_contain_text("Drawn in", timeout=PATIENCE)
        expect(page.locator("#before-after img").first).to_be_visible(timeout=PATIENCE)
        expect(page.locator("#editor").get_by_text("Drop a picture here")).to_be_hidden(timeout=PATIENCE)
        page.fill("#edit-prompt textarea", "a blue whale")
        page.click("#edit")  # the picture is on the canvas again
        expect(page.locator("#edit-recipe textarea")).to_have_value(
            re.compile("blue whale.*Denoising", re.DOTALL), timeout=PATIENCE
        )
