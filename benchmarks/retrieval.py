"""Streaming top-k against sorting every score: speed, equality of results, and memory at a million items.

    python benchmarks/retrieval.py [--quick] [--json FILE]

Both sides answer 500 queries for the 20 nearest of 50,000 items of dimension 512, alternating in one process
on one thread; the ratio is the median of the pairs. The million items are made block by block from a seed,
so that the peak is what the search itself needs; it is read in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from safeclip.metrics.topk import topk

QUERIES, ITEMS, MILLION, DIMENSION, K, BLOCK = 500, 50_000, 1_000_000, 512, 20, 8192


class SeededGallery:
    """Unit rows that exist only while they are read; any slice that starts at a block gives the same rows."""

    shape = (MILLION, DIMENSION)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        count = min(rows.stop, MILLION) - rows.start
        return unit_rows(count, seed=rows.start).numpy()


def unit_rows(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, DIMENSION, generator=generator), dim=1)


def full_sort(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    scores, indices = (queries @ gallery.T).sort(dim=1, descending=True, stable=True)
    return scores[:, :K], indices[:, :K]


def streamed(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    return topk(queries, gallery, K, block=BLOCK)


def seconds(search: Callable[[Tensor, Tensor], object], queries: Tensor, gallery: Tensor) -> float:
    start = time.perf_counter()
    search(queries, gallery)
    return time.perf_counter() - start


def compare(pairs: int) -> dict[str, object]:
    """Alternate the two sides; also the float32 products of all pairs and nothing else."""
    queries, gallery = unit_rows(QUERIES, 1), unit_rows(ITEMS, 2)
    same = same_results(full_sort(queries, gallery), streamed(queries, gallery))
    slow, fast, floor = [], [], []
    for _ in range(pairs):
        slow.append(seconds(full_sort, queries, gallery))
        fast.append(seconds(streamed, queries, gallery))
        floor.append(seconds(lambda q, g: q @ g.T, queries, gallery))
    return {
        "same_results": same,
        "over_fullsort_50k": statistics.median(a / b for a, b in zip(slow, fast, strict=True)),
        "of_floor_50k": statistics.median(a / b for a, b in zip(floor, fast, strict=True)),
        "fullsort_s": slow,
        "streamed_s": fast,
        "floor_s": floor,
    }


def same_results(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> bool:
    """Equal indices; where two differ, their scores must be nearer than float32 products can tell apart."""
    differs = expected[1] != found[1]
    return bool(((expected[0] - found[0]).abs()[differs] < 1e-6).all())


def million() -> dict[str, float]:
    """Search the million in this process and report the growth of its peak resident memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    topk(unit_rows(QUERIES, 1), SeededGallery(), K, block=BLOCK)
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mb_1m": peak / 1024, "grown_mb_1m": (peak - before) / 1024, "search_s_1m": took}


def machine() -> dict[str, object]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 pairs instead of 15")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--million", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.million:
        print(json.dumps(million()))
        return
    # First, while this process is small: Linux counts the size of the parent at the fork into the peak.
    child = [sys.executable, __file__, "--million"]
    search = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    figures = machine() | search | compare(5 if options.quick else 15)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for name in ("over_fullsort_50k", "of_floor_50k", "same_results", "peak_mb_1m", "search_s_1m"):
        value = figures[name]
        print(f"{name:<20} {value if isinstance(value, bool) else format(value, '.2f')}")


if __name__ == "__main__":
    main()
