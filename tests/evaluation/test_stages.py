"""evaluate and gate as stages, on a tiny random encoder: real files, real loading, the same bytes twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safeclip.core.errors import DataError
from safeclip.core.files import sha256
from safeclip.core.records import QUADRUPLETS, TRUTH, write_table
from safeclip.encoders.embed import Quadruplets
from safeclip.encoders.load import Encoder
from safeclip.evaluation.scenes import Scenes, embed_scenes
from safeclip.evaluation.zeroshot import ZEROSHOT
from safeclip.stages.evaluate import evaluate
from safeclip.stages.gate import gate
from tests.support.params import make_settings
from tests.support.toy import PROJECT
from tests.training.adapters import write_adapter
from tests.training.tiny import tiny_encoder, tiny_table

SETTINGS = make_settings(evaluate={"batch_size": 32, "bootstrap": 200, "grid_queries": 2})
ROWS = 160


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which evaluate and gate have run once."""
    root = tmp_path_factory.mktemp("project")
    _write_inputs(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        evaluate(SETTINGS)
        gate(SETTINGS)
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def _write_inputs(root: Path) -> None:
    encoder = tiny_encoder(root / "data" / "base_encoder")
    write_adapter(encoder, root / "results" / "finetune" / "adapter.safetensors", seed=3)
    table = tiny_table(ROWS, "test")
    dataset = root / "results" / "validate_data" / "dataset"
    write_table(dataset / "test-00000.parquet", table, QUADRUPLETS)
    rng = np.random.default_rng(0)
    truth = [
        {"id": row, "text_unsafe": bool(rng.random() < 0.8), "image_unsafe": bool(rng.random() < 0.8)}
        for row in table["id"].to_pylist()
    ]
    write_table(root / "results" / "render_images" / "truth.parquet", truth, TRUTH)
    pictures = [
        {"image": row["image_safe"], "label": ("dog", "boat")[i % 2]}
        for i, row in enumerate(table.to_pylist())
    ]
    pq.write_table(pa.Table.from_pylist(pictures, schema=ZEROSHOT), root / "data" / "zeroshot.parquet")
    (root / "data" / "zeroshot_prompts.json").write_text('{"templates": ["a {}"]}')
    shutil.copyfile(PROJECT / "data" / "taxonomy.yaml", root / "data" / "taxonomy.yaml")
    (root / "release").mkdir(exist_ok=True)
    (root / "release/production.json").write_text('{"assigned": false, "version": null, "digests": {}}')


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_evaluate_measures_every_direction_for_both_models(finished: Path) -> None:
    metrics = read(finished / "results" / "evaluate" / "metrics.json")
    for model in ("candidate", "base"):
        for way in ("t2i", "i2t"):
            kinds = metrics[model]["retrieval"][way]
            assert set(kinds["safe"]) == {"r1", "r5", "r10", "r20", "preference"}
            assert set(kinds["unsafe"]) == {"r1", "r5", "r10", "r20", "harmful_top1", "redirection"} | {
                "redirection_safe"
            }
            assert set(kinds["generated_safe"]) == {"over_redirection"}
        for way in ("t2t", "i2i", "t2a", "i2a"):
            assert set(metrics[model]["retrieval"][way]["unsafe"]) == {"harmful_top1"}
        assert set(metrics[model]["safeground"]) == {"text", "image", "safe", "unsafe", "group"}
    assert metrics["production"] is None
    assert metrics["n"] == {"scenes": ROWS, "zeroshot": ROWS, "slice_minimum": 30}
    assert metrics["candidate"] != metrics["base"]


def test_outcomes_hold_ids_and_no_words(finished: Path) -> None:
    table = pq.read_table(finished / "results" / "evaluate" / "outcomes.parquet")
    assert table.column_names == ["id", "metric", "categories", "candidate", "base", "production", "slices"]
    assert all(item.startswith(("test-", "zeroshot-")) for item in table["id"].to_pylist())


def test_plots_are_there_and_what_queries_retrieve_is_told_by_id(finished: Path) -> None:
    folder = finished / "results" / "evaluate"
    assert {path.name for path in (folder / "plots").iterdir()} == {
        "recall.csv",
        "slices.csv",
        "headlines.png",
    }
    found = json.loads((folder / "retrieved.json").read_text())
    assert set(found) == {f"{kind}_{way}" for kind in ("safe", "unsafe") for way in ("t2i", "i2t")}
    for line in (line for lines in found.values() for line in lines):
        assert set(line["found"]) == {"base", "candidate"}
        for item in (line["query"], *line["found"]["base"]):
            assert set(item) == {"id", "side", "unsafe"}
            assert item["id"].startswith("test-")


def test_running_again_gives_the_same_bytes(project: Path) -> None:
    def digests() -> dict[str, str]:
        folders = (project / "results" / "evaluate", project / "results" / "gate")
        return {str(path): sha256(path) for folder in folders for path in folder.rglob("*") if path.is_file()}

    before = digests()
    evaluate(SETTINGS)
    gate(SETTINGS)
    assert digests() == before


def test_a_killed_run_does_not_embed_again_what_it_had_finished(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (project / "results/evaluate/metrics.json").read_bytes()
    models: list[str] = []

    def dies_at_the_second(encoder: Encoder, scenes: Scenes, batch_size: int) -> Quadruplets:
        models.append(encoder.digest)
        if len(models) == 2:
            raise KeyboardInterrupt
        return embed_scenes(encoder, scenes, batch_size)

    monkeypatch.setattr("safeclip.stages.evaluate.embed_scenes", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(SETTINGS)
    evaluate(SETTINGS)
    base, candidate, *rest = models
    assert base != candidate
    assert rest == [candidate]
    assert (project / "results/evaluate/metrics.json").read_bytes() == whole


def test_a_failed_gate_still_writes_its_verdict(finished: Path) -> None:
    verdict = read(finished / "results" / "gate" / "verdict.json")
    lines = {rule["id"]: rule for rule in verdict["rules"]}
    assert not verdict["passed"]  # a random adapter improves nothing
    assert lines["core_digests"]["passed"]
    assert lines["core_metrics"]["passed"]
    assert verdict["digests"]["metrics"] == sha256(finished / "results" / "evaluate" / "metrics.json")


def test_an_adapter_swapped_after_evaluation_fails_the_gate(project: Path) -> None:
    adapter = project / "results" / "finetune" / "adapter.safetensors"
    write_adapter(tiny_encoder(project / "other"), adapter, seed=4)
    gate(SETTINGS)
    lines = {rule["id"]: rule for rule in read(project / "results" / "gate" / "verdict.json")["rules"]}
    assert "candidate_adapter" in lines["core_digests"]["why"]


def test_metrics_edited_on_disk_fail_the_gate(project: Path) -> None:
    path = project / "results" / "evaluate" / "metrics.json"
    metrics = read(path)
    metrics["candidate"]["retrieval"]["t2i"]["unsafe"]["harmful_top1"] = 0.0
    path.write_text(json.dumps(metrics))
    gate(SETTINGS)
    lines = {rule["id"]: rule for rule in read(project / "results" / "gate" / "verdict.json")["rules"]}
    assert "it was changed" in lines["core_harmful_t2i"]["why"]


def test_production_is_evaluated_once_assigned(project: Path) -> None:
    adapter = project / "production.safetensors"
    shutil.copy(project / "results" / "finetune" / "adapter.safetensors", adapter)
    production = {"assigned": True, "version": "v0.1.0", "adapter": adapter.name}
    digests = {"digests": {"adapter": sha256(adapter)}}
    (project / "release/production.json").write_text(json.dumps(production | digests))
    evaluate(SETTINGS)
    metrics = read(project / "results" / "evaluate" / "metrics.json")
    assert metrics["production"] == metrics["candidate"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "production.json: no such file"),
        ("{", "production.json: "),
        ('{"assigned": true}', "`digests.adapter` is missing"),
        ('{"assigned": false, "version": "v1.0.0"}', "not assigned, yet"),
        (
            '{"assigned": true, "version": "v1", "adapter": "gone", "digests": {"adapter": "00"}}',
            "pull v1 first",
        ),
    ],
)
def test_a_broken_production_file_never_reads_as_no_production(
    project: Path, content: str | None, line: str
) -> None:
    if content is None:
        (project / "release/production.json").unlink()
    else:
        (project / "release/production.json").write_text(content)
    with pytest.raises(DataError, match=line):
        evaluate(SETTINGS)


def test_without_a_zeroshot_set_nothing_is_invented_and_the_gate_fails(project: Path) -> None:
    pq.write_table(ZEROSHOT.empty_table(), project / "data" / "zeroshot.parquet")
    evaluate(SETTINGS)
    gate(SETTINGS)
    metrics = read(project / "results" / "evaluate" / "metrics.json")
    assert metrics["n"] == {"scenes": ROWS, "zeroshot": 0, "slice_minimum": 30}
    assert "zeroshot" not in metrics["candidate"]
    lines = {rule["id"]: rule for rule in read(project / "results" / "gate" / "verdict.json")["rules"]}
    assert not lines["core_zeroshot"]["passed"]
    assert lines["core_zeroshot"]["why"] == "not measured: there is no outcome of zeroshot.top1"


def test_a_scene_without_truth_stops(project: Path) -> None:
    write_table(project / "results" / "render_images" / "truth.parquet", [], TRUTH)
    with pytest.raises(DataError, match="has no truth"):
        evaluate(SETTINGS)
