"""What a page still knows after a refresh, a broken stream, another language and a restart of the server."""

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, PATIENCE, PHONE, Browser, Page, draw, expect, go_to, open_page, serving, visiting

from stablediff import Pipeline
from stablediff.web.archive import Archive
from stablediff.web.desk import Desk, Job
from stablediff.web.shelf import Stage

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install chromium")


def test_a_job_ends_on_the_page_though_its_last_message_is_lost(visitor: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut_off(stage: Stage, _desk: Desk, job: Job, *words: Any) -> AsyncIterator[dict[Any, Any]]:
        job.language = words[0]
        yield {stage.ticket: job.key, **stage.busy()}

    monkeypatch.setattr(Stage, "follow", cut_off)
    draw(visitor, "a red cat", seed="4", steps=2)
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    expect(visitor.locator("#create-recipe textarea")).to_have_value(re.compile("Seed: 4,"))
    expect(visitor.locator("#stop")).to_be_disabled()
    expect(visitor.locator("#draw")).to_be_enabled()


def test_controls_come_back_as_they_were_left(visitor: Page, address: str) -> None:
    draw(visitor, "a red cat", seed="8", steps=2)
    visitor.fill("#negative textarea", "fog")
    visitor.locator("#style").get_by_text("Ink").click()
    visitor.wait_for_function("() => /fog.*style_ink/.test(localStorage.getItem('stablediff-create'))")
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    open_page(visitor, address)
    expect(visitor.locator("#prompt textarea")).to_have_value("a red cat", timeout=PATIENCE)
    expect(visitor.locator("#negative textarea")).to_have_value("fog", timeout=PATIENCE)
    expect(visitor.locator("#style input:checked")).to_have_value("style_ink", timeout=PATIENCE)
    expect(visitor.locator("#steps input[type=number]")).to_have_value("2", timeout=PATIENCE)
    expect(visitor.locator("#quality input")).to_have_value("Your own steps", timeout=PATIENCE)


def test_a_draft_has_no_guidance_where_it_does_little(visitor: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stablediff.pace.presets.has_matrix_unit", lambda: False)
    interval = visitor.locator("#interval input, #interval textarea")
    visitor.fill("#prompt textarea", "a red cat")
    visitor.click("#quality input")
    visitor.get_by_role("option", name="Draft").click()
    expect(visitor.locator("#steps input[type=number]")).to_have_value("8", timeout=PATIENCE)
    visitor.locator("#more button").first.click()
    expect(interval).to_have_value("0.5-", timeout=PATIENCE)
    visitor.click("#draw")
    expect(visitor.locator("#create-recipe textarea")).to_have_value(
        re.compile("Steps: 8,.*CFG interval: 0.5-inf"), timeout=PATIENCE
    )
    interval.fill("late")
    expect(visitor.locator("#quality input")).to_have_value("Your own steps", timeout=PATIENCE)
    expect(visitor.locator("#interval-wrong .wrong")).to_contain_text("'late' is no interval", timeout=PATIENCE)
    visitor.locator("#more button").first.click()
    expect(visitor.locator("#interval-wrong .wrong")).to_be_visible()
    visitor.locator("#more button").first.click()
    interval.fill("5-1")
    expect(visitor.locator("#interval-wrong .wrong")).to_contain_text("'5-1' is no interval", timeout=PATIENCE)
    visitor.click("#quality input")
    visitor.get_by_role("option", name="Balanced").click()
    expect(interval).to_have_value("", timeout=PATIENCE)


def test_another_language_says_again_what_stands_there(visitor: Page) -> None:
    draw(visitor, "a red cat", seed="9", steps=2)
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    visitor.get_by_text("Русский").click()
    expect(visitor.locator("#status")).to_contain_text("Готово за", timeout=PATIENCE)
    expect(visitor.locator("#estimate")).to_contain_text("ГБ памяти", timeout=PATIENCE)


def test_an_empty_wish_and_empty_boxes_are_answered_beside_them(browser: Browser, address: str) -> None:
    with visiting(browser, address, PHONE, "ru-RU") as page:
        expect(page.locator("#draw")).to_have_text("Нарисовать", timeout=PATIENCE)
        page.click("#draw")
        expect(page.locator("#prompt-wrong .wrong")).to_contain_text("запрос пуст", timeout=PATIENCE)
        page.fill("#steps input[type=number]", "")
        expect(page.locator("#steps-wrong .wrong")).to_contain_text("число шагов: пусто", timeout=PATIENCE)
        page.fill("#steps input[type=number]", "7000")
        expect(page.locator("#steps-wrong .wrong")).to_contain_text("от 1 до 100", timeout=PATIENCE)
        page.fill("#steps input[type=number]", "2")
        expect(page.locator("#steps-wrong .wrong")).to_have_count(0, timeout=PATIENCE)


def test_a_sticker_goes_when_another_picture_comes(visitor: Page) -> None:
    for seed in ("1", "2"):
        draw(visitor, "a red cat", seed=seed, steps=2)
        expect(visitor.locator("#create-recipe textarea")).to_have_value(re.compile(f"Seed: {seed},"), timeout=PATIENCE)
        expect(visitor.locator("#sticker-file")).to_be_hidden(timeout=PATIENCE)
        visitor.click("#sticker")
        expect(visitor.locator("#sticker-file")).to_be_visible(timeout=PATIENCE)


def test_what_was_deleted_does_not_come_back(visitor: Page, address: str) -> None:
    draw(visitor, "a red cat", seed="3", steps=2)
    expect(visitor.locator("#create-recipe textarea")).to_have_value(re.compile("Seed: 3,"), timeout=PATIENCE)
    visitor.click("#delete")
    expect(visitor.locator("#create-recipe textarea")).to_have_value("", timeout=PATIENCE)
    go_to(visitor, "history")
    visitor.click("#history .gone")
    expect(visitor.locator("#history .card")).to_have_count(0, timeout=PATIENCE)
    open_page(visitor, address)
    expect(visitor.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    expect(visitor.locator("#create-recipe textarea")).to_have_value("")
    go_to(visitor, "history")
    expect(visitor.locator("#history .quiet")).to_contain_text("Nothing yet", timeout=PATIENCE)


def test_a_server_that_keeps_pictures_brings_them_back_after_a_restart(
    browser: Browser, pipeline: Pipeline, tmp_path: Path
) -> None:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    with serving(pipeline, archive=Archive(tmp_path)) as url:
        open_page(page, url)
        draw(page, "a red cat", seed="5", steps=2)
        expect(page.locator("#status")).to_contain_text("Drawn in", timeout=PATIENCE)
    with serving(pipeline, archive=Archive(tmp_path)) as url:  # at another port, so that the browser's memory is empty
        open_page(page, url)
        go_to(page, "history")
        expect(page.locator("#history .words")).to_have_text("a red cat", timeout=PATIENCE)
        page.click("#history .gone")
        expect(page.locator("#history .card")).to_have_count(0, timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE / 1000
        while list(tmp_path.glob("*/*.png")) and time.monotonic() < deadline:
            page.wait_for_timeout(100)
        assert not list(tmp_path.glob("*/*.png"))
    context.close()
