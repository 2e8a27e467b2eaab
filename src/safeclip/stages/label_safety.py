"""Stage label_safety: an independent label with a score for each generated caption and each picture."""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from safeclip.core.errors import DataError
from safeclip.core.files import write_json
from safeclip.core.guard import load_guard
from safeclip.core.records import CAPTIONS, IMAGES, LABELLED, TRUTH, read_table, write_table
from safeclip.core.stage import RESULTS, main, output
from safeclip.core.taxonomy import Taxonomy, load_taxonomy
from safeclip.labels.agreement import agree, agreement, count_states, error_report
from safeclip.labels.calibration import calibration_captions, calibration_pictures
from safeclip.labels.image import image_labeller
from safeclip.labels.panel import DECISION, Panel, labels_of, seat
from safeclip.labels.text import NgramTextLabeller, text_labeller
from safeclip.settings import LabelSafety, StageSettings
from safeclip.synthesis.pairs import load_pairs

STAGE = "label_safety"
RENDERED = RESULTS / "render_images"
Scores = dict[str, np.ndarray]


class Settings(StageSettings):
    label_safety: LabelSafety = LabelSafety()


def label_safety(settings: Settings) -> None:
    """Captions and pictures -> results/label_safety/{labels.parquet, metrics.json}.

    The truth of the picture book, where there is one, is read for the error report alone.
    """
    taxonomy = load_taxonomy(Path(settings.data.path) / "taxonomy.yaml")
    captions = _rendered_captions()
    with ExitStack() as servers:
        text = _text_panel(settings, taxonomy, captions, servers)
        print(f"{STAGE}: scoring {len(captions)} captions", flush=True)
        text_scores = text.score(captions["caption_generated"].to_pylist())
    image = _image_panel(settings, taxonomy)
    image_scores = _score_images(image, captions["id"].to_pylist())
    decided = {"text": text.decide(text_scores), "image": image.decide(image_scores)}
    columns: dict[str, Any] = {"id": captions["id"].to_pylist()}
    for side, scores in decided.items():
        columns |= {f"{side}_label": labels_of(scores), f"{side}_score": scores}
    metrics = _metrics(captions, columns) | {
        "calibration": {"text": text.report, "image": image.report},
        "agreement": {
            "text": agreement(text_scores),
            "image": agreement(image_scores),
            "text with image": agree(decided["text"] >= DECISION, decided["image"] >= DECISION),
        },
    }
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


def _text_panel(settings: Settings, taxonomy: Taxonomy, captions: pa.Table, servers: ExitStack) -> Panel[str]:
    """The panel of `label_safety.text`; what its judges need runs until `servers` closes."""
    guard = load_guard()

    def ngrams() -> NgramTextLabeller:
        pairs = load_pairs(Path(settings.data.path) / "curated_pairs.jsonl", guard, taxonomy)
        phrases = [phrase.text for phrase in taxonomy.phrases]
        return NgramTextLabeller(pairs, phrases, _training_captions(captions), seed=settings.seed)

    calibration = calibration_captions(Path(settings.data.path) / "calibration", guard, taxonomy.categories)
    threads = settings.compute.threads * settings.compute.workers  # a server's
    make = partial(text_labeller, ngrams=ngrams, servers=servers, threads=threads)
    return seat(settings.label_safety.text, calibration, lambda own, known: make(own, calibration=known))


def _image_panel(settings: Settings, taxonomy: Taxonomy) -> Panel[bytes]:
    data = Path(settings.data.path)
    calibration = calibration_pictures(data / "calibration", load_guard(), taxonomy.categories)
    phrases = [phrase.text for phrase in taxonomy.phrases]
    return seat(
        settings.label_safety.image, calibration, lambda own, known: image_labeller(own, data, phrases, known)
    )


def _score_images(panel: Panel[bytes], order: list[str]) -> Scores:
    """Each member's scores in the order of the ids; one shard of pictures in memory at a time."""
    found: dict[str, dict[str, float]] = {member.name: {} for member in panel.members}
    done = 0
    for shard in sorted(RENDERED.glob("images-*.parquet")):
        images = read_table(shard, IMAGES).select(["id", "image_generated"])
        ids = images["id"].to_pylist()
        try:
            scores = panel.score(images["image_generated"].to_pylist())
        except DataError as error:
            raise DataError(f"{shard.name}: {_named(str(error), ids)}") from None
        for name, values in scores.items():
            found[name].update(zip(ids, values.tolist(), strict=True))
        done += len(ids)
        print(f"{STAGE}: scored {done}/{len(order)} pictures", flush=True)
    return {name: np.array([scores[row] for row in order], np.float32) for name, scores in found.items()}


def _named(fault: str, ids: list[str]) -> str:
    """A fault that counts pictures ("image 17: ...") with the row's id in place of the number."""
    return re.sub(r"^image (\d+)", lambda found: ids[int(found[1])], fault)


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
