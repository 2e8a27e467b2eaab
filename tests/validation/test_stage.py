"""The stage on real files: what comes in goes out, to quarantine, or stops the chain with one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from safeclip.core.errors import DataError
from safeclip.core.records import CAPTIONS, IMAGES, LABELLED, QUARANTINE, read_dataset, write_table
from safeclip.settings import Check
from safeclip.stages.validate_data import validate_data
from tests.support.params import make_settings
from tests.support.toy import PROJECT
from tests.validation.conftest import BOUNDS, CATEGORIES

CHECKS = BOUNDS.checks.model_copy(update={"min_vendi_share": Check(bound=0.05, on_fail="stop")})
SETTINGS = make_settings(validate_data=BOUNDS.model_copy(update={"checks": CHECKS}))


def taxonomy() -> dict:
    phrase = {"text": "a placeholder", "categories": ["violence"]}
    reason = {"policy": "use", "reason": "made for the test"}
    return {
        "categories": list(CATEGORIES),
        "concepts": [{"id": "published-01", "name": "placeholder", **reason, "phrases": [phrase]}],
    }


@pytest.fixture
def project(tmp_path, monkeypatch, rows):
    """Results of the stages before, of 75 rows: one destroyed, two quarantined by each of two stages."""
    monkeypatch.chdir(tmp_path)
    lay_out(rows)
    source = Path(__file__).parents[2] / "data/taxonomy.yaml"
    Path("data").mkdir()
    if source.exists():
        Path("data/taxonomy.yaml").write_bytes(source.read_bytes())
    else:
        YAML().dump(taxonomy(), Path("data/taxonomy.yaml"))
    return tmp_path


def lay_out(rows: pd.DataFrame) -> None:
    results = Path("results")
    lost = rows.tail(2).assign(id=["lost-1", "lost-2"], caption_safe=["one", "two"], split="val")
    captions = pa.Table.from_pandas(pd.concat([rows, lost])[CAPTIONS.names], CAPTIONS, preserve_index=False)
    write_table(results / "rewrite_captions/captions.parquet", captions, CAPTIONS)
    for shard, part in enumerate((rows.iloc[:40], rows.iloc[40:])):
        table = pa.Table.from_pandas(part[IMAGES.names], IMAGES, preserve_index=False)
        write_table(results / f"render_images/images-{shard:05d}.parquet", table, IMAGES)
    labels = pa.Table.from_pandas(rows[LABELLED.names], LABELLED, preserve_index=False)
    write_table(results / "label_safety/labels.parquet", labels, LABELLED)
    (results / "label_safety/metrics.json").write_text('{"agreement": {"text": {}, "image": {}}}')
    Path("release").mkdir(exist_ok=True)
    Path("release/data_baseline.json").write_text("{}")
    counts = {"in": 75, "out": 72, "quarantined": 2, "destroyed": 1}
    leave(results / "rewrite_captions", counts, ["gone-1", "gone-2"])
    leave(results / "render_images", {"in": 72, "out": 70, "quarantined": 2}, ["lost-1", "lost-2"])


def leave(folder: Path, counts: dict, ids: list[str]) -> None:
    (folder / "counts.json").write_text(json.dumps(counts))
    entries = [{"id": i, "stage": folder.name, "reason": "no usable answer"} for i in ids]
    write_table(folder / "quarantine.parquet", entries, QUARANTINE)


def test_outputs_hold_every_row_of_the_chain(project, rows):
    rows.loc[3, "text_score"] = -1.0
    lay_out(rows)
    validate_data(SETTINGS)
    out = Path("results/validate_data")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rows"] == {"in": 75, "out": 69, "quarantined": 5, "destroyed": 1}
    kept = [
        i
        for split in ("train", "val", "test")
        for i in read_dataset(out / "dataset", split)["id"].to_pylist()
    ]
    quarantined = pq.read_table(out / "quarantine.parquet")["id"].to_pylist()
    assert len(kept) == 69
    assert quarantined == ["gone-1", "gone-2", "lost-1", "lost-2", "row-0003"]
    assert not set(kept) & set(quarantined)
    train = read_dataset(out / "dataset", "train").to_pandas().set_index("id")
    assert train.loc["row-0000", "image_safe"] == rows.loc[0, "image_safe"]
    assert "The data meets its contract" in (out / "index.html").read_text()


def test_two_runs_write_the_same_bytes(project):
    def run() -> dict[str, bytes]:
        validate_data(SETTINGS)
        return {
            str(path): path.read_bytes()
            for path in Path("results/validate_data").rglob("*")
            if path.is_file()
        }

    first = run()
    assert len([name for name in first if "dataset" in name]) == 4  # two shards; val and test in one each
    assert first == run()


def test_a_bad_data_set_leaves_a_log_and_no_output(project, rows):
    rows["text_label"] = "safe"
    lay_out(rows)
    with pytest.raises(DataError, match="stops the chain: train_unsafe_text") as error:
        validate_data(SETTINGS)
    assert "\n" not in str(error.value)
    assert not list(Path("results").glob("*validate_data*"))
    logged = json.loads(Path("logs/validate_data/summary.json").read_text())
    assert not logged["passed"]
    assert "The data breaks its contract" in Path("logs/validate_data/index.html").read_text()


def test_a_check_warns_or_stops_as_params_say(project, capsys):
    validate_data(SETTINGS)
    out = Path("results/validate_data")
    assert "warning: repeated_captions" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["warnings"] > 0
    page = (out / "index.html").read_text()
    assert "<h2>Warnings</h2>" in page
    assert "The data meets its contract" in page
    strict = CHECKS.model_copy(update={"max_repeated_captions": Check(bound=0.05, on_fail="stop")})
    with pytest.raises(DataError, match="stops the chain: repeated_captions"):
        validate_data(make_settings(validate_data=BOUNDS.model_copy(update={"checks": strict})))


def test_without_the_labellers_agreement_it_says_what_to_rerun(project):
    Path("results/label_safety/metrics.json").write_text("{}")
    with pytest.raises(DataError, match="rerun label_safety"):
        validate_data(SETTINGS)


def test_a_row_without_labels_is_quarantined_not_lost(project, rows):
    labels = pa.Table.from_pandas(rows.iloc[1:][LABELLED.names], LABELLED, preserve_index=False)
    write_table(Path("results/label_safety/labels.parquet"), labels, LABELLED)
    validate_data(SETTINGS)
    quarantine = pq.read_table("results/validate_data/quarantine.parquet").to_pandas().set_index("id")
    assert "text_label is missing" in quarantine.loc["row-0000", "reason"]


def test_counts_that_do_not_add_up_stop_the_chain(project):
    Path("results/render_images/counts.json").write_text('{"in": 72, "out": 69, "quarantined": 2}')
    with pytest.raises(DataError, match="render_images lost 1 of 72 rows"):
        validate_data(SETTINGS)


def test_without_the_stages_before_it_fails_in_one_line(tmp_path):
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    command = [sys.executable, "-m", "safeclip.stages.validate_data"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("error: results/rewrite_captions/captions.parquet")
    assert "Traceback" not in run.stderr
