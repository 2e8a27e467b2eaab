"""Properties of parsers, records, grammar, gate rules and settings, over inputs that nobody thought of."""

from __future__ import annotations

import json
import math
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from picturebook.grammar import safe_scene, unsafe_scene
from picturebook.lexicon import find_entries
from safeclip.core.errors import SafeclipError
from safeclip.core.records import QUARANTINE, read_table, write_table
from safeclip.core.taxonomy import load_taxonomy
from safeclip.data.images import accept
from safeclip.data.items import ItemFault, clean, decode, fit_caption, read_below
from safeclip.data.rows import make_id
from safeclip.data.splits import assign_splits, join_groups
from safeclip.gate.rules import bound, check_rule
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import Measured
from safeclip.settings import Rule, Settings, load_settings
from safeclip.synthesis.captions import load_captions
from tests.support.toy import PROJECT

FEW = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
WORDS = st.text(string.ascii_letters + " .,é日\u2028\x85'\"\\", min_size=1, max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def folder() -> Any:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@FEW
@given(st.lists(st.tuples(WORDS, st.sampled_from(["train", "val", "test"])), min_size=1, max_size=5))
def test_captions_come_back_as_they_were_written(folder: Path, rows: list[tuple[str, str]]) -> None:
    lines = [
        {"id": f"row-{number}", "split": split, "caption": caption, "source": "s"}
        for number, (caption, split) in enumerate(rows)
    ]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "captions.jsonl").write_bytes(text.encode())
    read = [(row.caption, row.split) for row in load_captions(folder / "captions.jsonl")]
    assert read == rows


def _fault(read: Callable[[Path], object], path: Path) -> str:
    """What a reader says of a file, empty if it takes it; anything but a `SafeclipError` goes through."""
    try:
        read(path)
    except SafeclipError as error:
        return str(error)
    return ""


@FEW
@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_file_makes_a_parser_fail_in_another_way_than_told(folder: Path, content: bytes) -> None:
    path = folder / "file"
    path.write_bytes(content)
    told = [_fault(read, path) for read in (load_captions, load_taxonomy, load_settings)]
    assert all(len(line.splitlines()) <= 1 for line in told)


@FEW
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=8, unique_by=lambda row: row[0]))
def test_tables_come_back_sorted_and_the_same_bytes(folder: Path, rows: list[tuple[str, str]]) -> None:
    table = [{"id": row_id, "stage": "s", "reason": reason} for row_id, reason in rows]
    write_table(folder / "one.parquet", table, QUARANTINE)
    write_table(folder / "two.parquet", table[::-1], QUARANTINE)
    assert (folder / "one.parquet").read_bytes() == (folder / "two.parquet").read_bytes()
    read = read_table(folder / "one.parquet", QUARANTINE).to_pylist()
    assert {row["id"]: row["reason"] for row in read} == dict(rows)
    assert [row["id"].encode() for row in read] == sorted(row_id.encode() for row_id, _ in rows)


@FEW
@given(st.integers(0, 2**32))
def test_the_grammar_names_what_it_draws(seed: int) -> None:
    safe, unsafe = safe_scene(np.random.default_rng(seed)), unsafe_scene(np.random.default_rng(seed))
    assert not any(entry.unsafe for entry in find_entries(safe.caption))
    assert any(entry.unsafe for entry in find_entries(unsafe.caption))
    assert safe == safe_scene(np.random.default_rng(seed))


def measured(ours: list[bool], base: list[bool]) -> tuple[dict[str, Measured], dict[str, Any]]:
    found = {"m": Measured("m", {"candidate": np.array(ours), "base": np.array(base)})}
    metrics = {"candidate": {"m": float(np.mean(ours))}, "base": {"m": float(np.mean(base))}}
    return found, metrics


RULES = st.builds(
    Rule,
    id=st.just("rule"),
    metric=st.just("m"),
    against=st.just("base"),
    op=st.sampled_from(["<=", ">="]),
    factor=st.floats(0.0, 2.0),
    offset=st.floats(-1.0, 1.0),
    min_n=st.integers(1, 60),
    why=st.just("because it must hold"),
)
PAIRED = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
HOW = Resampling(3, 200, 0.95)


