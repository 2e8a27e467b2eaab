"""Signs of a poor data set: each is found in data that has it, and warns or stops as params say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from safeclip.core.images import read_rgb
from safeclip.validation.contract import CheckResult
from safeclip.validation.health import PROMISES, distinct_n, doubtful_labels, evenness, examine, vendi
from safeclip.validation.near_duplicates import near_hashes, perceptual_hash
from tests.validation.conftest import BOUNDS, CATEGORIES, good_rows, png
from tests.validation.test_validate import jpeg_of

KAPPA = {"text": {"one and other": {"n": 9, "same": 0.9, "kappa": 0.1}}, "image": {}}


def examined(validated, rows: pd.DataFrame, bounds=BOUNDS, **more) -> dict[str, CheckResult]:
    given = {"agreement": {}, "before": {}, "now": {}} | more
    kept = validated(rows, bounds).rows
    results = examine(kept, bounds, categories=CATEGORIES, **given)
    return {result.name: result for result in results}


def varied() -> pd.DataFrame:
    """Good rows whose generated captions and labels differ as a real data set's do."""
    rows = good_rows(140)
    words = np.random.default_rng(0).choice([f"word{i}" for i in range(300)], (140, 4))
    rows["caption_safe"] = [f"a man {' '.join(w)} sits" for w in words]
    kinds = ["a gun" if label == "unsafe" else "a book" for label in rows["text_label"]]
    rows["caption_generated"] = [
        f"a man {' '.join(w)} has {kind}" for w, kind in zip(words, kinds, strict=True)
    ]
    return rows


def test_varied_data_passes_every_check_that_can_be_measured(validated):
    found = examined(validated, varied())
    assert [name.partition("_")[2] for name in PROMISES] == list(found)
    assert all(result.passed for result in found.values()), found
    assert {name for name, result in found.items() if result.observed is None} == {
        "labeller_kappa",
        "drift",
    }


def test_captions_and_images_that_repeat_are_counted_within_and_across_splits(validated):
    rows = varied()
    twins = rows[rows["split"] == "train"].index
    for copy in twins[1:20]:
        rows.at[copy, "caption_generated"] = rows.at[twins[0], "caption_generated"]
        rows.at[copy, "image_generated"] = jpeg_of(rows.at[twins[0], "image_generated"])
    other = rows[rows["split"] == "test"].index[0]
    rows.at[other, "caption_generated"] = rows.at[twins[0], "caption_generated"].upper()
    rows.at[other, "image_generated"] = rows.at[twins[0], "image_generated"]
    found = examined(validated, rows)
    for kind in ("captions", "pictures"):
        assert len(found[f"repeated_{kind}"].ids) == 19
        assert len(found[f"leaked_{kind}"].ids) == 21
        assert not found[f"repeated_{kind}"].passed
        assert found[f"repeated_{kind}"].on_fail == "warn"


def test_one_sentence_over_and_over_stops_the_chain(validated):
    rows = varied()
    rows["caption_generated"] = [f"{safe} gun"[:5] + " with a gun" for safe in rows["caption_safe"]]
    found = examined(validated, rows.assign(caption_safe=[f"a man with a {i}" for i in range(len(rows))]))
    assert not found["vendi_share"].passed
    assert found["vendi_share"].on_fail == "stop"
    assert not found["distinct_2"].passed


def test_labels_turned_round_are_doubted(validated):
    rows = varied()
    turned = rows.index[rows["text_label"] == "unsafe"][:6]
    rows.loc[turned, "text_label"] = "safe"
    found = examined(validated, rows)["text_label_errors"]
    assert set(rows.loc[turned, "id"]) <= set(found.ids)
    assert found.observed < 0.15


def test_label_errors_are_not_measured_on_one_kind_of_label():
    assert doubtful_labels(["a gun"] * 20, [True] * 20) is None


def test_labellers_that_disagree_and_drift_are_reported_by_name(validated):
    before = {"label states": {"a": 0.5, "b": 0.5}, "categories": {"c": 1.0}}
    now = {"label states": {"a": 0.9, "b": 0.1}, "categories": {"c": 1.0}}
    found = examined(validated, varied(), agreement=KAPPA, before=before, now=now)
    assert not found["labeller_kappa"].passed
    assert found["labeller_kappa"].detail == "text: one and other"
    assert found["drift"].observed == pytest.approx(0.4)
    assert found["drift"].detail == "label states"


def test_params_decide_bound_and_consequence(validated):
    checks = BOUNDS.checks.model_copy(
        update={
            "min_text_image_same": BOUNDS.checks.max_drift.model_copy(
                update={"bound": 1.0, "on_fail": "stop"}
            )
        }
    )
    found = examined(validated, varied(), BOUNDS.model_copy(update={"checks": checks}))["text_image_same"]
    assert not found.passed
    assert found.on_fail == "stop"
    assert found.observed == pytest.approx(0.8)


def test_figures_are_those_of_the_definitions():
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a"], 2) is None
    assert vendi(["a b", "c d", "e f"]) == pytest.approx(3.0)
    assert vendi(["a b"] * 5) == pytest.approx(1.0)
    assert evenness([5, 5, 5]) == pytest.approx(1.0)
    assert evenness([9, 0]) == pytest.approx(0.0)
    assert evenness([0, 0]) is None


def test_a_perceptual_hash_survives_re_encoding_and_tells_images_apart():
    one, again, other = (perceptual_hash(read_rgb(image)) for image in (png(1), jpeg_of(png(1)), png(2)))
    assert (one ^ again).bit_count() <= 4 < (one ^ other).bit_count()
    hashes = np.array([one, other, again], dtype=np.uint64)
    within, across = near_hashes(hashes, np.array(["train", "train", "train"]), 4)
    assert within.tolist() == [False, False, True]
    assert not across.any()
