"""Pictures that come from pictures: edited, painted over, varied, and restored from their recipes."""

import io
import re
import time
from pathlib import Path

import pytest
from browser import (
    CHROMIUM,
    PATIENCE,
    PHONE,
    PIXELS,
    Browser,
    Page,
    draw,
    expect,
    go_to,
    open_page,
    settle,
    tell,
    visiting,
)
from PIL import Image
from playwright.sync_api import Route

from stablediff import Request, RequestError
from stablediff.images import fit_image, png_bytes
from stablediff.web.edit import split

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "grey.png")
    return tmp_path / "grey.png"


def test_an_uploaded_picture_is_changed_where_it_was_painted(browser: Browser, address: str, photo: Path) -> None:
    with visiting(browser, address, PHONE) as page:
        tell(page, "", seed="3", steps=4)
        go_to(page, "edit")
        settle(page)  # Gradio loses what is pressed in the moment in which it closes the stream of the last events
        page.click("#edit")
        expect(page.locator("#picture-wrong .wrong")).to_contain_text("missing", timeout=PATIENCE)
        page.wait_for_function(PIXELS)
        drop(page, photo)
        paint(page)
        page.fill("#edit-prompt textarea", "green apple, flat style")
        changed, before = edited_where_painted(page, photo), fit_image(Image.open(photo), 64, 64)
        expect(page.locator("#edit-recipe textarea")).to_have_value(re.compile("Denoising strength: 0.75"))
        expect(page.locator("#before-after img").first).to_be_visible(timeout=PATIENCE)
    assert changed.size == (64, 64)  # the proportions of the photo, the size of the model
    assert changed.getpixel((32, 32)) != before.getpixel((32, 32))
    for corner in ((0, 0), (63, 0), (0, 63), (63, 63)):  # unpainted
        assert changed.getpixel(corner) == before.getpixel(corner)


def test_what_was_painted_and_set_comes_back_after_a_refresh(browser: Browser, address: str, photo: Path) -> None:
    with visiting(browser, address) as page:
        tell(page, "", seed="3", steps=4)
        go_to(page, "edit")
        page.wait_for_function(PIXELS)
        drop(page, photo)
        paint(page)
        page.fill("#edit-prompt textarea", "green apple, flat style")
        page.fill("#strength input[type=number]", "0.9")
        page.press("#strength input[type=number]", "Tab")
        first = edited_where_painted(page, photo)
        page.route(re.compile("file="), late)
        open_page(page, address)
        go_to(page, "edit")
        expect(page.locator("#edit-prompt textarea")).to_have_value("green apple, flat style", timeout=PATIENCE)
        expect(page.locator("#strength input[type=number]")).to_have_value("0.9", timeout=PATIENCE)
        expect(page.locator("#before-after img").first).to_be_visible(timeout=PATIENCE)
        see_paint(page)
        again = edited_where_painted(page, photo)
        page.click("#editor button[aria-label='Clear canvas'], #editor button[title='Clear canvas']")
        expect(page.locator("#editor").get_by_text("Drop a picture here")).to_be_visible(timeout=PATIENCE)
        page.click("#edit")
        expect(page.locator("#picture-wrong .wrong")).to_contain_text("missing", timeout=PATIENCE)
    assert re.search(r"strength: 0.9, Init image hash: \w{10}, Mask hash: \w{10},", first.info["parameters"])
    assert again.info["parameters"] == first.info["parameters"]
    assert again.tobytes() == first.tobytes()


