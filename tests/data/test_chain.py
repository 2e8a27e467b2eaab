"""The chain runs on an imported data set: from its images to a verdict, by the stages' own functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from picturebook.drawing import draw
from safeclip import cli
from safeclip.core.records import CAPTIONS, QUARANTINE, read_dataset, write_table
from safeclip.pipeline.checkout import tiny_params
from safeclip.stages.embed_teacher import embed_teacher
from safeclip.stages.evaluate import evaluate
from safeclip.stages.finetune import finetune
from safeclip.stages.gate import gate
from safeclip.stages.label_safety import label_safety
from safeclip.stages.render_images import render_images
from safeclip.stages.validate_data import validate_data
from safeclip.synthesis.captions import load_captions
from tests.data.photos import encoded, photo, write_coco, write_list
from tests.support.params import make_settings
from tests.support.toy import PROJECT

COUNT = 60


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the default data folder and params."""
    for name in ("params.yaml", "dvc.yaml", "release/production.json", "release/data_baseline.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((PROJECT / name).read_text())
    (tmp_path / "data").symlink_to(PROJECT / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewritten(folder: Path) -> int:
    """What rewrite_captions would write, without a language model: guns in place of the stripes."""
    rows = [
        {
            "id": row.id,
            "split": row.split,
            "caption_safe": row.caption,
            "caption_generated": row.caption.replace("painted stripes", "guns"),
            "concept": "a gun",
            "categories": ["violence", "illegal"],
            "rewriter": "test",
            "seed": 1,
            "source": row.source,
        }
        for row in load_captions(folder / "captions.jsonl")
    ]
    out = Path("results/rewrite_captions")
    write_table(out / "captions.parquet", rows, CAPTIONS)
    write_table(out / "quarantine.parquet", [], QUARANTINE)
    counts = {"in": len(rows), "out": len(rows), "quarantined": 0, "destroyed": 0}
    (out / "counts.json").write_text(json.dumps(counts))
    return len(rows)


def test_the_chain_runs_on_photos_up_to_the_verdict(project: Path, capsys: pytest.CaptureFixture) -> None:
    write_coco(project / "coco", COUNT)
    request = ["data", "import", "coco", "--out", "photos", "--val", "0.2", "--test", "0.3"]
    assert cli.main(request) == 0
    assert f"photos: {COUNT} of {COUNT} items (train " in capsys.readouterr().out
    params = tiny_params(PROJECT)
    settings = make_settings(**params | {"data": {"path": "photos"}})
    assert rewritten(project / "photos") == COUNT
    for stage in (render_images, label_safety, validate_data, embed_teacher, finetune, evaluate, gate):
        stage(settings)
    rows = read_dataset(project / "results/validate_data/dataset", "test").to_pylist()
    assert rows
    assert all(
        row["image_safe"] == (project / "photos/images" / f"{row['id']}.jpg").read_bytes() for row in rows
    )
    verdict = json.loads((project / "results/gate/verdict.json").read_text())
    lines = {rule["id"]: rule for rule in verdict["rules"]}
    assert lines["core_digests"]["passed"]
    assert lines["core_zeroshot"]["n"] == 600


def test_swapped_captions_are_suspects(project: Path) -> None:
    """On images that the base encoder knows: the picture book's."""
    captions = [row.caption for row in load_captions(project / "data/captions.jsonl")[:24]]
    lines = []
    for number, text in enumerate(captions):
        (project / f"{number}.png").write_bytes(draw(text, "photo", number).png)
        told = captions[{3: 11, 11: 3}.get(number, number)]
        lines.append(json.dumps({"file": f"{number}.png", "caption": told}))
    (project / "list.jsonl").write_text("\n".join(lines))
    request = ["data", "import", "list.jsonl", "--out", "own", "--val", "0.3", "--test", "0.3"]
    assert cli.main(request) == 0
    report = [json.loads(line) for line in (project / "own/import_report.jsonl").read_text().splitlines()]
    fit = [line["item"] for line in report if "fits the image worse" in line["reason"]]
    assert fit == ["3.png", "11.png"]


def test_faults_are_named_and_written_without_captions(project: Path, capsys: pytest.CaptureFixture) -> None:
    source = write_list(project / "photos-in", 20)
    (project / "photos-in" / "bad\x1b[31m.jpg").write_bytes(encoded(photo(900))[:900])
    with source.open("a") as file:
        file.write(json.dumps({"file": "bad\x1b[31m.jpg", "caption": "zanzibar sunset"}) + "\n")
    request = [
        "data",
        "import",
        str(source),
        "--out",
        "own",
        "--no-fit-check",
        "--val",
        "0.2",
        "--test",
        "0.2",
    ]
    assert cli.main(request) == 0
    out = capsys.readouterr().out
    assert "rejected: bad\\x1b[31m.jpg: cannot be decoded" in out
    report = (project / "own" / "import_report.jsonl").read_text()
    assert "zanzibar" not in report
    assert "zanzibar" not in out
    assert cli.main(request) == 1
    assert "error: own: exists" in capsys.readouterr().err
