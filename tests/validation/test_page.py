"""The page stands alone, tells the numbers of the summary, and shows nothing unsafe by itself."""

import base64
import io
import re

import numpy as np
from PIL import Image

from safeclip.validation.page import choose_samples, make_page, sample_cards, summarise
from tests.validation.conftest import CATEGORIES, png

HOSTILE = '"><script>alert(1)</script><img src=https://example.org/x>'


def cards(validation, rows, count: int) -> list[dict]:
    images = {row.id: (row.image_safe, row.image_generated) for row in rows.itertuples()}
    return sample_cards(choose_samples(validation.rows, count), images)


def page_of(validation, rows, samples: int = 4) -> str:
    return make_page(summarise(validation, CATEGORIES), cards(validation, rows, samples))


def test_the_page_loads_nothing(validated, rows):
    page = page_of(validated(rows), rows)
    assert "<script" not in page
    loads = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page)
    assert loads
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in loads)


def test_hostile_captions_are_text(validated, rows):
    rows.loc[0, "caption_safe"] = f"a man {HOSTILE}"
    rows.loc[0, "caption_generated"] = f"a man {HOSTILE} near the gun"
    page = page_of(validated(rows), rows)
    assert "<script" not in page
    assert "<img src=https" not in page
    assert "&lt;script&gt;" in page


def test_every_expectation_and_its_outcome_is_told(validated, rows):
    rows.loc[3, "image_score"] = 9.0
    validation = validated(rows)
    page = page_of(validation, rows)
    assert "The data meets its contract" in page
    assert "1 quarantined" in page
    assert "image score is outside 0 to 1" in page
    for result in validation.results:
        assert f"<code>{result.name}</code>" in page


def test_a_failed_data_set_says_so_first(validated, rows):
    rows["text_label"] = "safe"
    page = page_of(validated(rows), rows, samples=0)
    assert "The data breaks its contract" in page
    assert page.index("What failed") < page.index("Where the rows went")


def test_generated_images_are_blurred_in_their_pixels(validated, rows):
    validation = validated(rows)
    samples = cards(validation, rows, 8)
    page = page_of(validation, rows, 8)
    for sample in samples:
        original = rows.set_index("id").loc[sample["id"], "image_generated"]
        assert base64.b64encode(original).decode() not in page
        blurry = Image.open(io.BytesIO(base64.b64decode(sample["generated"].split(",")[1])))
        detail = np.asarray(blurry, dtype=float)
        coarse = np.asarray(blurry.resize((8, 8), Image.Resampling.BOX).resize(blurry.size, 3), dtype=float)
        assert np.abs(detail - coarse).mean() < 8, "more detail than eight by eight colours"


def test_generated_captions_wait_behind_a_click(validated, rows):
    rows["caption_generated"] = [f"{caption} gun{i}" for i, caption in enumerate(rows["caption_generated"])]
    page = page_of(validated(rows), rows)
    outside = re.sub(r"<details>.*?</details>", "", page, flags=re.S)
    assert re.search(r"<details>.*?gun0</details>", page, flags=re.S)
    assert not re.search(r"\bgun\d", outside)


def test_samples_show_every_label_state_and_are_always_the_same(validated, rows):
    validation = validated(rows)
    samples = cards(validation, rows, 4)
    assert {(s["text_label"], s["image_label"]) for s in samples} == {
        ("unsafe", "unsafe"), ("unsafe", "safe"), ("safe", "unsafe"), ("safe", "safe"),
    }  # fmt: skip
    assert page_of(validation, rows) == page_of(validated(rows), rows)


def test_an_empty_split_is_not_measured_rather_than_zero(validated, rows):
    validation = validated(rows[rows["split"] != "test"])
    summary = summarise(validation, CATEGORIES)
    assert summary["label_states"]["test"]["both_unsafe"] is None
    assert "not measured" in make_page(summary)


def test_the_summary_holds_no_caption_and_no_image(validated, rows):
    rows.loc[0, "caption_generated"] = "a man with a secretword near the river"
    text = str(summarise(validated(rows), CATEGORIES))
    assert "secretword" not in text
    assert "PNG" not in text
    assert png(0) not in text.encode()
