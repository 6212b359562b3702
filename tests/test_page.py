"""The page, driven in a real browser as a visitor would."""

import io
import re
import threading
import time

import pytest
from browser import CHROMIUM, DESK, PATIENCE, PHONE, Browser, Page, draw, expect, go_to, tell, visiting
from PIL import Image

from stablediff import Pipeline, Result, generate
from stablediff.images import read_parameters
from stablediff.recipe import to_request
from stablediff.web.models import Models

WITH_A_PICTURE = ("#create-download", "#vary", "#upscale", "#sticker", "#edit-it", "#delete")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")


@pytest.fixture(scope="module")
def pipeline(sticker: Pipeline) -> Pipeline:
    return sticker


@pytest.mark.parametrize(
    ("size", "locale", "done"), [(DESK, "en-GB", "Drawn in"), (PHONE, "ru-RU", "Готово за")], ids=["desk", "phone"]
)
def test_a_typed_prompt_becomes_the_picture_that_generate_draws(
    browser: Browser, address: str, sticker: Pipeline, size: tuple[int, int], locale: str, done: str
) -> None:
    with visiting(browser, address, size, locale) as page:
        draw(page, "red apple, flat style", seed="9007199254740993")  # more than a browser's numbers hold
        expect(page.locator("#status")).to_contain_text(done, timeout=PATIENCE)
        expect(page.locator("#create-recipe textarea")).to_have_value(re.compile("Seed: 9007199254740993,"))
        with page.expect_download() as download:
            page.click("#create-download")
        data = download.value.path().read_bytes()
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]  # nothing sticks out

    recipe = read_parameters(io.BytesIO(data))
    assert recipe is not None
    *_, result = generate(sticker, to_request(recipe))
    assert isinstance(result, Result)
    assert Image.open(io.BytesIO(data)).tobytes() == result.images[0].tobytes()
    assert result.request.prompt == "red apple, flat style"


def test_a_new_page_stands_at_balanced(visitor: Page) -> None:
    visitor.fill("#prompt textarea", "red apple")
    expect(visitor.locator("#chips .chip").first).to_be_visible(timeout=PATIENCE)
    expect(visitor.locator("#estimate")).to_contain_text("GB of memory", timeout=PATIENCE)
    expect(visitor.locator("#quality input")).to_have_value("Balanced")