def test_a_file_that_is_no_picture_is_refused_beside_the_canvas(
    browser: Browser, address: str, photo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    with visiting(browser, address, locale="ru-RU") as page:
        go_to(page, "edit")
        page.wait_for_function(PIXELS)
        refused = page.locator("#picture-wrong .wrong")
        for _ in range(10):  # before the editor is ready it has no such input
            page.set_input_files("#editor input[type=file]", broken)
            try:
                expect(refused).to_contain_text("картинка не читается", timeout=PATIENCE / 10)
                break
            except AssertionError:
                continue
        drop(page, photo)
        expect(refused).to_have_count(0, timeout=PATIENCE)  # the next one is good


def test_a_large_photo_is_made_smaller_before_it_is_sent(browser: Browser, address: str, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    Image.effect_noise((2400, 1800), 80).convert("RGB").save(large, quality=95)
    with visiting(browser, address) as page:
        tell(page, "a red fox", "5")
        go_to(page, "edit")
        page.wait_for_function(PIXELS)
        drop(page, large)
        page.fill("#edit-prompt textarea, #edit-prompt input", "a red fox")
        page.click("#edit")
        expect(page.locator("#edit-status")).to_contain_text("Drawn in", timeout=PATIENCE)


def edited_where_painted(page: Page, photo: Path) -> Image.Image:
    before = fit_image(Image.open(photo), 64, 64)
    ticket = page.locator("#edit-ticket textarea, #edit-ticket input")
    for _ in range(10):  # the editor hands a stroke over in its own time
        former = ticket.input_value()
        page.click("#edit")
        expect(ticket).not_to_have_value(former, timeout=PATIENCE)  # the run before is "Drawn in" as well
        expect(page.locator("#edit")).to_be_enabled(timeout=PATIENCE)
        expect(page.locator("#edit-status")).to_contain_text("Drawn in", timeout=PATIENCE)
        with page.expect_download() as download:
            page.click("#edit-download")
        changed = Image.open(download.value.path())
        if changed.getpixel((0, 0)) == before.getpixel((0, 0)):
            return changed
    raise AssertionError("the stroke was never heard of")


def drop(page: Page, photo: Path) -> None:
    """Until the editor, which draws with its own clock, has taken it: before it is ready it forgets files."""
    hint = page.locator("#editor").get_by_text("Drop a picture here")
    for _ in range(10):
        page.set_input_files("#editor input[type=file]", str(photo))
        try:
            expect(hint).to_be_hidden(timeout=5_000)
        except AssertionError:
            continue
        return
    raise AssertionError("the editor never took the picture")


def paint(page: Page) -> None:
    """A stroke about the middle of the canvas, until it is to be seen."""
    expect(page.locator("#editor button[aria-label=Brush]")).to_have_class(re.compile("highlight"), timeout=PATIENCE)
    for _ in range(10):
        x, y = middle(page)
        page.mouse.move(x - 20, y)
        page.mouse.down()
        page.mouse.move(x + 20, y, steps=8)
        page.mouse.up()
        if is_painted(page, x, y):
            return
    raise AssertionError("the editor never took the stroke")


def late(route: Route) -> None:
    time.sleep(1)
    route.continue_()


def see_paint(page: Page) -> None:
    """An editor that comes back is filled in its own time, after all else."""
    page.wait_for_function(PIXELS)
    for _ in range(PATIENCE // 1_000):
        if is_painted(page, *middle(page)):
            return
        page.wait_for_timeout(1_000)
    raise AssertionError("the editor came back without its paint")


def middle(page: Page) -> tuple[float, float]:
    """Of the canvas, once it is in view."""
    canvas = page.locator("#editor canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def is_painted(page: Page, x: float, y: float) -> bool:
    seen = page.screenshot(clip={"x": x - 2, "y": y - 2, "width": 4, "height": 4})
    red, green, _ = Image.open(io.BytesIO(seen)).convert("RGB").getpixel((2, 2))
    return red - green > 50  # the photo is grey, and paint is not


def test_stickers_variations_a_larger_size_and_editing_start_from_the_chosen_picture(
    browser: Browser, address: str
) -> None:
    with visiting(browser, address) as page:
        draw(page, "red apple, flat style", seed="1", steps=2)
        expect(page.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
        page.click("#sticker")
        with page.expect_download() as download:
            page.click("#sticker-file")
        sticker = Image.open(download.value.path())
        assert (sticker.format, sticker.size, sticker.mode) == ("WEBP", (512, 512), "RGBA")
        page.click("#edit-it")
        expect(page.locator("#edit-prompt textarea")).to_have_value("red apple, flat style", timeout=PATIENCE)
        go_to(page, "create")
        page.click("#upscale")
        expect(page.locator("#create-recipe textarea")).to_have_value(re.compile("Size: 128x128"), timeout=PATIENCE)
        page.click("#vary")
        expect(page.locator("#status")).to_contain_text(" to ", timeout=PATIENCE)  # the last of the seeds
        expect(page.locator("#create-gallery .thumbnails .thumbnail-item")).to_have_count(4)


def test_a_dropped_png_gives_its_settings_back(browser: Browser, address: str, tmp_path: Path) -> None:
    words = (
        "a fox\nNegative prompt: blurry\nSteps: 12, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 42, Size: 256x384"
    )
    (tmp_path / "foreign.png").write_bytes(png_bytes(Image.new("RGB", (8, 8)), words))
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    with visiting(browser, address) as page:
        page.click("#restore button")
        page.set_input_files("#restore-file input[type=file]", str(tmp_path / "bare.png"))
        expect(page.locator("#restored .wrong")).to_contain_text("no recipe", timeout=PATIENCE)
        page.click("#restore-file button[aria-label=Clear], #restore-file button[aria-label='Remove this file']")
        page.set_input_files("#restore-file input[type=file]", str(tmp_path / "foreign.png"))
        expect(page.locator("#prompt textarea")).to_have_value("a fox", timeout=PATIENCE)
        expect(page.locator("#negative textarea")).to_have_value("blurry")
        expect(page.locator("#steps input[type=number]")).to_have_value("12")
        expect(page.locator("#seed input, #seed textarea")).to_have_value("42")
        expect(page.locator("#size input")).to_have_value("256x384")


def sent(image: Image.Image) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer


def test_the_mask_is_what_any_layer_covers() -> None:
    picture, layer = Image.new("RGBA", (64, 64), "red"), Image.new("RGBA", (32, 32))
    image, mask = split({"background": sent(picture), "layers": [sent(layer)]})
    assert (image.mode, image.tobytes(), mask) == ("RGB", picture.convert("RGB").tobytes(), None)
    layer.putpixel((3, 3), (255, 255, 255, 9))
    image, mask = split({"background": sent(picture), "layers": [sent(layer)]})
    assert mask is not None
    assert mask.size == image.size
    assert Request(init_image=image, mask_image=mask)
    for nothing in (None, {}, {"background": None, "layers": []}, "text"):
        with pytest.raises(RequestError, match="missing"):
            split(nothing)
    with pytest.raises(RequestError, match="cannot read the picture that was sent"):
        split({"background": io.BytesIO(b"no picture")})
    with pytest.raises(RequestError, match="paint again"):
        split({"background": sent(picture), "layers": [io.BytesIO(b"no picture")]})
