"""`safeclip data import` of photographs: pictures a second with one worker and with one a core.

    python benchmarks/data_import.py [--quick] [--json FILE]

1,000 JPEG files of 640 x 480 (--quick: 200), scaled to sides of at most 512 and written again, with all that
belongs to an import (caption guard, near-duplicates, splits) but the base encoder's look at whether captions
fit. The two alternate in one run; rates are medians of the pairs. Both must make the same folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image, ImageFilter

from safeclip.data.rows import Limits

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 3
LIMITS = Limits(max_words=40, min_side=32, max_side=512)


def write_photos(folder: Path, count: int) -> Path:
    """A list of captions beside its pictures, as smooth as photographs are."""
    folder.mkdir()
    lines = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
        picture.filter(ImageFilter.GaussianBlur(2)).save(folder / f"{number}.jpg", quality=90)
        lines.append(json.dumps({"file": f"{number}.jpg", "caption": f"place number {number} by the road"}))
    path = folder / "list.jsonl"
    path.write_text("\n".join(lines))
    return path


@contextmanager
def imported(source: Path, workers: int) -> Iterator[tuple[Path, float]]:
    """The new folder and the seconds that it took; removed afterwards."""
    # Here, as in the command itself: workers start by importing the file that was run.
    from safeclip.data.importing import ImportPlan, import_data

    with tempfile.TemporaryDirectory(dir=source.parents[1]) as scratch:
        out = Path(scratch) / "out"
        plan = ImportPlan(
            source, out, ROOT / "data", Path(scratch) / "work", LIMITS, 3.0, check_fit=False, workers=workers
        )
        began = time.perf_counter()
        import_data(plan)
        yield out, time.perf_counter() - began


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    count, most = 200 if options.quick else 1000, os.cpu_count() or 1
    rates: dict[int, list[float]] = {1: [], most: []}
    digests = set()
    with tempfile.TemporaryDirectory(prefix="safeclip-import-") as folder:
        source = write_photos(Path(folder) / "photos", count)
        for _ in range(PAIRS):
            for workers, samples in rates.items():
                with imported(source, workers) as (out, seconds):
                    samples.append(count / seconds)
                    digests.add(digest(out))
    one, all_cores = rates[1], rates[most]
    figures = {
        "machine": f"{platform.machine()}, {most} cores",
        "load_average_at_start": os.getloadavg()[0],
        "pictures": count,
        "workers": most,
        "one_worker_per_s": statistics.median(one),
        "all_workers_per_s": statistics.median(all_cores),
        "all_over_one": statistics.median(b / a for a, b in zip(one, all_cores, strict=True)),
        "same_bytes": len(digests) == 1,
        "one_worker_samples": one,
        "all_workers_samples": all_cores,
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for name, value in figures.items():
        if isinstance(value, int | float):
            print(f"{name:<24} {value:.3f}" if isinstance(value, float) else f"{name:<24} {value}")


if __name__ == "__main__":
    main()
