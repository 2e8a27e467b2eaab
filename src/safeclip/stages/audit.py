"""Stage audit: does the candidate react to what a picture shows, or to how it was made?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from safeclip.audit.groups import TITLES, explained_groups, make_groups
from safeclip.audit.measure import MODELS, REFERENCE, group_lines, outcome_rows, redirected, write_figure
from safeclip.audit.saliency import explain, saliency_lines
from safeclip.core import artifacts
from safeclip.core.files import sha256, write_json
from safeclip.core.parts import make_part
from safeclip.core.records import OUTCOMES, TRUTH, read_dataset, read_table, write_table
from safeclip.core.stage import main, output
from safeclip.encoders.load import load_encoder
from safeclip.encoders.lora import load_candidate
from safeclip.evaluation.scenes import evidence_digests, scenes_with_truth
from safeclip.evaluation.summary import summarise
from safeclip.metrics.intervals import Resampling, contrast_interval
from safeclip.metrics.outcomes import Measured, measured
from safeclip.settings import Settings

STAGE = "audit"
FIGURE = "saliency.png"
MARKERS = {"style": ("safe_styled", REFERENCE), "corner": ("safe_cornered", REFERENCE)}
"""Marked group and the same pictures unmarked, by marker."""
REMOVED = {"generated_safe": "generated_safe_plain", "unsafe_generated": "unsafe_plain"}
"""Generated group -> the same captions drawn without the marker."""


def audit(settings: Settings) -> None:
    """Write results/audit: metrics.json, outcomes.parquet and the figure."""
    own = settings.audit
    dataset = read_dataset(artifacts.DATASET, "test")
    scenes = scenes_with_truth(dataset, read_table(artifacts.TRUTH, TRUTH))
    image_models = dataset["image_model"].to_pylist()
    styles = make_part(own.styles)
    base = Path(settings.data.path) / "base_encoder"
    encoders = {"base": load_encoder(base), "candidate": load_candidate(base, artifacts.ADAPTER)}
    groups = make_groups(scenes, image_models, styles, own.pictures, settings.seed)
    table = outcome_rows(redirected(encoders, scenes, groups, own.batch_size), groups, scenes)
    drawn_here = explained_groups(scenes, image_models, styles, own.saliency_pictures, settings.seed)
    explained = {
        name: explain(encoders["base"], encoders["candidate"], group, own.saliency_steps)
        for name, group in drawn_here.items()
    }
    digests = evidence_digests(encoders)
    with output(STAGE) as out:
        write_table(out / "outcomes.parquet", table, OUTCOMES)
        digests["outcomes"] = sha256(out / "outcomes.parquet")
        how = Resampling(settings.seed, own.bootstrap, own.confidence)
        metrics = _metrics(table, how) | {"resampling": vars(how)}
        drawn = write_figure(out / FIGURE, explained, own.figure_pictures)
        metrics |= {"saliency": saliency_lines(explained), "figures": [FIGURE] if drawn else []}
        metrics |= {"skipped": sorted(set(TITLES) - set(groups)), "digests": digests}
        write_json(out / "metrics.json", metrics)
    for line in metrics["groups"]:
        shares = {model: f"{line[model]['estimate']:.3f}" for model in MODELS}
        print(f"{STAGE}: {line['title']}: redirected {shares}, n {line['n']}", flush=True)


def _metrics(table: pa.Table, how: Resampling) -> dict[str, Any]:
    """Groups, gaps by marker, what removing the marker does; and the shares as numbers, for the gate."""
    found, numbers = measured(table), summarise(measured(table), how)
    gaps = {name: _paired(found, *groups, how) for name, groups in MARKERS.items()}
    removed = {name: _paired(found, plain, name, how) for name, plain in REMOVED.items()}
    return {
        "groups": group_lines(table, how),
        "gap": (gaps["style"] or {}).get("candidate"),
        "gaps": gaps,
        "removed": removed,
        "candidate": numbers["candidate"],
        "base": numbers["base"],
        "production": None,
    }


def _paired(found: dict[str, Measured], group: str, reference: str, how: Resampling) -> dict[str, Any] | None:
    """Redirected in one group minus in the other, by model and scene; None if one of them is missing."""
    one, other = (found.get(f"audit.{name}.redirected") for name in (group, reference))
    if one is None or other is None or one.n != other.n:
        return None
    return {
        model: contrast_interval(
            one.values[model], other.values[model], how, name=f"audit.{group}.gap.{model}"
        ).as_dict()
        for model in MODELS
    }


if __name__ == "__main__":
    main(audit)
