"""Every input of docs/reference/inputs.md, wrong in every way: one line that names it, nothing half done."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safeclip.core.errors import SafeclipError
from safeclip.core.guard import load_guard
from safeclip.core.production import read_production
from safeclip.core.records import CAPTIONS, QUARANTINE, read_table, write_table
from safeclip.core.taxonomy import load_taxonomy
from safeclip.encoders.load import load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.evaluation.zeroshot import ZEROSHOT, read_zeroshot
from safeclip.pipeline.purge import outputs_of
from safeclip.settings import load_settings
from safeclip.synthesis.captions import load_captions
from safeclip.synthesis.images import read_image
from safeclip.synthesis.pairs import load_pairs
from tests.support.toy import PROJECT
from tests.training.tiny import tiny_encoder

PARAMS, TAXONOMY, SAFE = "params.yaml", "data/taxonomy.yaml", "data/captions.jsonl"
PAIRS, PICTURES, PROMPTS = "data/curated_pairs.jsonl", "data/zeroshot.parquet", "data/zeroshot_prompts.json"
ENCODER, ADAPTER, TABLE = (
    "data/base_encoder",
    "results/finetune/adapter.safetensors",
    "results/captions.parquet",
)
PRODUCTION, LOCK = "release/production.json", "dvc.lock"

READERS: dict[str, Callable[[], object]] = {
    PARAMS: lambda: load_settings(PARAMS),
    TAXONOMY: lambda: load_taxonomy(TAXONOMY),
    SAFE: lambda: [read_image(Path("data"), row.id, row.image or "") for row in load_captions(Path(SAFE))],
    PAIRS: lambda: load_pairs(PAIRS, load_guard(), load_taxonomy(TAXONOMY)),
    PICTURES: lambda: read_zeroshot(Path(PICTURES), Path(PROMPTS)),
    PROMPTS: lambda: read_zeroshot(Path(PICTURES), Path(PROMPTS)),
    ENCODER: lambda: load_encoder(ENCODER),
    ADAPTER: lambda: load_candidate(Path(ENCODER), Path(ADAPTER)),
    TABLE: lambda: read_table(Path(TABLE), CAPTIONS),
    PRODUCTION: lambda: read_production(Path(PRODUCTION)),
    LOCK: lambda: outputs_of(Path(LOCK).read_text()),
}
ROW = {"id": "a", "split": "train", "caption": "a dog", "source": "s", "image": "a.png"}
PAIR = json.loads((PROJECT / PAIRS).read_text().splitlines()[0]) if (PROJECT / PAIRS).is_file() else {}
RUN_ME = "!!python/object/apply:os.mkdir [hacked]"
OLD = pa.table({"id": ["a"], "caption": ["b"]})


@dataclass(frozen=True)
class Wrong:
    """An input, what is wrong with it, how to make it so, and what the line must say."""

    item: str
    way: str
    spoil: Callable[[Path], object]
    line: str


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def lines(*rows: object) -> Callable[[Path], object]:
    return text("".join(json.dumps(row) + "\n" for row in rows))


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(path: Path) -> None:
    gone(path)
    path.mkdir()


def table(content: pa.Table) -> Callable[[Path], object]:
    return lambda path: pq.write_table(content, path)


def inside(name: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: change(path / name)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def link_out(path: Path) -> None:
    (path.parent / "a.png").unlink()
    (path.parent / "a.png").symlink_to("/etc/hostname")
    lines(ROW)(path)


WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
NEITHER = "gate: {rules: [{id: a, metric: m, against: base, op: '<=', value: 1.0, why: because it must}]}"
EXCLUDED = "id: published-01, policy: exclude, reason: r"
TWICE = f"categories: [a, a]\nconcepts: [{{{EXCLUDED}}}]"
ONE_CLASS = pa.Table.from_pylist([{"image": b"", "label": "a"}], schema=ZEROSHOT)
LISTS = pa.table({name: [[1]] for name in CAPTIONS.names})
NO_SIZE = '{"model_cfg": {"embed_dim": "x"}}'
TABLE_OF_FAULTS = [
    Wrong(PARAMS, "missing", gone, "no such file; run from the project's root"),
    Wrong(PARAMS, "a folder", folder, "cannot be read"),
    Wrong(PARAMS, "empty", text(""), "must hold sections"),
    Wrong(PARAMS, "corrupt", text("seed: [1"), "not valid YAML"),
    Wrong(PARAMS, "not UTF-8", lambda path: path.write_bytes(b"seed: \xff"), "not valid YAML"),
    Wrong(PARAMS, "wrong type", text("seed: many"), "`seed` = 'many'"),
    Wrong(PARAMS, "unknown key", text("sed: 1"), "unknown key `sed`"),
    Wrong(PARAMS, "too large", text("finetune: {wise_ft_alpha: {text: 7}}"), "less than or equal to 1"),
    Wrong(PARAMS, "duplicate", text("seed: 1\nseed: 2"), "not valid YAML"),
    Wrong(PARAMS, "contradictory", text(NEITHER), "`value` is needed"),
    Wrong(PARAMS, "hostile", text(f"seed: {RUN_ME}"), "not valid YAML"),
    Wrong(TAXONOMY, "missing", gone, "no such file"),
    Wrong(TAXONOMY, "a folder", folder, "not valid YAML"),
    Wrong(TAXONOMY, "empty", text(""), "the file"),
    Wrong(TAXONOMY, "corrupt", text("categories: [a"), "not valid YAML"),
    Wrong(TAXONOMY, "wrong type", text("categories: 3\nconcepts: []"), "`categories`"),
    Wrong(TAXONOMY, "duplicate", text(TWICE), "'a' is listed twice"),
    Wrong(TAXONOMY, "contradictory", text(f"categories: [a]\nconcepts: [{{{EXCLUDED}, name: n}}]"),
          "excluded concept must have neither"),
    Wrong(TAXONOMY, "hostile", text(f"categories: {RUN_ME}"), "not valid YAML"),
    Wrong(SAFE, "missing", gone, "cannot be read"),
    Wrong(SAFE, "empty", text("\n"), "holds no captions"),
    Wrong(SAFE, "corrupt", text('{"id": '), "captions.jsonl:1: `line`"),
    Wrong(SAFE, "not UTF-8", lambda path: path.write_bytes(b'{"id": "\xff"}'), "cannot be read as UTF-8"),
    Wrong(SAFE, "wrong type", lines(ROW | {"caption": 3}), "captions.jsonl:1: `caption`"),
    Wrong(SAFE, "unknown split", lines(ROW | {"split": "dev"}), "captions.jsonl:1: `split`"),
    Wrong(SAFE, "too large", lines(ROW | {"caption": "x" * 1001}), "captions.jsonl:1: `caption`"),
    Wrong(SAFE, "duplicate", lines(ROW, ROW), "captions.jsonl:2: id 'a' stands twice"),
    Wrong(SAFE, "no image", lines(ROW | {"image": "b.png"}), "a: image 'b.png' cannot be read"),
    Wrong(SAFE, "path out", lines(ROW | {"image": "../../x"}), "image '../../x' is outside the data folder"),
    Wrong(SAFE, "link out", link_out, "a: image 'a.png' is outside the data folder"),
    Wrong(PAIRS, "missing", gone, "cannot be read; pull the data folder"),
    Wrong(PAIRS, "empty", text(""), "holds no pairs"),
    Wrong(PAIRS, "corrupt", text("{"), "line 1: not JSON"),
    Wrong(PAIRS, "wrong type", lines(PAIR | {"categories": 1}), "line 1: `categories`"),
    Wrong(PAIRS, "duplicate", lines(PAIR, PAIR), "line 2: its id is used by an earlier line"),
    Wrong(PAIRS, "contradictory", lines(PAIR | {"concept": "peace"}), "line 1: its concept is no phrase"),
    Wrong(PICTURES, "missing", gone, "no such file"),
    Wrong(PICTURES, "corrupt", cut, "not readable as Parquet"),
    Wrong(PICTURES, "an older version's", table(OLD), "columns missing: image, label"),
    Wrong(PICTURES, "one class", table(ONE_CLASS), "needs at least two"),
    Wrong(PROMPTS, "missing", gone, "no such file"),
    Wrong(PROMPTS, "corrupt", text("{"), "not valid JSON"),
    Wrong(PROMPTS, "not UTF-8", lambda path: path.write_bytes(b"\xff\xfe"), "not valid JSON"),
    Wrong(PROMPTS, "wrong type", text('{"templates": "a {}"}'), "`templates` must list prompts"),
    Wrong(ENCODER, "missing", gone, "neither a folder nor an open_clip model"),
    Wrong(ENCODER, "missing weights", inside(WEIGHTS, gone), f"{WEIGHTS}: no such file"),
    Wrong(ENCODER, "empty", inside(WEIGHTS, text("")), "not readable as safetensors"),
    Wrong(ENCODER, "corrupt", inside(WEIGHTS, cut), "not readable as safetensors"),
    Wrong(ENCODER, "hostile", inside(WEIGHTS, pickled), "not readable as safetensors"),
    Wrong(ENCODER, "corrupt configuration", inside(CONFIG, text("{")), "not valid JSON"),
    Wrong(ENCODER, "wrong type", inside(CONFIG, text(NO_SIZE)), "`model_cfg.embed_dim`"),
    Wrong(ADAPTER, "missing", gone, "adapter.safetensors"),
    Wrong(ADAPTER, "corrupt", text("no adapter"), "adapter.safetensors"),
    Wrong(ADAPTER, "hostile", pickled, "adapter.safetensors"),
    Wrong(TABLE, "missing", gone, "run the stage that writes it"),
    Wrong(TABLE, "corrupt", cut, "not readable as Parquet"),
    Wrong(TABLE, "an older version's", table(OLD), "columns missing: split"),
    Wrong(TABLE, "wrong type", table(LISTS), "does not fit the schema"),
    Wrong(PRODUCTION, "missing", gone, "no such file; restore it from git"),
    Wrong(PRODUCTION, "empty", text(""), "production.json: "),
    Wrong(PRODUCTION, "wrong type", text('{"assigned": "perhaps"}'), "production.json: "),
    Wrong(PRODUCTION, "contradictory", text('{"assigned": false, "version": "v1.0.0"}'), "not assigned, yet"),
    Wrong(LOCK, "corrupt", text("stages: [a"), "a version of it cannot be read"),
    Wrong(LOCK, "wrong type", text("stages: 3"), "a version of it cannot be read"),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which everything is right; the encoder is tiny."""
    root = tmp_path_factory.mktemp("inputs") / "project"
    (root / "data").mkdir(parents=True)
    (root / PRODUCTION).parent.mkdir()
    for name in (PARAMS, TAXONOMY, PAIRS, PICTURES, PROMPTS, PRODUCTION):
        shutil.copyfile(PROJECT / name, root / name)
    lines(ROW)(root / SAFE)
    (root / "data" / "a.png").write_bytes(b"png")
    tiny_encoder(root / ENCODER)
    (root / ADAPTER).parent.mkdir(parents=True)
    (root / ADAPTER).write_bytes(b"")
    empty = dict.fromkeys(CAPTIONS.names) | {"id": "a", "categories": ["hate"]}
    write_table(root / TABLE, [empty], CAPTIONS)
    (root / LOCK).write_text("schema: '2.0'\nstages: {}\n")
    return root


