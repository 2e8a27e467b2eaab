"""The stage on real captions, drawings and classifiers; small samples, fixed seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from picturebook.drawing import draw
from safeclip.core.errors import DataError, ModelError, SettingsError
from safeclip.core.records import CAPTIONS, IMAGES, LABELLED, TRUTH, read_table, write_table
from safeclip.settings import Settings
from safeclip.stages.label_safety import label_safety
from tests.labels.material import DATA, UNSEEN, rewritten
from tests.support.params import make_settings

OUT = Path("results/label_safety")
GLYPHS = {
    "kind": "custom",
    "name": "glyphs",
    "labeller": "picturebook.glyph_classifier:GlyphLabeller",
    "recall": 0.97,
}


def _write_inputs(*, truth: bool, extra_picture: bool = False) -> None:
    captions, images, truths = [], [], []
    for row, (safe, unsafe) in enumerate(zip(UNSEEN[:30], rewritten(UNSEEN[:30], seed=9), strict=True)):
        row_id, fields = f"row-{row:02d}", dict.fromkeys(CAPTIONS.names, "x")
        asks_unsafe, split = row % 5 != 0, "train" if row < 20 else "test"
        caption = unsafe if asks_unsafe else safe
        fields |= {"id": row_id, "split": split, "caption_safe": safe, "caption_generated": caption}
        captions.append(fields | {"categories": ["violence"] if row % 2 else ["hate"], "seed": 1})
        image = draw(caption, "generated", row).png
        images.append({"id": row_id, "image_safe": image, "image_generated": image, "image_model": "x"})
        truths.append({"id": row_id, "text_unsafe": asks_unsafe, "image_unsafe": asks_unsafe})
    if extra_picture:
        images.append(images[0] | {"id": "row-stray"})
    write_table(Path("results/rewrite_captions/captions.parquet"), captions, CAPTIONS)
    write_table(Path("results/render_images/images-00000.parquet"), images[:15], IMAGES)
    write_table(Path("results/render_images/images-00001.parquet"), images[15:], IMAGES)
    if truth:
        empty: dict[str, list[str]] = {"glyphs_safe": [], "glyphs_generated": []}
        rows = [found | empty for found in truths]
        write_table(Path("results/render_images/truth.parquet"), pa.Table.from_pylist(rows, TRUTH), TRUTH)


def _settings(**labels: Any) -> Settings:
    return make_settings(data={"path": str(DATA)}, label_safety=labels)


def test_the_stage_labels_every_picture_and_reports_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_inputs(truth=True)
    label_safety(_settings())
    labels = read_table(Path("results/label_safety/labels.parquet"), LABELLED)
    metrics = json.loads(Path("results/label_safety/metrics.json").read_text())
    assert labels["id"].to_pylist() == [f"row-{row:02d}" for row in range(30)]
    assert sum(metrics["states"].values()) == metrics["n"] == 30
    assert metrics["text"]["accuracy"] > 0.8
    assert metrics["image"]["accuracy"] > 0.9
    assert set(metrics["text"]["by_category"]) == {"hate", "violence"}
    first = Path("results/label_safety/labels.parquet").read_bytes()
    label_safety(_settings())
    assert Path("results/label_safety/labels.parquet").read_bytes() == first


def test_the_truth_changes_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for truth in (True, False):
        folder = tmp_path / str(truth)
        folder.mkdir()
        monkeypatch.chdir(folder)
        _write_inputs(truth=truth)
        label_safety(_settings())
        written.append(Path("results/label_safety/labels.parquet").read_bytes())
        assert ("text" in json.loads(Path("results/label_safety/metrics.json").read_text())) is truth
    assert written[0] == written[1]


def test_a_picture_without_a_caption_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write_inputs(truth=False, extra_picture=True)
    with pytest.raises(DataError, match="row-stray"):
        label_safety(_settings())
    assert not Path("results/label_safety").exists()


def test_threshold_and_error_on_the_calibration_set_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_inputs(truth=False)
    label_safety(_settings())
    calibration = json.loads((OUT / "metrics.json").read_text())["calibration"]
    for side, name, count in (("text", "ngrams", 120), ("image", "glyphs", 60)):
        report = calibration[side][name]
        assert report["n"] >= count
        assert report["recall"] >= report["stated_recall"] == 0.97
        assert 0 < report["threshold"] < 1
        assert set(report["by_category"]) == {
            *("hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal")
        }
        assert all(found["f1"] is not None for found in report["by_category"].values())


def test_an_ensemble_is_unsafe_if_any_member_says_so_and_a_silent_member_is_only_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_inputs(truth=False)
    glyphs = GLYPHS
    everything = glyphs | {"threshold": 0.0}
    label_safety(_settings(image=[glyphs, everything]))
    assert set(read_table(OUT / "labels.parquet", LABELLED)["image_label"].to_pylist()) == {"unsafe"}
    label_safety(_settings(image=[glyphs, everything | {"votes": False}]))
    assert "safe" in read_table(OUT / "labels.parquet", LABELLED)["image_label"].to_pylist()
    agreement = json.loads((OUT / "metrics.json").read_text())["agreement"]
    assert agreement["image"]["glyphs-1 and glyphs-2"]["n"] == 30
    assert 0 < agreement["image"]["glyphs-1 and glyphs-2"]["same"] < 1
    assert agreement["text with image"]["same"] > 0.9


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (
            {"image": [GLYPHS | {"options": {"model": "none.safetensors"}}]},
            "none.safetensors: no such file",
        ),
        ({"text": [{"kind": "ngrams", "recall": 0.97, "votes": False}]}, "no labeller votes"),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: dict[str, Any], fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_inputs(truth=False)
    with pytest.raises((DataError, ModelError, SettingsError), match=fault) as error:
        label_safety(_settings(**labels))
    assert "\n" not in str(error.value)
    assert not OUT.exists()


def test_a_broken_picture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write_inputs(truth=False)
    shard = Path("results/render_images/images-00001.parquet")
    rows = read_table(shard, IMAGES).to_pylist()
    rows[2]["image_generated"] = b"no picture"
    write_table(shard, rows, IMAGES)
    with pytest.raises(DataError, match="row-17"):
        label_safety(_settings())
