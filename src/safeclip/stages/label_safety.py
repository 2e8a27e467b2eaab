"""Stage label_safety: an independent label with a score for each generated caption and each picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from safeclip.encoders.load import load_encoder
from safeclip.errors import DataError
from safeclip.guard import load_guard
from safeclip.records import CAPTIONS, IMAGES, LABELLED, TRUTH, read_table, write_table
from safeclip.settings.label_safety import LabelSafety
from safeclip.settings.stage import StageSettings
from safeclip.stages.stage import RESULTS, main, output, write_json
from safeclip.synthesis.label_report import count_states, error_report
from safeclip.synthesis.labels import Depicted, NgramTextLabeller, PromptImageLabeller, labels_of
from safeclip.synthesis.pairs import load_pairs
from safeclip.taxonomy import Taxonomy, load_taxonomy

STAGE = "label_safety"
RENDERED = RESULTS / "render_images"


class Settings(StageSettings):
    label_safety: LabelSafety = LabelSafety()


def label_safety(settings: Settings) -> None:
    """Captions and pictures -> results/label_safety/{labels.parquet, metrics.json}.

    The truth of the picture book, where there is one, is read for the error report alone.
    """
    data = Path(settings.data.path)
    taxonomy = load_taxonomy(data / "taxonomy.yaml")
    captions = _rendered_captions()
    text_score = _score_texts(settings, taxonomy, captions)
    text_label = labels_of(text_score, settings.label_safety.text_threshold)
    image_score = _score_images(settings, taxonomy, captions, text_label)
    columns = {
        "id": captions["id"].to_pylist(),
        "text_label": text_label,
        "text_score": text_score,
        "image_label": labels_of(image_score, settings.label_safety.image_threshold),
        "image_score": image_score,
    }
    metrics = _metrics(captions, columns)
    with output(STAGE) as out:
        write_table(out / "labels.parquet", pa.table(columns), LABELLED)
        write_json(out / "metrics.json", metrics)


def _rendered_captions() -> pa.Table:
    """The captions that have pictures, by id."""
    captions = read_table(RESULTS / "rewrite_captions" / "captions.parquet", CAPTIONS)
    rendered = read_table(RENDERED.glob("images-*.parquet"), pa.schema([IMAGES.field("id")]))["id"]
    known = set(captions["id"].to_pylist())
    stray = [row for row in rendered.to_pylist() if row not in known]
    if stray:
        raise DataError(f"{stray[0]}: a picture without a caption; run render_images again")
    return captions.filter(pc.is_in(captions["id"], value_set=rendered.combine_chunks()))


def _training_captions(captions: pa.Table) -> list[str]:
    safe = captions.filter(pc.equal(captions["split"], "train"))["caption_safe"].to_pylist()
    if not safe:
        raise DataError("label_safety: no captions of the train split to learn from; raise `data.train`")
    return safe


def _score_texts(settings: Settings, taxonomy: Taxonomy, captions: pa.Table) -> np.ndarray:
    pairs = load_pairs(Path(settings.data.path) / "curated_pairs.jsonl", load_guard(), taxonomy)
    phrases = [phrase.text for phrase in taxonomy.phrases]
    labeller = NgramTextLabeller(pairs, phrases, _training_captions(captions), seed=settings.seed)
    print(f"{STAGE}: scoring {len(captions)} captions", flush=True)
    return labeller.score(captions["caption_generated"].to_pylist())


def _score_images(
    settings: Settings, taxonomy: Taxonomy, captions: pa.Table, text_label: list[str]
) -> np.ndarray:
    encoder = load_encoder(Path(settings.data.path) / "base_encoder")
    labeller = PromptImageLabeller(encoder, [phrase.text for phrase in taxonomy.phrases])
    rows = {
        row["id"]: (row["caption_generated"], row["caption_safe"], label == "unsafe")
        for row, label in zip(captions.to_pylist(), text_label, strict=True)
    }
    scores: dict[str, float] = {}
    for shard in sorted(RENDERED.glob("images-*.parquet")):
        images = read_table(shard, IMAGES).select(["id", "image_generated"]).to_pylist()
        found = labeller.score([Depicted(image["image_generated"], *rows[image["id"]]) for image in images])
        scores.update(zip([image["id"] for image in images], found.tolist(), strict=True))
        print(f"{STAGE}: scored {len(scores)}/{len(captions)} pictures", flush=True)
    return np.array([scores[row] for row in captions["id"].to_pylist()], np.float32)


def _metrics(captions: pa.Table, columns: dict[str, Any]) -> dict[str, Any]:
    states = count_states(columns["text_label"], columns["image_label"])
    metrics: dict[str, Any] = {"n": len(columns["id"]), "states": states}
    if not (RENDERED / "truth.parquet").exists():
        print(f"{STAGE}: no ground truth here, the labels' error is not measured", flush=True)
        return metrics
    truth = {row["id"]: row for row in read_table(RENDERED / "truth.parquet", TRUTH).to_pylist()}
    for side in ("text", "image"):
        true = [truth[row][f"{side}_unsafe"] for row in columns["id"]]
        labelled = [label == "unsafe" for label in columns[f"{side}_label"]]
        metrics[side] = error_report(true, labelled, captions["categories"].to_pylist())
        print(f"{STAGE}: {side} accuracy {metrics[side]['accuracy']:.3f} (n {len(true)})", flush=True)
    return metrics


if __name__ == "__main__":
    main(label_safety, Settings)
