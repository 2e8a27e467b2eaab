"""The parts of a page: charts tell their numbers, pictures hide what they should, nothing is made up."""

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from PIL import Image

from safeclip.pages.charts import Series, bars, interval, lines, shares, ticks
from safeclip.pages.render import blurred, count, number, percent, render, signed, thumbnail


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_what_was_not_measured_says_so():
    for show in (number, percent, signed, count):
        assert show(None) == "not measured"
    assert number(0.0) == "0.000"
    assert signed(-0.25) == "−0.250"
    assert percent(0.523) == "52.3 %"


def test_a_blurred_picture_cannot_be_told_from_another_of_the_same_coarse_colours():
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (8, 8, 3))
    detail = rng.integers(-40, 40, (64, 64, 3))
    cells = detail.reshape(8, 8, 8, 8, 3)
    detail = (cells - cells.mean(axis=(1, 3), keepdims=True).round().astype(int)).reshape(64, 64, 3)
    flat = coarse.repeat(8, axis=0).repeat(8, axis=1)
    one, other = (blurred(png(np.clip(p, 0, 255).astype(np.uint8))) for p in (flat, flat + detail))
    assert np.abs(pixels_of(one).astype(int) - pixels_of(other)).max() <= 6


def test_a_thumbnail_keeps_small_pictures_and_shrinks_large_ones():
    assert pixels_of(thumbnail(png(np.zeros((64, 64, 3), np.uint8)))).shape == (64, 64, 3)
    assert pixels_of(thumbnail(png(np.zeros((400, 200, 3), np.uint8)))).shape == (96, 48, 3)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_enclose_the_data_with_few_round_numbers(low, span):
    found = ticks(low, low + span)
    tolerance = 1e-6 * max(1.0, abs(low), span)
    assert found[0] <= low + tolerance
    assert found[-1] >= low + span - tolerance
    assert 2 <= len(found) <= 8


def test_ticks_of_a_single_value_have_a_span():
    assert len(set(ticks(0.0, 0.0))) >= 2


def test_points_of_a_line_lie_inside_the_picture_and_rise_upwards():
    chart = lines([Series("loss", [1, 2, 3], [5.0, 1.0, 2.0])], title="Loss", x_label="step")
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', chart).group(1).split()]
    assert all(0 <= x <= 560 and 0 <= y <= 220 for x, y in points)
    assert points[0][1] < points[2][1] < points[1][1]
    assert 'aria-label="Loss"' in chart


def test_nothing_to_draw_is_an_empty_string():
    assert lines([Series("loss", [], [])], title="t", x_label="x") == ""
    assert bars([], title="t", x_label="x") == ""


def test_bars_have_heights_in_proportion():
    chart = bars([Series("a", [3, 4], [10, 5])], title="Words", x_label="words")
    heights = [float(h) for h in re.findall(r'class="bar[^>]*height="([\d.]+)"', chart)]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)


def test_shares_fill_the_bar_in_order():
    chart = shares({"one": 0.75, "none": None, "two": 0.25}, title="states")
    assert re.findall(r'x="([\d.]+)" y="0" width="([\d.]+)"', chart) == [
        ("0.00", "75.00"),
        ("75.00", "25.00"),
    ]


def test_an_interval_shows_its_bound_outside_the_whisker():
    drawn = interval(-0.4, -0.5, -0.3, 0.0, good=True, title="rule")
    xs = {name: float(x) for name, x in re.findall(r'<(line|circle) (?:x1|cx)="([\d.]+)"', drawn)}
    bound = float(re.search(r'class="bound" x1="([\d.]+)"', drawn).group(1))
    assert bound > xs["circle"] > xs["line"]


def test_names_in_charts_are_escaped():
    for chart in (
        lines([Series("<b>", [1], [1.0])], title="<i>", x_label="<u>"),
        shares({"<b>": 1.0}, title='"<i>'),
        interval(0, -1, 1, None, good=False, title='"<i>'),
    ):
        assert not re.search(r"<[biu]>", chart)


def test_an_undefined_name_in_a_template_is_an_error(tmp_path):
    template = tmp_path / "page.html.j2"
    template.write_text('{% extends "base.html.j2" %}{% block main %}{{ nothing }}{% endblock %}')
    with pytest.raises(UndefinedError):
        render(template)
