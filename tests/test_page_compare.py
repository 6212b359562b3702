"""Comparisons: the grid itself, and in a real browser."""

import io
import re
from urllib.request import urlopen

import pytest
from browser import CHROMIUM, PATIENCE, PHONE, Browser, expect, go_to, tell, visiting
from PIL import Image

from stablediff import Request, RequestError
from stablediff.images import read_parameters
from stablediff.web.grid import NOTHING, cells, read_axis, sheet


def test_a_grid_is_every_pair_of_values_from_one_seed() -> None:
    request = Request(prompt="cat", seed=4, num_images=3)
    across, down = read_axis("num_steps", "2, 3"), read_axis("sampler", "Euler a, ddim")
    drawn = [(one.num_steps, one.sampler, one.seed, one.num_images) for one in cells(request, across, down)]
    assert drawn == [(2, "euler_ancestral", 4, 1), (3, "euler_ancestral", 4, 1), (2, "ddim", 4, 1), (3, "ddim", 4, 1)]
    prompts = read_axis("prompt", "a cat, red\na dog\n\n")
    assert [one.prompt for one in cells(request, prompts, read_axis(NOTHING, ""))] == ["a cat, red", "a dog"]
    assert [one.width for one in cells(request, read_axis("size", "64x72, 128"), read_axis(NOTHING, ""))] == [64, 128]


@pytest.mark.parametrize(
    ("name", "words", "answer"),
    [
        ("num_steps", "2, x", "write numbers"),
        ("num_steps", " , ", "no values"),
        ("sampler", "magic", "sampler 'magic'"),
        ("height", "3", "not known"),
        ("size", "wide", "not a size"),
    ],
)
def test_wrong_values_are_told(name: str, words: str, answer: str) -> None:
    with pytest.raises(RequestError, match=answer):
        cells(Request(), read_axis(name, words), read_axis(NOTHING, ""))


def test_axes_must_differ() -> None:
    with pytest.raises(RequestError, match="same"):
        cells(Request(), read_axis("seed", "1"), read_axis("seed", "2"))


def test_the_sheet_holds_every_picture_unscaled() -> None:
    pictures = [Image.new("RGBA", (64, 48), colour) for colour in ("red", "lime", "blue", "black")]
    page = sheet(pictures, read_axis("seed", "1,2"), read_axis("num_steps", "3,4"))
    colours = {colour: count for count, colour in page.getcolors(1 << 20) or []}
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert colours[colour] == 64 * 48
    assert sheet(pictures[:3], read_axis("seed", "1,2"), read_axis("num_steps", "3,4")).size == page.size  # stopped


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")
def test_a_comparison_costs_what_it_says_and_is_one_picture(browser: Browser, address: str) -> None:
    with visiting(browser, address, PHONE) as page:
        tell(page, "a red cat", seed="5", steps=2)
        go_to(page, "compare")
        page.fill("#values-across textarea", "1, 3, x")
        expect(page.locator("#across-wrong .wrong")).to_contain_text("write numbers", timeout=PATIENCE)
        page.fill("#values-across textarea", "1, 3, 5")
        page.click("#axis-down input")
        page.get_by_role("option", name="Steps").click()
        page.fill("#values-down textarea", "1, 2")
        expect(page.locator("#cost")).to_contain_text("Pictures: 6.", timeout=PATIENCE)
        page.click("#compare")
        expect(page.locator("#compare-status")).to_contain_text("seed 5.", timeout=PATIENCE)
        source = page.locator("#comparison img").get_attribute("src")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    with urlopen(str(source)) as answer:
        data = answer.read()
    assert Image.open(io.BytesIO(data)).width > 3 * 64
    assert re.search("Seed: 5,", read_parameters(io.BytesIO(data)) or "")
