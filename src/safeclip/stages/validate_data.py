"""Hold the synthetic data to its contract: bad rows to quarantine, a bad data set stops the chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from safeclip.core import artifacts
from safeclip.core.errors import DataError
from safeclip.core.files import write_json, write_text
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
from safeclip.core.stage import main, output
from safeclip.core.taxonomy import load_taxonomy
from safeclip.settings import Settings
from safeclip.validation.facts import image_facts, join_rows
from safeclip.validation.health import distributions, examine, read_baseline
from safeclip.validation.page import choose_samples, make_page, sample_cards, summarise
from safeclip.validation.quarantine import (
    Account,
    Rejection,
    ValidationResult,
    quarantine_table,
    read_rejections,
    validate,
)

_EARLIER = ("rewrite_captions", "render_images")
_LOGS = artifacts.LOGS / "validate_data"


def validate_data(settings: Settings) -> None:
    """Write the data set by split, the quarantine of all stages, summary.json and index.html.

    A `DataError` names the expectations that failed; then only logs/validate_data holds a summary.
    """
    rows = join_rows(
        read_table(artifacts.CAPTIONS, CAPTIONS),
        _image_facts(settings.validate_data.min_image_side),
        read_table(artifacts.LABELS, LABELLED),
    )
    rejections: list[Rejection] = []
    for stage in _EARLIER:
        rejections += read_rejections(read_table(artifacts.quarantine(stage), QUARANTINE))
    # captions whose images were quarantined are no rows of the data set any more
    rejected_ids = {rejection.id for rejection in rejections}
    rows = rows[~rows["id"].isin(rejected_ids)].reset_index(drop=True)
    categories = tuple(load_taxonomy(artifacts.DataFolder(Path(settings.data.path)).taxonomy).categories)
    print(f"validate_data: {len(rows)} rows", flush=True)
    validation = validate(
        rows,
        bounds=settings.validate_data,
        guard=load_guard(),
        categories=categories,
        earlier=[_account(stage) for stage in _EARLIER],
        earlier_rejections=rejections,
    )
    validation = validation.with_results(
        examine(
            validation.rows,
            settings.validate_data,
            categories=categories,
            agreement=_agreement(),
            before=read_baseline(),
            now=distributions(summarise(validation, categories)),
        )
    )
    summary = summarise(validation, categories)
    if validation.failures:
        _log(summary)
        raise DataError(f"validate_data stops the chain: {validation.complaint()}; see {_LOGS}/summary.json")
    _write(validation, summary, settings.validate_data.sample_rows)


def _shards() -> list[Path]:
    return sorted(artifacts.IMAGES.glob("images-*.parquet"))


def _image_facts(min_side: int) -> pd.DataFrame:
    """The facts of all images, one shard of images in memory at a time."""
    facts = [image_facts(read_table(shard, IMAGES), min_side) for shard in _shards()]
    if not facts:
        raise DataError(f"{artifacts.IMAGES}: holds no images; rerun render_images")
    return pd.concat(facts, ignore_index=True)


def _agreement() -> dict[str, Any]:
    """How far the labellers agree, as `label_safety` measured it."""
    path = artifacts.metrics("label_safety")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["agreement"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no usable agreement ({error!r}); rerun label_safety") from None


def _account(stage: str) -> Account:
    path = artifacts.counts(stage)
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))
        return Account(
            stage, counts["in"], counts["out"], counts["quarantined"], int(counts.get("destroyed", 0))
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no usable row counts ({error!r}); rerun {stage}") from None


def _write(validation: ValidationResult, summary: dict[str, Any], sample_rows: int) -> None:
    samples = choose_samples(validation.rows, sample_rows)
    with output("validate_data") as out:
        images = _write_rows(out / "dataset", validation.rows, set(samples["id"]))
        write_table(out / "quarantine.parquet", quarantine_table(validation.rejections), QUARANTINE)
        write_json(out / "summary.json", summary)
        page = make_page(summary, sample_cards(samples, images))
        (out / "index.html").write_text(page, encoding="utf-8")
    rows = summary["rows"]
    print(f"validate_data: {rows['out']} rows out, {rows['quarantined']} quarantined", flush=True)
    for result in validation.warnings:
        print(f"validate_data: warning: {result.name}: {result.observed:g} ({result.promise})", flush=True)


def _write_rows(folder: Path, rows: pd.DataFrame, wanted: set[str]) -> dict[str, tuple[bytes, bytes]]:
    """Write the rows with their images, shard by shard and split by split; return the wanted images."""
    images: dict[str, tuple[bytes, bytes]] = {}
    facts = rows[[name for name in QUADRUPLETS.names if name not in IMAGES.names or name == "id"]]
    for number, shard in enumerate(_shards()):
        joined = facts.merge(read_table(shard, IMAGES).to_pandas(), on="id", sort=False)
        for split, part in joined.groupby("split", sort=True):
            table = pa.Table.from_pandas(part[QUADRUPLETS.names], QUADRUPLETS, preserve_index=False)
            write_table(folder / f"{split}-{number:05d}.parquet", table, QUADRUPLETS)
        shown = joined[joined["id"].isin(wanted)]
        images |= dict(
            zip(shown["id"], zip(shown["image_safe"], shown["image_generated"], strict=True), strict=True)
        )
    return images


def _log(summary: dict) -> None:
    write_json(_LOGS / "summary.json", summary)
    write_text(_LOGS / "index.html", make_page(summary))


if __name__ == "__main__":
    main(validate_data)
