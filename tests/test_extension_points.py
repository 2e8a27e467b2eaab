"""What the docs promise to those who extend the project: an engine, a world, a stage of their own.

An objective of one's own trains in tests/training/test_objectives.py.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from safeclip.core.errors import SettingsError
from safeclip.core.records import CAPTIONS, IMAGES, QUADRUPLETS, TRUTH, read_table, write_table
from safeclip.encoders.load import decode_image
from safeclip.evaluation.scenes import scenes_with_truth
from safeclip.settings import Settings
from safeclip.stages.render_images import render_images
from safeclip.synthesis.images import Rendered, RenderRequest
from tests.support.params import make_settings
from tests.support.toy import PROJECT, make_toy, run


def worldless(**changes: Any) -> Settings:
    """Settings without a part of the picture book in `render_images`."""
    settings = make_settings()
    section = {"photos": None, "caption_truth": None, "options": {"red": 200}, **changes}
    return settings.model_copy(update={"render_images": settings.render_images.model_copy(update=section)})


class Flat:
    """An engine of a few lines: one colour, which depends on the caption."""

    name = "flat"

    def __init__(self, size: int, *, seed: int, red: int = 0) -> None:
        self._size, self._red = size, red

    def render(self, requests: Sequence[RenderRequest]) -> Iterator[Rendered]:
        for request in requests:
            buffer = io.BytesIO()
            blue = len(request.caption)
            Image.new("RGB", (self._size, self._size), (self._red, 0, blue)).save(buffer, "PNG")
            yield Rendered(request.id, buffer.getvalue())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two rows of captions, the first with an image file."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "id": f"row-{number}",
            "split": "test",
            "caption_safe": "a dog",
            "caption_generated": "a dog with a gun",
            "concept": "a gun",
            "categories": ["violence"],
            "rewriter": "test",
            "seed": 1,
            "source": "test",
        }
        for number in range(2)
    ]
    write_table(tmp_path / "results/rewrite_captions/captions.parquet", rows, CAPTIONS)
    (tmp_path / "data").mkdir()
    shutil.copy(PROJECT / "data/taxonomy.yaml", tmp_path / "data")
    Image.new("RGB", (40, 40)).save(tmp_path / "data/photo.png")
    (tmp_path / "data/captions.jsonl").write_text(
        '{"id": "row-0", "split": "test", "caption": "a dog", "source": "test", "image": "photo.png"}\n'
        '{"id": "row-1", "split": "test", "caption": "a dog", "source": "test", "image": null}\n'
    )
    return tmp_path


def test_an_engine_of_one_s_own_renders_and_what_nobody_knows_is_null(project: Path) -> None:
    render_images(worldless(engine=f"{__name__}:Flat", max_dropped_share=0.5))
    out = project / "results/render_images"
    [row] = read_table(out / "images-00000.parquet", IMAGES).to_pylist()
    assert row["id"] == "row-0"  # the other has no safe image, and nothing that draws one
    assert "no part that draws one" in (out / "quarantine.parquet").read_bytes().decode("latin1")
    assert row["image_model"] == "flat"
    assert decode_image(row["image_generated"], 0).getpixel((0, 0)) == (200, 0, len("a dog with a gun"))
    [truth] = read_table(out / "truth.parquet", TRUTH).to_pylist()
    assert truth["text_unsafe"] is truth["image_unsafe"] is truth["glyphs_generated"] is None


def test_where_nobody_knows_the_truth_the_labels_stand_in_for_it() -> None:
    labels = [("unsafe", "safe"), ("safe", "unsafe")]
    known = [(None, None), (True, False)]
    rows, truths = [], []
    for number, ((text, image), (text_truth, image_truth)) in enumerate(zip(labels, known, strict=True)):
        row = dict.fromkeys(QUADRUPLETS.names, "x") | {"id": str(number), "categories": []}
        row |= {"image_safe": b"", "image_generated": b"", "seed": 1, "text_score": 0.0, "image_score": 0.0}
        rows.append(row | {"text_label": text, "image_label": image})
        truths.append({"id": str(number), "text_unsafe": text_truth, "image_unsafe": image_truth})
    scenes = scenes_with_truth(
        pa.Table.from_pylist(rows, schema=QUADRUPLETS), pa.Table.from_pylist(truths, schema=TRUTH)
    )
    assert scenes.text_unsafe.tolist() == [True, True]
    assert scenes.image_unsafe.tolist() == [False, False]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"engine": "no_such_package:Engine"}, "correct the path"),
        ({"engine": f"{__name__}:Nothing"}, "has no Nothing"),
        ({"engine": f"{__name__}:Flat", "options": {"colour": "red"}}, "correct its options"),
    ],
)
def test_a_part_that_cannot_be_used_is_one_line(project: Path, changes: dict, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault) as error:
        render_images(worldless(**changes))
    assert "\n" not in str(error.value)
    assert not (project / "results/render_images").exists()


def broken(size: int, *, seed: int, **options: Any) -> None:
    """A part whose fault is its own."""
    len(None)  # type: ignore[arg-type]


def test_an_error_inside_a_part_is_not_taken_for_wrong_options(project: Path) -> None:
    with pytest.raises(TypeError, match="has no len"):
        render_images(worldless(engine=f"{__name__}:broken"))


def test_safeclip_imports_nothing_of_the_picture_book() -> None:
    for path in (PROJECT / "src/safeclip").rglob("*.py"):
        lines = path.read_text().splitlines()
        imports = [
            line for line in lines if line.split()[:2] in (["from", "picturebook"], ["import", "picturebook"])
        ]
        imports += [
            line for line in lines if line.strip().startswith(("from picturebook.", "import picturebook"))
        ]
        assert not imports, path


STAGE = """
from safeclip.core.files import write_json
from safeclip.core.stage import main, output
from safeclip.settings import Settings


def count(settings: Settings) -> None:
    with output("count") as out:
        words = open("data/words.txt").read().split()
        write_json(out / "counts.json", {"seed": settings.seed, "words": len(words)})


if __name__ == "__main__":
    main(count)
"""
ENTRY = """
  count:
    cmd: python stages/count.py
    deps: [data/words.txt, stages/count.py]
    params: [seed]
    outs: [results/count]
"""


def test_a_stage_of_one_s_own_runs_in_the_flow(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    (toy / "stages/count.py").write_text(STAGE)
    with (toy / "dvc.yaml").open("a") as file:
        file.write(ENTRY)
    done = run(toy, "safeclip", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((toy / "results/count/counts.json").read_text()) == {"seed": 2311, "words": 1}
