"""Pictures belong to their rows; all four label states occur; nothing is dropped silently."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from picturebook.drawing import draw
from picturebook.engine import Photos, PictureBook, shows_unsafe
from safeclip.core.errors import DataError
from safeclip.core.records import CAPTIONS, IMAGES, QUARANTINE, TRUTH, read_table, write_table
from safeclip.stages.render_images import render_images
from safeclip.synthesis.images import RenderRequest
from tests.support.params import make_settings
from tests.synthesis.tiny_pipeline import BASE, save_tiny_pipeline

UNSAFE, SAFE = "a man with a gun near the river", "a man with a guitar near the river"


def requests(caption: str, count: int) -> list[RenderRequest]:
    return [RenderRequest(f"row-{n:03d}", caption) for n in range(count)]


def row(row_id: str, generated: str, safe: str = "a man with a dog near the river") -> dict[str, Any]:
    return {
        "id": row_id, "split": "train", "caption_safe": safe, "caption_generated": generated,
        "concept": "a gun", "categories": ["violence"], "rewriter": "test", "seed": 1, "source": "test",
    }  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with 120 rows: 80 unsafe, 38 safe, one that names nothing, one with a picture file."""
    monkeypatch.chdir(tmp_path)
    rows = [row(f"row-{n:03d}", UNSAFE if n % 3 else SAFE) for n in range(118)]
    rows += [row("row-118", "something nobody can draw"), row("row-119", UNSAFE)]
    write_table(tmp_path / "results/rewrite_captions/captions.parquet", rows, CAPTIONS)
    (tmp_path / "data").mkdir()
    shutil.copy(BASE.parent / "taxonomy.yaml", tmp_path / "data")
    (tmp_path / "data" / "photo.png").write_bytes(draw("a dog", "photo", 1).png)
    captions = [
        {"id": r["id"], "split": "train", "caption": r["caption_safe"], "source": "test",
         "image": "photo.png" if r["id"] == "row-119" else None}
        for r in rows
    ]  # fmt: skip
    (tmp_path / "data" / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)))
    return tmp_path


def test_the_stage_accounts_for_every_row_in_all_four_states(project: Path) -> None:
    render_images(make_settings(render_images={"options": {"misrender": 0.3}, "shard_rows": 50}))
    out = project / "results" / "render_images"
    shards = sorted(out.glob("images-*.parquet"))
    truth = read_table(out / "truth.parquet", TRUTH).to_pylist()
    images = read_table(shards, IMAGES).to_pylist()
    assert [shard.name for shard in shards] == [f"images-0000{n}.parquet" for n in range(3)]
    assert json.loads((out / "counts.json").read_text()) == {
        "in": 120, "out": 119, "quarantined": 1, "destroyed": 0,
    }  # fmt: skip
    assert [image["id"] for image in images] == [row["id"] for row in truth]
    states = Counter((row["text_unsafe"], row["image_unsafe"]) for row in truth)
    assert min(states[state] for state in [(True, True), (True, False), (False, True), (False, False)]) >= 4
    assert states[True, True] > 40
    quarantined = read_table(out / "quarantine.parquet", QUARANTINE).to_pylist()
    assert [(row["id"], row["stage"]) for row in quarantined] == [("row-118", "render_images")]
    assert "nobody" not in quarantined[0]["reason"]  # reasons never hold the text


def test_a_picture_file_is_taken_as_it_is(project: Path) -> None:
    render_images(make_settings())
    images = read_table(project / "results/render_images/images-00000.parquet", IMAGES).to_pylist()
    assert images[-1]["image_safe"] == (project / "data" / "photo.png").read_bytes()
    assert images[0]["image_safe"] != images[-1]["image_safe"]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "missing.png"])
def test_a_picture_file_must_lie_in_the_data_folder(project: Path, path: str) -> None:
    file = project / "data" / "captions.jsonl"
    file.write_text(file.read_text().replace("photo.png", path))
    with pytest.raises(DataError, match=r"row-119: image .*(outside the data folder|cannot be read)"):
        render_images(make_settings())
    assert not (project / "results" / "render_images").exists()


