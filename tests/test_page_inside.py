"""The run, looked into in a real browser."""

import re

import pytest
from browser import CHROMIUM, DESK, PATIENCE, PHONE, Browser, expect, go_to, tell, visiting
from PIL import Image
from toy import toy_pipeline

from stablediff import Request, Result, generate
from stablediff.insight.recorder import Recorder
from stablediff.web.told import Film, code, explain

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")


@pytest.mark.parametrize(
    ("size", "locale", "noise"), [(DESK, "en-GB", "the noise that"), (PHONE, "ru-RU", "шум, который")]
)
def test_a_run_is_shown_step_by_step_and_word_by_word(
    browser: Browser, address: str, size: tuple[int, int], locale: str, noise: str
) -> None:
    with visiting(browser, address, size, locale) as page:
        tell(page, "a red cat", seed="5", steps=3)
        go_to(page, "inside")
        page.click("#watch")
        expect(page.locator("#explained")).to_contain_text(noise, timeout=PATIENCE)
        expect(page.locator("#explained circle")).to_have_count(4)
        expect(page.locator("#explained div > code").last).to_contain_text("x' =")
        before = page.locator("#explained").inner_text()
        page.fill("#scrub input[type=number]", "1")
        page.press("#scrub input[type=number]", "Tab")
        expect(page.locator("#explained")).not_to_have_text(before, timeout=PATIENCE)
        for picture in ("#seen img", "#believed img", "#heat img"):
            page.locator(picture).evaluate("picture => picture.scrollIntoView()")  # it loads when it is looked at
            expect(page.locator(picture)).to_be_visible(timeout=PATIENCE)
        first = page.locator("#heat img").get_attribute("src")
        page.locator("#word").get_by_text("cat").click()
        expect(page.locator("#heat img")).not_to_have_attribute("src", str(first), timeout=PATIENCE)
        expect(page.locator("#inside-recipe textarea")).to_have_value(re.compile("Seed: 5,"))
        page.click("#code button")
        expect(page.locator("#code mark").first).to_contain_text("move(x, ")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_film_plays_stands_still_and_can_be_taken_along(browser: Browser, address: str) -> None:
    with visiting(browser, address) as page:
        tell(page, "a red cat", seed="5", steps=7)
        go_to(page, "inside")
        page.click("#watch")
        scrub = page.locator("#scrub input[type=number]")
        expect(scrub).to_have_value("7", timeout=PATIENCE)
        frames = page.locator("#strip button")
        expect(frames).to_have_count(7, timeout=PATIENCE)
        frames.nth(2).click()
        expect(scrub).to_have_value("3", timeout=PATIENCE)
        page.wait_for_function("document.querySelector('#explained style').textContent.includes('data-step=\"3\"')")
        expect(page.locator("#pause")).to_be_disabled()
        page.click("#play")
        page.click("#pause")
        expect(page.locator("#pause")).to_be_disabled(timeout=PATIENCE)
        page.click("#play")
        expect(scrub).to_have_value("7", timeout=PATIENCE)  # it stops at the end,
        expect(page.locator("#play")).to_be_enabled(timeout=PATIENCE)
        page.click("#play")
        expect(scrub).not_to_have_value("7", timeout=PATIENCE)  # from where it begins again
        page.click("#pause")
        with page.expect_download() as download:
            page.click("#film-file")
        film = Image.open(download.value.path())
        assert (film.format, film.n_frames) == ("GIF", 8)  # type: ignore[attr-defined]
        assert download.value.suggested_filename == "stablediff-5.gif"


def test_the_code_is_linked_where_its_repository_is_known() -> None:
    pipeline = toy_pipeline()
    recorder = Recorder(pipeline, 7.5)
    *_, result = generate(pipeline, Request(prompt="cat " * 200, num_steps=40, seed=1), observer=recorder)
    assert isinstance(result, Result)
    for repository, linked in (("", 0), ("https://example.org/blob/main", 1)):
        film = Film(result.request, recorder.record, pipeline, repository)
        assert explain(film, 7, "en").count("<a ") == linked
        assert code(film, "ru").count("<a ") == 3 * linked  # the sampler, the move, the extrapolation
    assert re.search(r"samplers\.py#L\d+-L\d+", code(film, "en"))
    assert len(film.words) == 60
    assert len(film.frames) == 24


def test_a_wrong_wish_is_answered_here_too(browser: Browser, address: str) -> None:
    with visiting(browser, address) as page:
        tell(page, "cat", seed="x", steps=2)
        go_to(page, "inside")
        page.click("#watch")
        expect(page.locator("#watch-wrong .wrong")).to_contain_text("whole number", timeout=PATIENCE)
