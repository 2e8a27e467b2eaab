"""Import captions and images: write a data folder of the contract's shape, whole or not at all.

The source gives captions and images; taxonomy, curated pairs and base encoder are copied from another data
folder. `import_report.jsonl` lists rejected items with the reason, suspects and notes, never a caption.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from safeclip.core.artifacts import DataFolder
from safeclip.core.errors import DataError
from safeclip.core.guard import load_guard
from safeclip.core.records import SPLITS
from safeclip.core.taxonomy import Taxonomy, load_taxonomy
from safeclip.data.images import Decoder, accept, decode_all
from safeclip.data.items import ItemFault, read_below
from safeclip.data.readers import find_sources, read_items
from safeclip.data.rows import IMAGES, Collected, Limits, Remark, Row, collect, report_lines
from safeclip.data.splits import MOST, UnsafeWords, assign_splits, join_groups, misfits
from safeclip.encoders.load import Encoder, load_encoder
from safeclip.validation.near_duplicates import content_words

ZEROSHOT, PROMPTS = "zeroshot.parquet", "zeroshot_prompts.json"
SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.string())])
REPORT = "import_report.jsonl"
# Not copied from the base folder: the import writes its own.
WRITTEN = ("captions.jsonl", IMAGES, REPORT, ZEROSHOT, PROMPTS)
TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image of a {}")


def write_zeroshot(folder: Path, source: str, base: Path, limits: Limits) -> None:
    """Write the zero-shot set and its prompts below `folder`.

    Args:
        folder: The data folder that is made.
        source: `keep` copies those of `base`, `none` writes a table without rows. Otherwise a data folder
            that holds both files, or a folder with one folder of images a class.
        base: The data folder of `keep`.
        limits: What images of class folders keep to.
    """
    given = base if source == "keep" else Path(source)
    if source == "keep" or (source != "none" and (given / ZEROSHOT).is_file()):
        for name in (ZEROSHOT, PROMPTS):
            if not (given / name).is_file():
                raise DataError(f"{given / name}: no such file; give --zeroshot a folder, or `none`")
            shutil.copyfile(given / name, folder / name)
        return
    if source != "none" and not given.is_dir():
        raise DataError(
            f"--zeroshot {source}: no such folder; give one with a folder a class, `keep` or `none`"
        )
    rows = [] if source == "none" else _class_rows(given, limits)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / ZEROSHOT, store_schema=False)
    text = json.dumps({"templates": list(TEMPLATES)}, indent=2) + "\n"
    (folder / PROMPTS).write_text(text, encoding="utf-8")


def _class_rows(folder: Path, limits: Limits) -> list[dict]:
    """Rows of class folders, by name; an image that cannot be used stops the import: a test set is exact."""
    rows = []
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        for name in sorted(path.name for path in kind.iterdir()):
            try:
                image = accept(
                    read_below(kind, name), name, min_side=limits.min_side, max_side=limits.max_side
                )
            except ItemFault as fault:
                raise DataError(f"{kind / name}: {fault}; mend or remove it") from None
            rows.append({"image": image.data, "label": kind.name.replace("_", " ")})
    if len({row["label"] for row in rows}) < 2:
        raise DataError(f"{folder}: zero-shot needs at least two folders with images, one a class")
    return rows


@dataclass(frozen=True)
class ImportPlan:
    """What to import and how.

    `base` is the data folder from which all parts are copied that the import does not write. Decoded images
    lie in `work` until the import is done.
    """

    source: Path
    out: Path
    base: Path
    work: Path
    limits: Limits
    near_levels: float
    images: Path | None = None
    zeroshot: str = "keep"
    val: float = 0.1
    test: float = 0.1
    max_rejected: float = 0.5
    check_fit: bool = True
    drop_suspects: bool = False
    seed: int = 2311
    workers: int = 1

    @property
    def scratch(self) -> Path:
        """The folder of decoded images of imports into this `out`."""
        return self.work / hashlib.sha256(str(self.out.resolve()).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Imported:
    """The result of an import: rows by split, all remarks, the number of items that were read."""

    splits: dict[str, int]
    remarks: list[Remark]
    items: int


def import_data(plan: ImportPlan) -> Imported:
    """Make the folder `plan.out`, whole or not at all; `DataError` if too little of the source is usable."""
    if plan.out.exists():
        raise DataError(f"{plan.out}: exists; name a folder that does not, or move this one away")
    sources = find_sources(plan.source)
    taxonomy, guard = load_taxonomy(DataFolder(plan.base).taxonomy), load_guard()
    encoder = load_encoder(DataFolder(plan.base).base_encoder) if plan.check_fit else None
    with _exclusive(plan), _whole(plan.out) as folder:
        decoder = Decoder(plan.limits.min_side, plan.limits.max_side, plan.scratch)
        decoded = decode_all(read_items(sources, plan.images), decoder, plan.workers)
        items = tqdm(decoded, unit=" items", desc="import", disable=None)
        collected = collect(items, folder, plan.limits.max_words, guard)
        _check_rejected_share(collected, plan)
        _mark_suspects(collected, plan, folder, taxonomy, encoder)
        splits = _choose_splits(collected, plan)
        _write_folder(folder, collected, splits, plan)
        counts = {split: splits.count(split) for split in SPLITS}
        if empty := [split for split in SPLITS if not counts[split]]:
            sizes = ", ".join(f"{split} {rows}" for split, rows in counts.items())
            raise DataError(
                f"split {empty[0]!r} would be empty ({sizes}); give more items or a larger --{empty[0]}"
            )
    shutil.rmtree(plan.scratch)
    return Imported(counts, collected.remarks, collected.items)


@contextmanager
def _exclusive(plan: ImportPlan) -> Iterator[None]:
    """Lock out other imports into this `out` for as long as the block lasts."""
    plan.work.mkdir(parents=True, exist_ok=True)
    with plan.scratch.with_suffix(".lock").open("w") as lock:  # let go by the kernel, however we end
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{plan.out}: another import is writing it; wait until it is done, or name another folder"
            ) from None
        yield


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and vanishes when it does not."""
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, out)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error}); give another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_rejected_share(collected: Collected, plan: ImportPlan) -> None:
    """Refuse a source of which too much was rejected: it is the wrong one, not one with a few bad files."""
    rejected = [remark for remark in collected.remarks if remark.outcome == "rejected"]
    if not collected.items:
        raise DataError(f"{plan.source}: holds no items; check the file")
    if len(rejected) > plan.max_rejected * collected.items or not collected.rows:
        first = f"{rejected[0].item}: {rejected[0].reason}"
        raise DataError(
            f"{plan.source}: {len(rejected)} of {collected.items} items rejected (first: {first}); "
            "mend the source, or allow more with --max-rejected"
        )


