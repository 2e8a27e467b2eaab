"""The set labelled by hand, whole and refused line by line; thresholds by stated recall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from picturebook.engine import draw_calibration
from picturebook.lexicon import find_entries
from safeclip.core.errors import DataError
from safeclip.core.guard import load_guard
from safeclip.labels.calibration import calibration_captions, calibration_images, centre, choose_threshold
from tests.labels.material import CALIBRATION, TAXONOMY

GUARD = load_guard().with_placeholders(minors=("blorptoken",), sexual=("zibbertoken",))
CATEGORIES = TAXONOMY.categories


def test_what_ships_has_both_kinds_and_every_category() -> None:
    captions = calibration_captions(CALIBRATION, GUARD, CATEGORIES)
    images = calibration_images(CALIBRATION, GUARD, CATEGORIES, draw_calibration)
    for known, least in ((captions, 120), (images, 60)):
        assert len(known.items) >= least
        assert 0.4 < sum(known.unsafe) / len(known.unsafe) < 0.6
        assert {name for names in known.categories for name in names} == set(CATEGORIES)
    assert images.items == calibration_images(CALIBRATION, GUARD, CATEGORIES, draw_calibration).items


def test_recipes_show_what_a_person_says_they_show() -> None:
    for text in (CALIBRATION / "pictures.jsonl").read_text().splitlines():
        line = json.loads(text)
        assert any(entry.unsafe for entry in find_entries(line["draw"])) is line["unsafe"], line["id"]


GOOD: dict[str, Any] = {"id": "a", "caption": "a dog", "unsafe": False, "categories": []}
UNSAFE = {"id": "b", "caption": "a thief runs", "unsafe": True, "categories": ["illegal"]}


def written(folder: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "captions.jsonl").write_text("\n".join(texts))
    return folder


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "line 3: not JSON"),
        (GOOD, "line 3: the id a is used"),
        (GOOD | {"id": "c", "unsafe": "no"}, "line 3: `unsafe`"),
        (GOOD | {"id": "c", "caption": ""}, "line 3: `caption`"),
        (GOOD | {"id": "c", "extra": 1}, "line 3: `extra`"),
        (GOOD | {"id": "c", "unsafe": True}, "line 3: `the line`: an unsafe item needs categories"),
        (UNSAFE | {"id": "c", "categories": ["weather"]}, "category 'weather' is not in the taxonomy"),
        (
            GOOD | {"id": "c", "caption": "a blorptoken and a zibbertoken"},
            "line 3: refused by the content guard",
        ),
    ],
)
def test_a_bad_line_is_named_without_its_text(tmp_path: Path, line: object, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as error:
        calibration_captions(written(tmp_path, GOOD, UNSAFE, line), GUARD, CATEGORIES)
    assert "blorptoken" not in str(error.value)


def test_one_kind_alone_and_no_file_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs safe and unsafe items"):
        calibration_captions(written(tmp_path, GOOD), GUARD, CATEGORIES)
    with pytest.raises(DataError, match=r"pictures\.jsonl: cannot be read"):
        calibration_images(tmp_path, GUARD, CATEGORIES, draw_calibration)


def test_an_image_outside_the_folder_is_refused(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "file": "../secret.png", "unsafe": False, "categories": []},
        {"id": "b", "draw": "a gun", "unsafe": True, "categories": ["violence"]},
    ]
    (tmp_path / "pictures.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="is outside the folder"):
        calibration_images(tmp_path, GUARD, CATEGORIES, draw_calibration)


SAFE_SCORES, UNSAFE_SCORES = [0.1, 0.2, 0.3, 0.4, 0.6], [0.35, 0.7, 0.8, 0.9, 0.95]
SCORES, TRUE = np.array(SAFE_SCORES + UNSAFE_SCORES), [False] * 5 + [True] * 5


@pytest.mark.parametrize(("recall", "found"), [(0.5, 4), (0.8, 4), (0.81, 5), (1.0, 5)])
def test_the_stated_share_of_the_unsafe_items_is_found(recall: float, found: int) -> None:
    threshold = choose_threshold(SCORES, TRUE, recall=recall)
    assert sum(score >= threshold for score in UNSAFE_SCORES) >= found


def test_more_recall_never_means_a_higher_threshold() -> None:
    chosen = [choose_threshold(SCORES, TRUE, recall=share) for share in (0.2, 0.6, 0.8, 0.9, 1.0)]
    assert chosen == sorted(chosen, reverse=True)


def test_well_separated_scores_get_a_threshold_between_them() -> None:
    scores = np.array([0.01, 0.02, 0.05, 0.93, 0.97, 0.99])
    assert 0.05 < choose_threshold(scores, [False] * 3 + [True] * 3, recall=0.97) < 0.93


@pytest.mark.parametrize("scores", [np.zeros(10), 1.0 - SCORES])
def test_a_labeller_that_cannot_tell_is_refused(scores: np.ndarray) -> None:
    with pytest.raises(DataError, match="calling everything unsafe"):
        choose_threshold(scores, TRUE, recall=0.97)


def test_one_kind_alone_chooses_no_threshold() -> None:
    with pytest.raises(DataError, match="needs safe and unsafe"):
        choose_threshold(SCORES, [True] * 10, recall=0.9)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.99, 1.0])
def test_centring_keeps_order_and_decisions(threshold: float) -> None:
    scores = np.linspace(0, 1, 101)
    centred = centre(scores, threshold)
    assert centred.dtype == np.float32
    assert (np.diff(centred) >= 0).all()
    assert ((centred >= 0) & (centred <= 1)).all()
    np.testing.assert_array_equal(centred >= 0.5, scores >= threshold)
