"""The page, driven in a real browser as a visitor would."""

import io
import re
import shutil
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from stablediff import Pipeline, Result, generate
from stablediff.images import read_parameters
from stablediff.recipe import to_request
from stablediff.web.page import CSS, build_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
PATIENCE = 120_000  # milliseconds: how long a busy machine may take, not how long it should


@pytest.fixture(scope="module")
def address(sticker: Pipeline) -> Iterator[str]:
    page = build_page(sticker).queue()
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, css=CSS, ssr_mode=False, server_name="127.0.0.1")
    yield url
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desk", "phone"])
def visitor(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    """A page at desk or phone width; an error in its console fails the test."""
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    errors: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    expect(page.locator("#prompt textarea")).to_be_visible(timeout=PATIENCE)
    yield page
    page.close()
    assert errors == []


def draw(page: Page, prompt: str, seed: str) -> None:
    page.fill("#prompt textarea", prompt)
    page.fill("#seed input, #seed textarea", seed)
    page.click("#draw")


def test_a_typed_prompt_becomes_the_picture_that_generate_draws(visitor: Page, sticker: Pipeline) -> None:
    draw(visitor, "red apple, flat style", seed="9007199254740993")  # more than a browser's numbers hold
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    expect(visitor.locator("#recipe textarea")).to_have_value(re.compile("Seed: 9007199254740993,"))
    with visitor.expect_download() as download:
        visitor.click("#download")
    data = download.value.path().read_bytes()

    recipe = read_parameters(io.BytesIO(data))
    assert recipe is not None
    *_, result = generate(sticker, to_request(recipe))
    assert isinstance(result, Result)
    assert Image.open(io.BytesIO(data)).tobytes() == result.images[0].tobytes()
    assert result.request.prompt == "red apple, flat style"


def test_stop_stops_and_the_next_run_works(visitor: Page) -> None:
    draw(visitor, "fox, glossy style", seed="1")
    expect(visitor.locator("#status")).to_contain_text("Drawing", timeout=PATIENCE)
    visitor.click("#stop")
    expect(visitor.locator("#status")).to_contain_text("Stopped", timeout=PATIENCE)
    visitor.wait_for_timeout(1000)
    expect(visitor.locator("#status")).to_contain_text("Stopped")
    draw(visitor, "fox, glossy style", seed="1")
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)


@pytest.mark.parametrize(
    ("seed", "answer"), [("-1", "seed is -1"), ("seven", "write a whole number"), ("<b>1</b>", "'<b>1</b>'")]
)
def test_a_wrong_wish_is_answered_beside_the_picture(visitor: Page, seed: str, answer: str) -> None:
    draw(visitor, "fox", seed)
    expect(visitor.locator("#status .wrong")).to_contain_text(answer, timeout=PATIENCE)
    assert visitor.locator("#status b").count() == 0  # shown as text, never as markup


def test_two_visitors_see_their_own_pictures(browser: Browser, address: str) -> None:
    pages = [browser.new_page() for _ in range(2)]
    for seed, page in enumerate(pages):
        page.goto(address)
        draw(page, "red heart, flat style", seed=str(seed))
    for seed, page in enumerate(pages):
        expect(page.locator("#status")).to_contain_text(f"with seed {seed}.", timeout=PATIENCE)
        expect(page.locator("#recipe textarea")).to_have_value(re.compile(f"Seed: {seed},"))
        page.close()
