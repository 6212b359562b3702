"""A real browser on the page, for the tests that drive it as a visitor would."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, TimeoutError, expect

from stablediff import Pipeline
from stablediff.web.page import build_page, look

__all__ = ["CHROMIUM", "Browser", "Page", "expect"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
PATIENCE = 120_000  # milliseconds: how long a busy machine may take, not how long it should
# The editor has taken up the picture: its canvas is no longer the size of an empty one.
PIXELS = "() => document.querySelector('#editor canvas')?.width > 0"
_LEFT = re.compile("AbortError: signal is aborted|Connection errored out")
_streams: dict[Page, set[Request]] = {}  # those that are open, of visitors who stay
DESK, PHONE = (1280, 900), (390, 844)


@contextmanager
def visiting(
    browser: Browser, address: str, size: tuple[int, int] = DESK, locale: str = "en-GB", *, leaves: bool = False
) -> Iterator[Page]:
    """A visitor of its own; an error in its console fails the test. Who leaves in the middle of a run is told by Gradio
    that its connection was closed."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale=locale)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    errors: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    if not leaves:
        streams = _streams[page] = set()
        page.on("request", lambda request: streams.add(request) if "/queue/data" in request.url else None)
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: streams.discard(request))  # no builtin: Playwright marks what it calls
    page.on("console", listen)
    page.on("pageerror", lambda error: errors.append(str(error)))
    open_page(page, address)
    yield page
    _streams.pop(page, None)
    context.close()
    errors = [error for error in errors if not (leaves and _LEFT.search(error))]
    assert errors == [], errors


def settle(page: Page) -> None:
    """Until Gradio has closed the stream of the last events: where it has to break that off, it tells of an AbortError.

    What a run shows last comes a little earlier.
    """
    for _ in range(PATIENCE // 20):
        if not _streams.get(page):
            return
        page.wait_for_timeout(20)


def open_page(page: Page, address: str) -> None:
    """Also where a visitor is there already; unless it may leave in the middle of a run, what is at work ends first."""
    settle(page)
    for _ in range(5):
        try:
            page.goto(address)
        except Error as error:
            if "ERR_ABORTED" in str(error):  # Chromium was still busy with the page that is left
                continue
            raise
        break
    expect(page.locator("#prompt textarea")).to_be_visible(timeout=PATIENCE)


def go_to(page: Page, tab: str) -> None:
    """Opens a tab; those that a narrow page has no room for are in a menu."""
    place = ["create", "edit", "inside", "compare", "history"].index(tab) - 5
    for _ in range(20):  # the page moves tabs into the menu in its own time
        button = page.locator(f"button#tab-{tab}-button").first
        try:
            if not button.is_visible():
                page.click(".overflow-menu > button", timeout=20_000)
                button = page.locator(".overflow-dropdown button").nth(place)
            button.click(timeout=20_000)
        except TimeoutError:
            continue
        return
    raise AssertionError(f"the tab {tab} cannot be opened")


def tell(page: Page, prompt: str, seed: str = "", steps: int = 4) -> None:
    """Fills in the first tab."""
    page.fill("#steps input[type=number]", str(steps))
    page.fill("#prompt textarea", prompt)
    page.fill("#seed input, #seed textarea", seed)


def draw(page: Page, prompt: str, seed: str, steps: int = 4) -> None:
    tell(page, prompt, seed, steps)
    page.click("#draw")


@contextmanager
def serving(pipeline: Pipeline, **options: object) -> Iterator[str]:
    """The page's address, as long as it is served."""
    page = build_page(pipeline, **options).queue()  # type: ignore[arg-type]
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1", **look())
    yield url
    page.close()
