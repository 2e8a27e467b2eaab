"""Every promise of the data contract catches the fault it is there for."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from safeclip.validation.quarantine import quarantine_table
from tests.validation.conftest import BOUNDS, CATEGORIES, FORBIDDEN, good_rows, png


def failed(validation) -> set[str]:
    return {result.name for result in validation.failures}


def jpeg_of(image: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image)).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


def put(rows: pd.DataFrame, index: int, column: str, value: object) -> pd.DataFrame:
    rows[column] = rows[column].astype(object)
    rows.at[index, column] = value
    return rows


def test_good_rows_pass_whole(validated, rows):
    validation = validated(rows)
    assert not validation.failures
    assert len(validation.rejections) == 0
    assert len(validation.rows) == len(rows)


def one_colour() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), "black").save(buffer, format="PNG")
    return buffer.getvalue()


ROW_FAULTS = [
    ("caption_safe", None, "caption_safe is missing"),
    ("image_generated", None, "image_generated is missing"),
    ("text_label", None, "text_label is missing"),
    ("image_score", None, "image_score is missing"),
    ("seed", None, "seed is missing"),
    (
        "caption_safe",
        "a man with a teapot near the river " * 6,
        "safe caption is empty or longer than 40 words",
    ),
    ("caption_generated", "   ", "generated caption is empty or longer than 40 words"),
    (
        "image_safe",
        b"not an image",
        "safe image does not decode, is of one colour",
    ),
    (
        "image_generated",
        png(3)[:-40],
        "generated image does not decode, is of one colour",
    ),
    (
        "image_generated",
        png(3, side=16),
        "generated image does not decode, is of one colour",
    ),
    ("image_generated", one_colour(), "generated image does not decode, is of one colour"),
    ("text_label", "perhaps", "text label is unknown"),
    ("image_label", "Safe", "image label is unknown"),
    ("text_score", 1.5, "text score is outside 0 to 1"),
    ("caption_generated", "entirely other words", "generated caption has too little of the safe one"),
    ("caption_safe", "a man with a bicycle near the bridge", "safe caption repeats an earlier row's"),
    ("categories", [], "a category is missing or not in the taxonomy"),
    ("categories", ["violence", "weather"], "a category is missing or not in the taxonomy"),
]


@pytest.mark.parametrize(("column", "value", "reason"), ROW_FAULTS)
def test_a_bad_row_is_quarantined_with_its_reason_and_the_rest_stays(validated, rows, column, value, reason):
    validation = validated(put(rows, 5, column, value))
    quarantined = quarantine_table(validation.rejections).to_pylist()
    assert [row["id"] for row in quarantined] == ["row-0005"]
    assert quarantined[0]["stage"] == "validate_data"
    assert reason in quarantined[0]["reason"]
    assert not validation.failures
    assert len(validation.rows) == len(rows) - 1


def test_a_reason_never_holds_what_the_row_says(validated, rows):
    validation = validated(put(rows, 5, "caption_generated", "secretword " * 50))
    assert len(validation.rejections) == 1
    assert "secretword" not in str(validation.rejections)
    assert "secretword" not in str(validation.results)


def leak_caption(rows):
    return put(rows, 40, "caption_safe", rows.at[0, "caption_safe"].upper())


def leak_words(rows):
    return put(rows, 40, "caption_safe", "near the river, a man with a bicycle")


def leak_image(rows):
    return put(rows, 40, "image_safe", rows.at[0, "image_safe"])


def leak_recompressed(rows):
    return put(rows, 30, "image_safe", jpeg_of(rows.at[0, "image_safe"]))


def leak_resized(rows):
    return put(rows, 40, "image_safe", png(30, side=64))


def forbid(rows):
    return put(rows, 7, "caption_generated", f"a {FORBIDDEN[0]} and a {FORBIDDEN[1]} near the station")


def repeat_id(rows):
    return put(rows, 8, "id", "row-0009")


def drop_test_split(rows):
    return rows[rows["split"] != "test"].reset_index(drop=True)


def relabel(column, value, split=None):
    def break_it(rows):
        rows.loc[[split in (None, name) for name in rows["split"]], column] = value
        return rows

    return break_it


def drop_category(rows):
    rows["categories"] = [
        np.array(["hate"], dtype=object) if "sexual" in tags else tags for tags in rows["categories"]
    ]
    return rows


DATASET_FAULTS = [
    (leak_caption, "no_caption_in_other_split"),
    (leak_words, "no_words_in_other_split"),
    (leak_image, "no_image_in_other_split"),
    (leak_recompressed, "no_near_image_in_other_split"),
    (leak_resized, "no_near_image_in_other_split"),
    (forbid, "no_forbidden_term"),
    (repeat_id, "ids_unique"),
    (drop_test_split, "splits"),
    (drop_test_split, "test_unsafe_text"),
    (relabel("text_label", "safe"), "train_unsafe_text"),
    (relabel("image_label", "safe", "val"), "val_unsafe_image"),
    (
        lambda rows: relabel("image_label", "unsafe")(relabel("text_label", "unsafe")(rows)),
        "share_of_both_unsafe",
    ),
    (drop_category, "share_of_sexual"),
    (lambda rows: rows.iloc[:45], "row_count"),
]


@pytest.mark.parametrize(("break_it", "name"), DATASET_FAULTS)
def test_a_bad_data_set_fails_by_name(validated, rows, break_it, name):
    validation = validated(break_it(rows))
    assert name in failed(validation)
    assert name in validation.complaint()
    assert "\n" not in validation.complaint()


def test_a_minor_named_in_the_safe_caption_allows_no_sexual_category(validated, rows):
    rows = put(rows, 4, "caption_safe", f"a {FORBIDDEN[0]} with a kettle near the castle")
    assert "sexual" in rows.at[4, "categories"]
    assert "no_forbidden_term" in failed(validated(rows))


def test_too_many_quarantined_rows_fail_the_data_set(validated, rows):
    rows.loc[:9, "image_score"] = 2.0
    assert failed(validated(rows)) == {"quarantined_share"}


@pytest.mark.parametrize("column", ["caption_safe", "image_safe", "text_label"])
def test_a_column_of_nulls_fails(validated, rows, column):
    rows[column] = None
    assert {"row_count", "quarantined_share"} <= failed(validated(rows))


def test_no_rows_at_all_fail(validated):
    validation = validated(good_rows().iloc[:0])
    names = failed(validation)
    assert {"row_count", "splits", "train_unsafe_text", "quarantined_share"} <= names
    assert {f"share_of_{category}" for category in CATEGORIES} <= names


def test_different_images_are_not_near_duplicates(validated, rows):
    stricter = BOUNDS.model_copy(update={"near_duplicate_levels": 20.0})
    assert not validated(rows, stricter).failures