def test_a_picture_that_is_not_the_imported_one_is_refused(project: Path) -> None:
    file, photo = project / "data" / "captions.jsonl", project / "data" / "photo.png"
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    file.write_text(file.read_text().replace('"photo.png"', f'"photo.png", "image_sha256": "{digest}"'))
    render_images(make_settings())
    photo.write_bytes(draw("a cat", "photo", 1).png)
    with pytest.raises(DataError, match=r"row-119: image 'photo\.png' is not the file that was imported"):
        render_images(make_settings())


def test_the_same_bytes_twice_and_in_any_shards(project: Path) -> None:
    out = project / "results" / "render_images"
    render_images(make_settings(render_images={"shard_rows": 50}))
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    render_images(make_settings(render_images={"shard_rows": 50}))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    pictures = read_table(out.glob("images-*.parquet"), IMAGES)
    render_images(make_settings(render_images={"shard_rows": 7}))
    assert read_table(out.glob("images-*.parquet"), IMAGES).equals(pictures)


def test_a_diffusion_models_pictures_go_the_same_way(project: Path) -> None:
    shutil.copyfile(BASE.parent / "taxonomy.yaml", project / "data" / "taxonomy.yaml")
    save_tiny_pipeline(project / "model")
    rows = [row(f"row-{n}", "an owl and " * 40 if n == 3 else UNSAFE) for n in range(6)]
    write_table(project / "results/rewrite_captions/captions.parquet", rows, CAPTIONS)
    diffusers = {"model": "model", "steps": 1, "batch_size": 4}
    few = {"engine": "diffusers", "image_size": 16, "diffusers": diffusers, "max_dropped_share": 0.1}
    with pytest.raises(
        DataError, match=r"1 of 6 rows have no picture, more than `max_dropped_share` 0.1; 1 of them: gen"
    ):
        render_images(make_settings(render_images=few))
    assert not (project / "results/render_images").exists()
    assert list((project / "work/render_images").rglob("*.parquet"))  # kept for the next run
    render_images(make_settings(render_images={**few, "max_dropped_share": 0.2}))
    out = project / "results/render_images"
    truth = read_table(out / "truth.parquet", TRUTH).to_pylist()
    assert [(r["text_unsafe"], r["image_unsafe"], r["glyphs_generated"]) for r in truth] == [
        (True, None, None)
    ] * 5
    images = read_table(out / "images-00000.parquet", IMAGES).to_pylist()
    assert {image["image_model"] for image in images} == {"diffusers:model"}
    assert not list((project / "work/render_images").rglob("*.parquet"))  # unsafe pictures are kept once


def test_rows_draw_their_own_pictures() -> None:
    engine = PictureBook(64, seed=1, misrender=0.5)
    together = list(engine.render(requests(UNSAFE, 12)))
    assert list(engine.render(requests(UNSAFE, 12)[5:8])) == together[5:8]
    assert len({picture.image for picture in together}) == 12
    other = PictureBook(64, seed=2, misrender=0.5)
    assert list(other.render(requests(UNSAFE, 12))) != together


def test_misrendering_flips_what_the_picture_shows() -> None:
    always = PictureBook(64, seed=1, misrender=1.0)
    never = PictureBook(64, seed=1)
    assert not any(shows_unsafe(p.shows) for p in always.render(requests(UNSAFE, 20)))
    assert all(shows_unsafe(p.shows) for p in always.render(requests(SAFE, 20)))
    assert all(shows_unsafe(p.shows) for p in never.render(requests(UNSAFE, 20)))
    assert not any(shows_unsafe(p.shows) for p in never.render(requests(SAFE, 20)))


def test_the_misrender_share_is_kept() -> None:
    engine = PictureBook(64, seed=1, misrender=0.25)
    missed = sum(not shows_unsafe(picture.shows) for picture in engine.render(requests(UNSAFE, 400)))
    assert 75 <= missed <= 125


def test_what_cannot_be_drawn_is_refused_with_a_reason() -> None:
    (picture,) = Photos(64, seed=1).render([RenderRequest("a", "qwxyz of nowhere")])
    assert picture.image is None
    assert picture.reason == "nothing in the caption can be drawn"