@FEW
@given(RULES, PAIRED)
def test_a_rule_passes_only_if_the_worse_end_keeps_the_bound(
    rule: Rule, pairs: list[tuple[bool, bool]]
) -> None:
    found, metrics = measured([ours for ours, _ in pairs], [base for _, base in pairs])
    result = check_rule(rule, found, metrics, False, HOW)
    if len(pairs) < rule.min_n:
        assert not result.passed
        assert result.estimate is None
        return
    assert result.low <= result.estimate <= result.high
    worse = result.high if rule.op == "<=" else result.low
    if abs(worse - bound(rule)) > 1e-5:  # the result is rounded, the decision is not
        assert result.passed == (worse < bound(rule) if rule.op == "<=" else worse > bound(rule))


@FEW
@given(RULES, PAIRED, st.sampled_from([None, math.nan, math.inf, "0.5", True, -1.0, 2.0]))
def test_a_rule_never_passes_on_numbers_that_the_outcomes_do_not_give(
    rule: Rule, pairs: list[tuple[bool, bool]], stated: Any
) -> None:
    found, metrics = measured([ours for ours, _ in pairs], [base for _, base in pairs])
    for model in ("candidate", "base"):
        assert not check_rule(rule, found, metrics | {model: {"m": stated}}, False, HOW).passed
    assert not check_rule(rule, {}, metrics, False, HOW).passed


PARAMS = YAML(typ="safe").load(PROJECT / "params.yaml")


@FEW
@given(st.dictionaries(st.sampled_from([*Settings.model_fields, "sed"]), JSON, max_size=4))
def test_settings_are_right_or_one_line(folder: Path, sections: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(json.dumps(PARAMS | sections))
    try:
        loaded = load_settings(folder / "params.yaml")
    except SafeclipError as error:
        told = str(error).splitlines()
    else:
        told = [f"params.yaml: seed {loaded.seed}"]
        assert "sed" not in sections
    assert len(told) == 1
    assert "params.yaml" in told[0]


@FEW
@given(st.binary(max_size=60) | ANY_TEXT.map(str.encode))
def test_any_bytes_are_a_caption_or_a_fault(data: bytes) -> None:
    text, _ = decode(data)
    assert clean(clean(text)) == clean(text)
    try:
        caption, _ = fit_caption(text, 10)
    except ItemFault:
        return
    assert 0 < len(caption.split()) <= 10
    assert "\n" not in caption


@FEW
@given(st.binary(max_size=200), ANY_TEXT)
def test_any_bytes_are_a_picture_or_a_fault(data: bytes, name: str) -> None:
    with pytest.raises(ItemFault):
        accept(b"\x89PNG\r\n\x1a\n" + data, name, min_side=32, max_side=64)


@FEW
@given(
    ANY_TEXT | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "\0", "c:"]), max_size=6).map("/".join)
)
def test_no_name_reads_a_file_outside_the_folder(folder: Path, name: str) -> None:
    (folder / "inside").mkdir(exist_ok=True)
    (folder / "a").write_text("secret")
    with pytest.raises(ItemFault):
        read_below(folder / "inside", name)
    assert set(make_id(name)) <= set(string.ascii_lowercase + string.digits + "-")


@FEW
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 99))
def test_like_rows_share_a_split(keys: list[int], seed: int) -> None:
    ids = [f"row-{number}" for number in range(len(keys))]
    thumbnails = np.random.default_rng(7).integers(0, 256, (len(keys), 768)).astype(np.uint8)
    hashes = np.random.default_rng(8).integers(0, 2**63, len(keys)).astype(np.uint64)
    groups = join_groups(keys, thumbnails, hashes, 3.0)
    splits = assign_splits(ids, groups, {"val": 0.3, "test": 0.3}, seed)
    for key in set(keys):
        assert len({split for split, other in zip(splits, keys, strict=True) if other == key}) == 1
    assert len(set(groups.tolist())) == len(set(keys))
