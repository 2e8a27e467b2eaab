"""The page in a real browser: both retrievals side by side, all hidden until pressed, nothing loaded."""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from picturebook.drawing import draw
from tests.support.servers import not_run

pytestmark = pytest.mark.servers
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page(service: str):
    if not CHROMIUM:
        not_run("no Chromium on this machine; apt-get install chromium")
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


def edges(item) -> float:
    """Mean step between neighbouring pixels of the picture as the browser got it."""
    return item.evaluate(
        """async element => {
            const image = element.querySelector("img");
            await image.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
            let sum = 0;
            for (let at = 4; at < pixels.length; at += 4) sum += Math.abs(pixels[at] - pixels[at - 4]);
            return sum / (pixels.length / 4);
        }"""
    )


def test_every_picture_is_blurred_in_its_pixels_until_pressed(page) -> None:
    page.fill("#text", "a gun near a tree")
    page.press("#text", "Enter")
    expect(page.locator("#base img")).to_have_count(6)
    assert not [url for url in page.asked if "shown" in url]
    assert page.locator("#base li.unsafe").count() > 0
    item = page.locator("#base li", has=page.locator("img")).first
    blurred = edges(item)
    item.locator("button").click()
    page.wait_for_selector("#base li.revealed img[alt$='.png']")
    assert edges(item) > 3 * blurred
    assert len([url for url in page.asked if "shown" in url]) == 1  # of this item alone
    item.locator("button").click()
    item.locator("img[alt='a picture, blurred']").wait_for()


def test_captions_are_withheld_until_pressed(page) -> None:
    page.fill("#text", "a cat on a table")
    page.press("#text", "Enter")
    item = page.locator("#safe li", has_text="captions.txt:3")
    item.wait_for()
    assert "a cat on a table" not in page.locator("main").inner_text()
    item.locator("button").click()
    page.wait_for_selector("#safe li.revealed")
    assert "a cat on a table" in item.inner_text()


def test_a_fault_is_shown_and_not_hidden(page) -> None:
    page.evaluate("search({ text: 'x'.repeat(1001) })")
    page.wait_for_selector("#verdict .fault")
    assert "at most 1000 characters" in page.locator("#verdict").inner_text()
