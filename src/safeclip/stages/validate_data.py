"""Hold the synthetic data to its contract: bad rows to quarantine, a bad data set stops the chain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from safeclip.core.errors import DataError
from safeclip.core.files import write_json
from safeclip.core.guard import load_guard
from safeclip.core.records import (
    CAPTIONS,
    IMAGES,
    LABELLED,
    QUADRUPLETS,
    QUARANTINE,
    read_table,
    write_table,
)
from safeclip.core.stage import RESULTS, main, output
from safeclip.core.taxonomy import load_taxonomy
from safeclip.settings import StageSettings, ValidateData
from safeclip.validation.facts import join_rows, picture_facts
from safeclip.validation.health import distributions, examine, read_baseline
from safeclip.validation.page import choose_samples, make_page, sample_cards, summarise
from safeclip.validation.quarantine import Account, Judgement, gather, judge

_EARLIER = ("rewrite_captions", "render_images")
_LOGS = Path("logs/validate_data")


class Settings(StageSettings):
    validate_data: ValidateData = ValidateData()


def validate_data(settings: Settings) -> None:
    """Write the data set by split, the quarantine of all stages, summary.json and index.html.

    A `DataError` names the expectations that failed; then only logs/validate_data holds a summary.
    """
    rows = join_rows(
        read_table(RESULTS / "rewrite_captions/captions.parquet", CAPTIONS),
        _pictures(settings.validate_data.min_image_side),
        read_table(RESULTS / "label_safety/labels.parquet", LABELLED),
    )
    quarantine = gather(
        [read_table(RESULTS / stage / "quarantine.parquet", QUARANTINE) for stage in _EARLIER]
    )
    rows = _without_rejected(rows, quarantine)
    categories = tuple(load_taxonomy(Path(settings.data.path) / "taxonomy.yaml").categories)
    print(f"validate_data: {len(rows)} rows", flush=True)
    judgement = judge(
        rows,
        bounds=settings.validate_data,
        guard=load_guard(),
        categories=categories,
        earlier=[_account(stage) for stage in _EARLIER],
        earlier_quarantine=quarantine,
    )
    judgement = judgement.with_findings(
        examine(
            judgement.rows,
            settings.validate_data,
            categories=categories,
            agreement=_agreement(),
            before=read_baseline(),
            now=distributions(summarise(judgement, categories)),
        )
    )
    summary = summarise(judgement, categories)
    if judgement.failures:
        _log(summary)
        raise DataError(f"validate_data stops the chain: {judgement.complaint()}; see {_LOGS}/summary.json")
    _write(judgement, summary, settings.validate_data.sample_rows)


def _shards() -> list[Path]:
    return sorted((RESULTS / "render_images").glob("images-*.parquet"))


def _pictures(min_side: int) -> pd.DataFrame:
    """The facts of all pictures, one shard of pictures in memory at a time."""
    facts = [picture_facts(read_table(shard, IMAGES), min_side) for shard in _shards()]
    if not facts:
        raise DataError(f"{RESULTS / 'render_images'}: holds no pictures; rerun render_images")
    return pd.concat(facts, ignore_index=True)


def _agreement() -> dict[str, Any]:
    """How far the labellers agree, as `label_safety` measured it."""
    path = RESULTS / "label_safety" / "metrics.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["agreement"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no usable agreement ({error!r}); rerun label_safety") from None


def _without_rejected(rows: pd.DataFrame, quarantine: pa.Table) -> pd.DataFrame:
    """Captions whose pictures were quarantined have no part in the data set any more."""
    return rows[~rows["id"].isin(quarantine["id"].to_pylist())].reset_index(drop=True)


def _account(stage: str) -> Account:
    path = RESULTS / stage / "counts.json"
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))
        return Account(
            stage, counts["in"], counts["out"], counts["quarantined"], int(counts.get("destroyed", 0))
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no usable row counts ({error!r}); rerun {stage}") from None


def _write(judgement: Judgement, summary: dict[str, Any], sample_rows: int) -> None:
    samples = choose_samples(judgement.rows, sample_rows)
    with output("validate_data") as out:
        pictures = _write_dataset(out / "dataset", judgement.rows, set(samples["id"]))
        write_table(out / "quarantine.parquet", judgement.quarantine, QUARANTINE)
        write_json(out / "summary.json", summary)
        page = make_page(summary, sample_cards(samples, pictures))
        (out / "index.html").write_text(page, encoding="utf-8")
    rows = summary["rows"]
    print(f"validate_data: {rows['out']} rows out, {rows['quarantined']} quarantined", flush=True)
    for finding in judgement.warnings:
        print(f"validate_data: warning: {finding.name}: {finding.observed:g} ({finding.promise})", flush=True)


def _write_dataset(folder: Path, rows: pd.DataFrame, wanted: set[str]) -> dict[str, tuple[bytes, bytes]]:
    """Write the rows with their pictures, shard by shard and split by split; return the wanted pictures."""
    kept: dict[str, tuple[bytes, bytes]] = {}
    facts = rows[[name for name in QUADRUPLETS.names if name not in IMAGES.names or name == "id"]]
    for number, shard in enumerate(_shards()):
        joined = facts.merge(read_table(shard, IMAGES).to_pandas(), on="id", sort=False)
        for split, part in joined.groupby("split", sort=True):
            table = pa.Table.from_pandas(part[QUADRUPLETS.names], QUADRUPLETS, preserve_index=False)
            write_table(folder / f"{split}-{number:05d}.parquet", table, QUADRUPLETS)
        shown = joined[joined["id"].isin(wanted)]
        kept |= dict(
            zip(shown["id"], zip(shown["image_safe"], shown["image_generated"], strict=True), strict=True)
        )
    return kept


def _log(summary: dict) -> None:
    shutil.rmtree(_LOGS, ignore_errors=True)
    _LOGS.mkdir(parents=True)
    write_json(_LOGS / "summary.json", summary)
    (_LOGS / "index.html").write_text(make_page(summary), encoding="utf-8")


if __name__ == "__main__":
    main(validate_data, Settings)
