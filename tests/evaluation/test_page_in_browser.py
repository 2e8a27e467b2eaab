"""The page in a real browser: silent, alone, readable, uncovered only when asked, two pages on paper."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from safeclip.gate.rules import Difference
from safeclip.report.page import Findings, make_report
from safeclip.report.sections import lookups
from tests.evaluation.page_evidence import picture, rule, spread, tree
from tests.support.servers import not_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CONTRAST = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length && (colour.length < 4 || colour[3] > 0)) return colour;
    }
    return [255, 255, 255];
  };
  const seen = [...document.body.querySelectorAll('*')].filter(element => element.checkVisibility() &&
    [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
  return seen.map(element => {
    const style = getComputedStyle(element);
    const colour = element.closest('svg') ? style.fill : style.color;
    const pair = [light(rgb(colour)), light(behind(element))].sort((a, b) => b - a);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), element.tagName + '.' + element.getAttribute('class')];
  });
}"""


def full_page(evidence: dict) -> str:
    """Everything that a page can hold, at the size of a real run."""
    words = {
        "figures": "candidate - 0.5 * base = -0.249; upper end -0.216 <= 0",
        "reason": "unsafe captions must retrieve less harm",
    }
    rules = [rule("broken", False), *(rule(f"rule_{number}", True, **words) for number in range(28))]
    evidence["verdict"] |= {
        "rules": rules,
        "digests": {f"digest {number}": "ab" * 32 for number in range(24)},
    }
    evidence["metrics"]["production"] = {"zeroshot": {"top1": 0.5}}
    evidence["metrics"]["intervals"] |= {"production": tree(0.2, 0.9), "change_production": tree(0.1, 0.05)}
    figures = {"base": spread(0.9), "candidate": spread(0.2), "change": spread(-0.7)}
    attack = {"kind": "black_box", "modality": "text", "budget": 20, "n": 150, **figures}
    group = {"n": 200, "base": spread(0.1), "candidate": spread(0.2)}
    point = {
        "share": 1.0,
        "harmful_t2i": 0.6,
        "harmful_i2t": 0.5,
        "safe_r1_drop": 0.02,
        "zeroshot_drop": 0.03,
    }
    findings = Findings(
        **{name: value for name, value in evidence.items() if name != "title"},
        production="v1.2.0",
        differences=[Difference("zeroshot", "offset -0.05 to -0.2", True)],
        retrieved=found_by_queries(),
        points=[{"objective": name, **point} for name in ("default", "safe_clip", "shield_clip")],
        red_team={"attacks": [{"name": f"attack_{n}", **attack} for n in range(14)], "destroyed": 2},
        audit={"groups": [{"name": f"group_{n}", **group} for n in range(5)], "gap": spread(0.1, 200)},
    )
    return make_report("a candidate", findings)


def found_by_queries() -> list:
    models = ("base", "production", "candidate")
    unsafe = {"id": "a", "side": "generated", "unsafe": True}
    safe = {"id": "a", "side": "safe", "unsafe": False}
    line = {"query": unsafe, "found": {name: [unsafe, safe] for name in models}}
    row = {"categories": ["hate"], "caption_safe": "a dog in a park", "caption_generated": "SECRET"}
    row |= {"image_safe": picture(), "image_generated": picture()}
    return lookups({"unsafe_t2i": [line] * 6, "unsafe_i2t": [line] * 6}, {"a": row}, models, True)


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        not_run("no Chromium on this machine; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def path(evidence, tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text(full_page(evidence), encoding="utf-8")
    return tmp_path / "index.html"


@pytest.fixture
def page(browser, path: Path):
    """The page open in a window; nothing may be said on its console and nothing asked of anybody."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", path.as_uri()))] == []


def test_the_verdict_is_on_the_first_screen_and_the_rules_are_one_key_away(page) -> None:
    verdict = page.locator(".verdict").bounding_box()
    assert verdict["y"] + verdict["height"] < 300
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(".verdict a").focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#rule-broken")


def test_unsafe_items_are_uncovered_by_a_click_for_one_query_only(page) -> None:
    page.locator("summary", has_text="unsafe captions retrieve").click()
    first, second = (page.locator(".lookup").nth(number) for number in (0, 1))
    plain, cover = first.locator("img.plain").first, first.locator("img.cover").first
    assert (plain.is_visible(), cover.is_visible()) == (False, True)
    assert page.get_by_text("SECRET").first.is_hidden()
    first.locator(".uncover").click()
    assert (plain.is_visible(), cover.is_visible()) == (True, False)
    assert first.get_by_text("SECRET").first.is_visible()
    assert second.locator("img.plain").first.is_hidden()
    first.locator(".uncover").click()
    assert plain.is_hidden()


def test_unsafe_items_are_uncovered_from_the_keyboard(page) -> None:
    page.locator("summary", has_text="unsafe pictures retrieve").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    box = page.locator("#uncover-unsafe_i2t-1")
    assert box.evaluate("element => element === document.activeElement")
    query = page.locator("#found ~ details").nth(1).locator(".asked img.plain").first
    assert query.is_hidden()
    page.keyboard.press("Space")
    assert query.is_visible()


def test_a_screen_reader_finds_headings_in_order_and_a_name_on_everything(page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert "alt" in page.evaluate("[...document.images].map(image => image.getAttributeNames()).flat()")
    assert page.evaluate("[...document.images].every(image => image.alt.length > 3)")
    assert page.evaluate("[...document.querySelectorAll('input')].every(input => input.labels.length === 1)")
    assert page.evaluate("[...document.querySelectorAll('svg')].every(svg => svg.ariaLabel)")
    names = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(names) == len(set(names))
    targets = page.evaluate("[...document.querySelectorAll('a')].map(link => link.getAttribute('href'))")
    assert {target.removeprefix("#") for target in targets} <= set(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    measured = page.evaluate(CONTRAST)
    assert len(measured) > 100
    assert [pair for pair in measured if pair[0] < 4.5] == []


def test_a_phone_scrolls_one_way_only(page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_it_prints_to_two_pages_with_everything_covered(page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    page.locator(".uncover").first.check()
    paper = page.pdf(format="A4", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) == 2
    page.emulate_media(media="print")
    assert page.get_by_text("SECRET").first.is_hidden()
    assert page.locator(".verdict").is_visible()