def test_an_estimate_that_comes_late_leaves_the_line_of_the_job_alone(
    visitor: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, seconds = threading.Event(), Models.seconds
    monkeypatch.setattr(Models, "seconds", lambda *arguments: (drawn.wait(PATIENCE / 1000), seconds(*arguments))[1])
    draw(visitor, "red apple, flat style", seed="3", steps=2)
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    drawn.set()
    expect(visitor.locator("#estimate")).to_contain_text("GB of memory", timeout=PATIENCE)
    visitor.fill("#seed input, #seed textarea", "x")  # all estimates that were still to come have been answered by then
    expect(visitor.locator("#seed-wrong .wrong")).to_be_visible(timeout=PATIENCE)
    expect(visitor.locator("#status")).to_contain_text("Drawn in")


def test_stop_keeps_what_is_finished_and_the_next_run_works(visitor: Page, sticker: Pipeline) -> None:
    slowly = sticker.unet.register_forward_pre_hook(lambda *_: time.sleep(1))  # so that nobody is too late to stop it
    try:
        stop_early(visitor)
        for button in WITH_A_PICTURE:  # none of which there is a picture for
            expect(visitor.locator(button)).to_be_disabled()
    finally:
        slowly.remove()
    draw(visitor, "fox, glossy style", seed="1")
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    for button in WITH_A_PICTURE:
        expect(visitor.locator(button)).to_be_enabled()
    slowly = sticker.unet.register_forward_pre_hook(lambda *_: time.sleep(1))
    try:
        stop_early(visitor)
    finally:
        slowly.remove()
    expect(visitor.locator("#create-recipe textarea")).to_have_value(re.compile(r"^fox.*Seed: 1,", re.DOTALL))
    with visitor.expect_download() as download:  # the picture from before is there again
        visitor.click("#create-download")
    recipe = read_parameters(io.BytesIO(download.value.path().read_bytes()))
    assert recipe is not None
    assert recipe.startswith("fox, glossy style\n")


def stop_early(visitor: Page) -> None:
    """Begins a picture, sees that meanwhile nothing can be done with another one, and stops before it is finished."""
    draw(visitor, "red apple, flat style", seed="2", steps=100)
    expect(visitor.locator("#status")).to_contain_text("Drawing", timeout=PATIENCE)
    for button in WITH_A_PICTURE:
        expect(visitor.locator(button)).to_be_disabled()
    expect(visitor.locator("#create-recipe textarea")).to_have_value("")
    visitor.click("#stop")
    expect(visitor.locator("#status")).to_contain_text("Stopped before a picture was finished.", timeout=PATIENCE)
    expect(visitor.locator("#stop")).to_be_disabled()


def test_a_wrong_wish_is_answered_beside_its_control_in_the_visitors_language(browser: Browser, address: str) -> None:
    with visiting(browser, address, leaves=True) as visitor:
        for seed, answer in [("-1", "seed is -1"), ("seven", "write a whole number"), ("<b>1</b>", "'<b>1</b>'")]:
            draw(visitor, "fox", seed)
            expect(visitor.locator("#seed-wrong .wrong")).to_contain_text(answer, timeout=PATIENCE)
            expect(visitor.locator("#seed-wrong .wrong")).to_be_visible()
            assert visitor.locator("#seed-wrong b").count() == 0  # shown as text, never as markup
        visitor.get_by_text("Русский").click()
        expect(visitor.locator("#draw")).to_have_text("Нарисовать", timeout=PATIENCE)
        draw(visitor, "fox", "-1")
        expect(visitor.locator("#seed-wrong .wrong")).to_contain_text("зерно: -1", timeout=PATIENCE)
        visitor.reload()
        expect(visitor.locator("#draw")).to_have_text("Нарисовать", timeout=PATIENCE)  # the language is remembered


def test_the_prompt_is_read_aloud_before_it_is_drawn(visitor: Page) -> None:
    tell(visitor, "(red:1.3) aple")
    chips = visitor.locator("#chips")
    expect(chips.locator(".chip").first).to_have_text(re.compile("red ×1.3"), timeout=PATIENCE)
    expect(chips.locator(".strange")).to_contain_text("aple")
    expect(chips.locator(".hint")).to_contain_text("apple")
    visitor.fill("#prompt textarea", "red apple " * 20)
    expect(chips.locator(".cut").first).to_contain_text("part 2", timeout=PATIENCE)
    expect(chips.locator(".count")).to_contain_text("40 tokens")
    visitor.locator(".example", has_text="panda").click()
    visitor.locator("#style").get_by_text("Soft").click()
    expect(chips).to_contain_text("soft", timeout=PATIENCE)
    expect(visitor.locator("#estimate")).to_contain_text("GB of memory", timeout=PATIENCE)


def test_seed_quality_keyboard_and_theme(visitor: Page) -> None:
    seed = visitor.locator("#seed input, #seed textarea")
    visitor.click("#dice")
    expect(seed).to_have_value(re.compile(r"\d+"), timeout=PATIENCE)
    tell(visitor, "panda", seed="", steps=2)
    visitor.press("#prompt textarea", "Control+Enter")
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    visitor.click("#lock")
    expect(seed).to_have_value(re.compile(r"\d+"), timeout=PATIENCE)
    visitor.click("#quality input")
    visitor.get_by_role("option", name="Draft").click()
    expect(visitor.locator("#steps input[type=number]")).to_have_value("8", timeout=PATIENCE)
    visitor.click("#dark")
    expect(visitor.locator("body")).to_have_class(re.compile("dark"))
    visitor.click("#delete")
    expect(visitor.locator("#create-recipe textarea")).to_have_value("", timeout=PATIENCE)


def test_the_time_that_a_picture_may_take_chooses_its_steps(visitor: Page) -> None:
    steps, seconds = (visitor.locator(f"#{name} input[type=number]") for name in ("steps", "seconds"))
    visitor.fill("#prompt textarea", "panda")
    expect(visitor.locator("#estimate")).to_contain_text("About", timeout=PATIENCE)  # the machine is known
    expect(seconds).not_to_be_visible()
    visitor.click("#quality input")
    visitor.get_by_role("option", name="The best in the time below").click()
    expect(seconds).to_be_visible(timeout=PATIENCE)
    seconds.fill("300")
    expect(steps).to_have_value("40", timeout=PATIENCE)  # more would not help
    seconds.fill("")
    expect(visitor.locator("#budget .wrong")).to_contain_text("is empty: write a number", timeout=PATIENCE)
    seconds.fill("15")
    expect(visitor.locator("#budget .wrong")).to_have_count(0, timeout=PATIENCE)
    steps.fill("3")
    expect(visitor.locator("#quality input")).to_have_value("Your own steps", timeout=PATIENCE)
    expect(seconds).not_to_be_visible(timeout=PATIENCE)


def test_two_visitors_see_their_own_pictures(browser: Browser, address: str) -> None:
    with visiting(browser, address) as first, visiting(browser, address) as second:
        for seed, page in enumerate([first, second]):
            draw(page, "red heart, flat style", seed=str(seed))
        for seed, page in enumerate([first, second]):
            expect(page.locator("#status")).to_contain_text(f"with seed {seed}.", timeout=PATIENCE)
            expect(page.locator("#create-recipe textarea")).to_have_value(re.compile(f"Seed: {seed},"))


def test_a_list_that_is_left_with_the_keyboard_closes(browser: Browser, address: str) -> None:
    with visiting(browser, address) as page:
        expect(page.locator("#steps input[type=number]")).to_be_visible(timeout=PATIENCE)  # where Tab leads
        page.focus("#quality input")
        expect(page.locator("#quality ul[role=listbox]")).to_be_visible(timeout=PATIENCE)
        page.keyboard.press("Tab")
        expect(page.locator("#steps input[type=number]")).to_be_focused(timeout=PATIENCE)
        expect(page.locator("ul[role=listbox]")).to_have_count(0, timeout=PATIENCE)
        page.fill("#size input", "128x128")
        page.keyboard.press("Tab")
        expect(page.locator("ul[role=listbox]")).to_have_count(0, timeout=PATIENCE)
        expect(page.locator("#size input")).to_have_value("128x128")


def test_nothing_asked_for_is_refused_on_every_tab(browser: Browser, address: str) -> None:
    with visiting(browser, address) as page:
        for tab, button, slot in (("inside", "#watch", "#watch-wrong"), ("compare", "#compare", "#compare-wrong")):
            go_to(page, tab)
            page.click(button)
            expect(page.locator(f"{slot} .wrong")).to_contain_text("prompt is empty", timeout=PATIENCE)