def _mark_suspects(
    collected: Collected, plan: ImportPlan, folder: Path, taxonomy: Taxonomy, encoder: Encoder | None
) -> None:
    """Remark on rows that may be mislabelled, or reject them if the plan says so."""
    words = UnsafeWords(taxonomy)
    reasons: list[tuple[Row, str]] = [
        (row, f"its caption names what the taxonomy lists under {category}")
        for row in collected.rows
        if (category := words.category(row.caption))
    ]
    if encoder is not None:
        reasons += _misfit_reasons(collected, plan, folder, encoder)
    dropped: set[str] = set()
    for row, reason in reasons:
        if not plan.drop_suspects:
            collected.remark(row, "suspect", reason)
        elif row.id not in dropped:
            dropped.add(row.id)
            collected.drop(row, reason, folder)


def _misfit_reasons(
    collected: Collected, plan: ImportPlan, folder: Path, encoder: Encoder
) -> list[tuple[Row, str]]:
    rows = collected.rows
    flags = misfits(encoder, [folder / row.image for row in rows], [row.caption for row in rows], plan.seed)
    if flags.mean() > MOST:
        share = f"{flags.mean():.0%} of the captions fit their image worse than a tenth of the others do"
        reason = f"{share}: the base encoder does not know such images, none is called a suspect"
        collected.remarks.append(Remark(str(plan.source.name), "note", reason))
        return []
    reason = "its caption fits the image worse than a tenth of the others do (base encoder)"
    return [(row, reason) for row, flag in zip(rows, flags, strict=True) if flag]


def _choose_splits(collected: Collected, plan: ImportPlan) -> list[str]:
    rows = collected.rows
    keys = [content_words(row.caption) or row.id for row in rows]
    thumbnails = np.stack([row.thumbnail for row in rows])
    hashes = np.array([row.phash for row in rows], dtype=np.uint64)
    groups = join_groups(keys, thumbnails, hashes, plan.near_levels)
    first: dict[int, Row] = {}
    for row, group in zip(rows, groups.tolist(), strict=True):
        if (other := first.setdefault(group, row)) is not row:
            collected.remark(row, "note", f"alike, kept in one split (with {other.item})")
    shares = {"val": plan.val, "test": plan.test}
    return assign_splits([row.id for row in rows], groups, shares, plan.seed)


def _write_folder(folder: Path, collected: Collected, splits: list[str], plan: ImportPlan) -> None:
    lines = [
        {
            "id": row.id,
            "split": split,
            "caption": row.caption,
            "source": row.item or plan.source.name,
            "image": row.image,
            "image_sha256": row.sha256,
        }
        for row, split in sorted(zip(collected.rows, splits, strict=True), key=lambda pair: pair[0].id)
    ]
    (folder / "captions.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    (folder / REPORT).write_text(report_lines(collected.remarks), encoding="utf-8")
    for path in sorted(plan.base.iterdir()):
        if path.is_dir() and path.name not in WRITTEN:
            shutil.copytree(path, folder / path.name, copy_function=shutil.copyfile)
        elif path.is_file() and path.name not in WRITTEN:
            shutil.copyfile(path, folder / path.name)
    write_zeroshot(folder, plan.zeroshot, plan.base, plan.limits)
