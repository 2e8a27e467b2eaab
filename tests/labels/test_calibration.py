"""The set labelled by hand: what ships is whole, and a bad line is named without its text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picturebook.lexicon import find_entries
from safeclip.core.errors import DataError
from safeclip.core.guard import load_guard
from safeclip.labels.calibration import calibration_captions, calibration_pictures
from tests.labels.material import CALIBRATION, TAXONOMY

GUARD = load_guard().with_placeholders(minors=("blorptoken",), sexual=("zibbertoken",))
CATEGORIES = TAXONOMY.categories


def test_what_ships_has_both_kinds_and_every_category() -> None:
    captions = calibration_captions(CALIBRATION, GUARD, CATEGORIES)
    pictures = calibration_pictures(CALIBRATION, GUARD, CATEGORIES)
    for known, least in ((captions, 120), (pictures, 60)):
        assert len(known.items) >= least
        assert 0.4 < sum(known.unsafe) / len(known.unsafe) < 0.6
        assert {name for names in known.categories for name in names} == set(CATEGORIES)
    assert pictures.items == calibration_pictures(CALIBRATION, GUARD, CATEGORIES).items


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
        calibration_pictures(tmp_path, GUARD, CATEGORIES)


def test_a_picture_outside_the_folder_is_refused(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "file": "../secret.png", "unsafe": False, "categories": []},
        {"id": "b", "draw": "a gun", "unsafe": True, "categories": ["violence"]},
    ]
    (tmp_path / "pictures.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="is outside the folder"):
        calibration_pictures(tmp_path, GUARD, CATEGORIES)
