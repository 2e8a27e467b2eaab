"""Stage label_safety: an independent label with a score for each generated caption and image."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from safeclip.core import artifacts
from safeclip.core.artifacts import DataFolder
from safeclip.core.errors import DataError, ImageError
from safeclip.core.files import write_json
from safeclip.core.guard import load_guard
from safeclip.core.parts import load_part
from safeclip.core.records import CAPTIONS, IMAGES, LABELLED, TRUTH, read_table, write_table
from safeclip.core.stage import main, output
from safeclip.core.taxonomy import Taxonomy, load_taxonomy
from safeclip.labels.calibration import DECISION, calibration_captions, calibration_images
from safeclip.labels.ensemble import (
    Ensemble,
    agreement,
    calibrate,
    count_states,
    error_report,
    labels_of,
    pairwise_agreement,
)
from safeclip.labels.image import make_image_labeller
from safeclip.labels.text import NgramTextLabeller, make_text_labeller
from safeclip.settings import Settings
from safeclip.synthesis.pairs import load_pairs

STAGE = "label_safety"


def label_safety(settings: Settings) -> None:
    """Captions and images -> results/label_safety/{labels.parquet, metrics.json}.

    Ground truth, where a world has one, is read for the error report alone.
    """
    data = DataFolder(Path(settings.data.path))
    taxonomy = load_taxonomy(data.taxonomy)
    captions = _rendered_captions()
    ids = captions["id"].to_pylist()
    with ExitStack() as servers:
        text = _text_ensemble(settings, data, taxonomy, captions, servers)
        print(f"{STAGE}: scoring {len(captions)} captions", flush=True)
        text_scores = text.score_each(captions["caption_generated"].to_pylist())
    image = _image_ensemble(settings, data, taxonomy)
    image_scores = _score_images(image, ids)
    combined = {"text": text.combine(text_scores), "image": image.combine(image_scores)}
    columns: dict[str, Any] = {"id": ids}
    for modality, scores in combined.items():
        columns |= {f"{modality}_label": labels_of(scores), f"{modality}_score": scores}
    metrics = {
        "n": len(ids),
        "states": count_states(columns["text_label"], columns["image_label"]),
        "calibration": {"text": text.calibration_errors, "image": image.calibration_errors},
        "agreement": {
            "text": pairwise_agreement(text_scores),
            "image": pairwise_agreement(image_scores),
            "text with image": agreement(combined["text"] >= DECISION, combined["image"] >= DECISION),
        },
    }
    metrics |= _errors_against_truth(captions, columns)
    with output(STAGE) as out:
        write_table(out / "labels.parquet", pa.table(columns), LABELLED)
        write_json(out / "metrics.json", metrics)


def _rendered_captions() -> pa.Table:
    """Read the captions that have images, sorted by id."""
    captions = read_table(artifacts.CAPTIONS, CAPTIONS)
    ids = pa.schema([IMAGES.field("id")])
    rendered = read_table(artifacts.IMAGES.glob("images-*.parquet"), ids)["id"]
    known = set(captions["id"].to_pylist())
    if stray := [row for row in rendered.to_pylist() if row not in known]:
        raise DataError(f"{stray[0]}: an image without a caption; run render_images again")
    return captions.filter(pc.is_in(captions["id"], value_set=rendered.combine_chunks()))


def _text_ensemble(
    settings: Settings, data: DataFolder, taxonomy: Taxonomy, captions: pa.Table, servers: ExitStack
) -> Ensemble[str]:
    """Make the labellers of `label_safety.text`; servers that they need run until `servers` closes."""
    guard = load_guard()

    def fit_ngrams() -> NgramTextLabeller:
        train = captions.filter(pc.equal(captions["split"], "train"))["caption_safe"].to_pylist()
        if not train:
            raise DataError(f"{STAGE}: no captions of the train split to learn from; raise `data.train`")
        pairs = load_pairs(data.curated_pairs, guard, taxonomy)
        phrases = [phrase.text for phrase in taxonomy.phrases]
        return NgramTextLabeller(pairs, phrases, train, seed=settings.seed)

    calibration = calibration_captions(data.calibration, guard, taxonomy.categories)
    # a server has the cores that the workers would have
    threads = settings.compute.threads * settings.compute.workers
    return calibrate(
        settings.label_safety.text,
        calibration,
        lambda cfg, known: make_text_labeller(
            cfg, data, known, fit_ngrams=fit_ngrams, servers=servers, threads=threads
        ),
    )


def _image_ensemble(settings: Settings, data: DataFolder, taxonomy: Taxonomy) -> Ensemble[bytes]:
    draw = load_part(settings.label_safety.draw_calibration)
    calibration = calibration_images(data.calibration, load_guard(), taxonomy.categories, draw)
    phrases = [phrase.text for phrase in taxonomy.phrases]
    return calibrate(
        settings.label_safety.image,
        calibration,
        lambda cfg, known: make_image_labeller(cfg, data, phrases, known),
    )


def _score_images(ensemble: Ensemble[bytes], order: list[str]) -> dict[str, np.ndarray]:
    """Score the images with each member, in the order of the ids; one shard in memory at a time."""
    by_id: dict[str, dict[str, float]] = {member.name: {} for member in ensemble.members}
    done = 0
    for shard in sorted(artifacts.IMAGES.glob("images-*.parquet")):
        images = read_table(shard, IMAGES).select(["id", "image_generated"])
        ids = images["id"].to_pylist()
        try:
            scores = ensemble.score_each(images["image_generated"].to_pylist())
        except ImageError as error:
            raise DataError(f"{shard.name}: {ids[error.index]}: {error.fault}") from None
        for name, values in scores.items():
            by_id[name].update(zip(ids, values.tolist(), strict=True))
        done += len(ids)
        print(f"{STAGE}: scored {done}/{len(order)} images", flush=True)
    return {name: np.array([scores[row] for row in order], np.float32) for name, scores in by_id.items()}


def _errors_against_truth(captions: pa.Table, columns: dict[str, Any]) -> dict[str, Any]:
    """Return the labels' error by modality; empty without ground truth."""
    if not artifacts.TRUTH.exists():
        print(f"{STAGE}: no ground truth here, the labels' error is not measured", flush=True)
        return {}
    truth = {row["id"]: row for row in read_table(artifacts.TRUTH, TRUTH).to_pylist()}
    errors = {}
    for modality in ("text", "image"):
        true = [truth[row][f"{modality}_unsafe"] for row in columns["id"]]
        if all(value is None for value in true):
            continue  # a world that is not made up knows nothing of it
        labelled = [label == "unsafe" for label in columns[f"{modality}_label"]]
        errors[modality] = error_report(true, labelled, captions["categories"].to_pylist())
        print(f"{STAGE}: {modality} accuracy {errors[modality]['accuracy']:.3f} (n {len(true)})", flush=True)
    return errors


if __name__ == "__main__":
    main(label_safety)
