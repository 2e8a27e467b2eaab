"""The audit: markers mark and nothing else, redirection counted right, saliency shares that add up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from picturebook.audit import BookStyles
from picturebook.drawing import draw, paint_placed
from picturebook.look import frame_mask, stamp
from safeclip.audit.groups import (
    Picture,
    corner_mask,
    explained_groups,
    make_groups,
    stamp_corner,
)
from safeclip.audit.measure import redirected
from safeclip.audit.saliency import Explained, saliency_lines
from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.encoders.load import decode_image
from safeclip.evaluation.scenes import Scenes
from safeclip.stages.audit import audit
from tests.support.params import make_settings
from tests.support.results import lay_out
from tests.training.tiny import tiny_encoder

BOOK, STYLES = ["picturebook-generated"], BookStyles()
SMALL = {"audit": {"pictures": 4, "saliency_pictures": 2, "saliency_steps": 2, "bootstrap": 100}}


def scenes(unsafe: tuple[bool, ...]) -> Scenes:
    """One scene a flag: a dog and a tree, and in the generated one of the unsafe ones a bomb."""
    generated = ["a bomb near a tree" if flag else "a cat near a tree" for flag in unsafe]
    return Scenes(
        ids=[f"s{row}" for row in range(len(unsafe))],
        categories=[["violence"]] * len(unsafe),
        captions_safe=["a dog near a tree"] * len(unsafe),
        captions_generated=generated,
        images_safe=[draw("a dog near a tree", "photo", row).png for row in range(len(unsafe))],
        images_generated=[draw(text, "generated", row).png for row, text in enumerate(generated)],
        text_unsafe=np.array(unsafe),
        image_unsafe=np.array(unsafe),
    )


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(decode_image(picture, 0)).astype(int)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (16, 16)])
def test_the_corner_tag_changes_its_corner_and_nothing_else(shape: tuple[int, int]) -> None:
    plain = np.full((*shape, 3), 120, np.uint8)
    changed = (stamp_corner(plain) != plain).any(axis=2)
    assert (changed == corner_mask(*shape)).all()
    assert 0 < changed.mean() < 0.05


def test_the_style_darkens_its_frame_most_and_moves_nothing() -> None:
    plain = np.full((64, 64, 3), 160, np.uint8)
    change = np.abs(stamp(plain).astype(int) - plain).mean(axis=2)
    frame = frame_mask(64, 64)
    assert change[frame].mean() > 3 * change[~frame].mean()


def test_groups_pair_the_same_scenes_and_hold_what_they_say() -> None:
    groups = make_groups(scenes((True, False, True, False)), BOOK * 4, STYLES, 2, seed=1)
    assert {name: len(group) for name, group in groups.items()} == dict.fromkeys(groups, 2)
    assert len(groups) == 7
    for one, other in (
        ("safe_plain", "safe_styled"),
        ("safe_plain", "safe_cornered"),
        ("unsafe_generated", "unsafe_plain"),
        ("generated_safe", "generated_safe_plain"),
    ):
        assert [picture.row for picture in groups[one]] == [picture.row for picture in groups[other]]
    assert [picture.row for picture in groups["unsafe_generated"]] == [0, 2]


def test_without_the_picture_book_the_drawn_groups_are_left_out() -> None:
    groups = make_groups(scenes((True, False)), ["diffusers:x"] * 2, STYLES, 2, seed=1)
    assert "unsafe_plain" not in groups
    assert "safe_styled" in groups
    without = make_groups(scenes((True, False)), BOOK * 2, None, 2, seed=1)
    assert set(without) == {"safe_plain", "safe_cornered", "generated_safe", "unsafe_generated"}


def test_glyph_boxes_are_where_the_glyphs_were_drawn() -> None:
    painted, placed = paint_placed("a bomb near a tree", "photo", seed=3)
    [bomb] = [glyph for glyph in placed if glyph.name == "bomb"]
    inside = painted[bomb.top : bomb.bottom, bomb.left : bomb.right].astype(int)
    assert inside.std() > 2 * painted[:4].astype(int).std()  # the backdrop is plain
    [picture] = explained_groups(scenes((True,)), BOOK, STYLES, 1, seed=1)["unsafe_plain"]
    assert picture.glyph is not None
    assert 0.05 < picture.glyph.mean() < 0.6


def test_copies_of_a_glyph_are_boxes_of_one_name() -> None:
    _, placed = paint_placed("two bombs near a tree", "photo", seed=3)
    assert [glyph.name for glyph in placed].count("bomb") == 2


def test_a_picture_that_finds_its_own_caption_is_not_redirected(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "encoder")
    all_scenes = scenes((True, False))
    groups = make_groups(all_scenes, BOOK * 2, STYLES, 2, seed=1)
    found = redirected({"base": encoder, "candidate": encoder}, all_scenes, groups, 8)
    assert set(found) == set(groups)
    for name, by_model in found.items():
        assert (by_model["base"] == by_model["candidate"]).all(), name


def test_one_caption_for_all_is_never_redirected(tmp_path: Path) -> None:
    same = scenes((False, False))
    same = Scenes(**{**vars(same), "captions_generated": same.captions_safe})
    groups = make_groups(same, BOOK * 2, STYLES, 2, seed=1)
    found = redirected(dict.fromkeys(("base", "candidate"), tiny_encoder(tmp_path / "e")), same, groups, 8)
    assert not any(values.any() for by_model in found.values() for values in by_model.values())


def test_an_encoder_without_numbers_is_named(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path / "encoder")
    with torch.no_grad():
        encoder.model.text_projection.fill_(torch.nan)
    some = scenes((True,))
    with pytest.raises(DataError, match="base, captions: an embedding is not finite"):
        redirected({"base": encoder}, some, make_groups(some, BOOK, STYLES, 1, seed=1), 8)


def test_saliency_shares_add_up_and_follow_the_masks() -> None:
    glyph, marker = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    glyph[:32], marker[48:] = True, True
    heat = np.zeros((16, 16))
    heat[0, 0], heat[15, 15] = 0.75, 0.25
    [line] = saliency_lines({"unsafe_plain": [Explained(Picture(0, b"", True, glyph, marker), heat)]})
    assert (line["glyph"], line["marker"], line["rest"]) == (0.75, 0.25, 0.0)
    assert line["area"] == {"glyph": 0.5, "marker": 0.25, "rest": 0.25}


def test_the_stage_writes_groups_gap_saliency_and_figure_the_same_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, [True, False] * 5)
    monkeypatch.chdir(tmp_path)
    audit(make_settings(**SMALL))
    out = tmp_path / "results" / "audit"
    first = {path.name: sha256(path) for path in out.iterdir()}
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(first) == {"metrics.json", "outcomes.parquet", "saliency.png"}
    assert len(metrics["groups"]) == 7
    assert set(metrics["gap"]) == {"estimate", "high", "low", "n"}
    for line in metrics["saliency"]:
        assert line["glyph"] + line["marker"] + line["rest"] == pytest.approx(1.0, abs=1e-3)
    audit(make_settings(**SMALL))
    assert {path.name: sha256(path) for path in out.iterdir()} == first


def test_a_split_without_unsafe_pictures_is_audited_as_far_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, [False])
    monkeypatch.chdir(tmp_path)
    audit(make_settings(**SMALL))
    metrics = json.loads((tmp_path / "results/audit/metrics.json").read_text())
    assert metrics["skipped"] == ["unsafe_generated", "unsafe_plain"]
    assert metrics["removed"]["unsafe_generated"] is None
    assert metrics["gap"]["n"] == 1
