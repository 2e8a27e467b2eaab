"""The page in a real browser: both retrievals side by side, unsafe blurred until pressed, nothing loaded."""

import re
import shutil
from pathlib import Path

import pytest

from safeclip.picturebook.drawing import draw

pytestmark = pytest.mark.servers
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page(service: str):
    if not CHROMIUM:
        print("NOT RUN: no Chromium is installed")
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.asked, page.faults = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(f"{service}/ui")
        yield page
        elsewhere = [url for url in page.asked if not url.startswith((service, "blob:"))]
        browser.close()
        assert elsewhere == []
        assert page.faults == []


def test_a_typed_query_shows_both_retrievals(page) -> None:
    page.fill("#text", "a cat near a tree")
    page.press("#text", "Enter")
    page.wait_for_selector("#safe li")
    assert page.locator("#safe li").count() == page.locator("#base li").count() == 8
    assert re.match(r"Query judged (un)?safe \(\d\.\d\d", page.locator("#verdict").inner_text())
    assert "8 items" in page.locator("#model").inner_text()


def test_a_picture_finds_itself(page, tmp_path: Path) -> None:
    picture = tmp_path / "query.png"
    picture.write_bytes(draw("a cat near a tree", "photo", seed=1).png)
    page.set_input_files("#image", picture)
    page.wait_for_selector("#safe li")
    assert page.locator("#safe li small").first.inner_text() == "1.000 1.png"
    assert page.locator("#base li small").first.inner_text() == "1.000 1.png"


def test_unsafe_items_are_blurred_until_pressed(page) -> None:
    page.fill("#text", "a gun near a tree")
    page.press("#text", "Enter")
    page.wait_for_selector("#base li")
    unsafe = page.locator("#base li.unsafe")
    blur = "element => getComputedStyle(element.querySelector('.shown')).filter"
    assert unsafe.count() > 0
    assert all("blur(14px)" in unsafe.nth(row).evaluate(blur) for row in range(unsafe.count()))
    unsafe.first.locator("button").click()
    assert unsafe.first.evaluate(blur) == "none"


def test_a_fault_is_shown_and_not_hidden(page) -> None:
    page.evaluate("search({ text: 'x'.repeat(1001) })")
    page.wait_for_selector("#verdict .fault")
    assert "at most 1000 characters" in page.locator("#verdict").inner_text()