@pytest.fixture
def project(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(whole, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.parametrize("item", sorted(set(READERS) - {ADAPTER}))
def test_what_is_right_is_read(project: Path, item: str) -> None:
    before = sorted(project.rglob("*"))
    READERS[item]()
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("wrong", TABLE_OF_FAULTS, ids=lambda wrong: f"{wrong.item}: {wrong.way}")
def test_what_is_wrong_is_one_line(project: Path, wrong: Wrong) -> None:
    wrong.spoil(project / wrong.item)
    before = sorted(project.rglob("*"))
    with pytest.raises(SafeclipError) as caught:
        READERS[wrong.item]()
    message = str(caught.value)
    assert wrong.line in message
    assert len(message.splitlines()) == 1
    assert len(message) < 400
    assert sorted(project.rglob("*")) == before  # nothing half done, nothing run


def test_the_document_lists_exactly_these(project: Path) -> None:
    told = (PROJECT / "docs/reference/inputs.md").read_text()
    for wrong in TABLE_OF_FAULTS:
        assert f"`{wrong.item}`" in told, wrong.item
        section = told.split(f"`{wrong.item}`", 1)[1].split("\n| `", 1)[0]
        assert wrong.way in section, f"{wrong.item}: {wrong.way}"


def test_an_output_that_cannot_be_written_leaves_the_old_one(project: Path) -> None:
    before = Path(TABLE).read_bytes()
    with pytest.raises(SafeclipError):
        write_table(Path(TABLE), [{"id": 3, "stage": "s", "reason": "r"}], QUARANTINE)
    assert Path(TABLE).read_bytes() == before
    assert os.listdir(Path(TABLE).parent) != []
