"""Serving against its ceiling and against infinity-emb, on a CLIP of ViT-B/32 size and on the picture book's.

    make bench-env; python benchmarks/serving.py [--quick] [--json FILE]
    python benchmarks/serving.py --mixed SECONDS [--json FILE]

32 clients, one text or picture a request, each sending its next when the answer is there. The ceiling is the
same work without a server: the same texts or files in batches of 32, tokenised or decoded, one thread. The
three alternate in one run, one torch thread a process; ratios are medians of the pairs. Without --quick also
requests a second, p50, p99 and CPU time a request at 1, 8 and 32 clients for both sizes. --mixed does
nothing of this: it keeps all routes of the packaged Bento busy for that long, 16 clients, every third request
a bad one, and reports what was lost and how memory moved (600 for the ten minutes that a release deserves).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from serving_load import Load, Side, mixed_load
from serving_servers import Ceiling, infinity, ours
from vitb32 import write_ours, write_peer

ROOT = Path(__file__).resolve().parents[1]
PICTUREBOOK = ROOT / "results" / "package" / "safeclip-embedder.tar"
KINDS = ("text", "image")


def compare(
    kind: str, service: Side, peer: Side | None, ceiling: Ceiling, pairs: int, seconds: float
) -> dict:
    """Alternate the sides; rates in items a second."""
    loads: dict[str, list[Load]] = {"ours": [], "infinity": []}
    rates: dict[str, list[float]] = {"ceiling": []}
    for _ in range(pairs):
        loads["ours"].append(service.load(kind, 32, seconds))
        rates["ceiling"].append(ceiling.rate(kind, seconds))
        if peer:
            loads["infinity"].append(peer.load(kind, 32, seconds))
    for name, measured in loads.items():
        rates[name] = [load.rate for load in measured]
    mine = loads["ours"]
    found: dict[str, Any] = {
        f"{kind}_of_ceiling": median_ratio(rates["ours"], rates["ceiling"]),
        f"{kind}_p99_ms_32": statistics.median(load.percentile(99) for load in mine),
        f"{kind}_cpu_ms_32": statistics.median(load.cpu_ms for load in mine),
        f"{kind}_errors": sum(load.errors for load in mine),
    }
    if peer:
        theirs = loads["infinity"]
        found[f"{kind}_over_infinity"] = median_ratio(rates["ours"], rates["infinity"])
        found[f"{kind}_p99_ms_32_infinity"] = statistics.median(load.percentile(99) for load in theirs)
        found[f"{kind}_errors_infinity"] = sum(load.errors for load in theirs)
    return found | {f"{kind}_{name}_per_s": samples for name, samples in rates.items() if samples}


def median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def sweep(label: str, service: Side, seconds: float) -> dict[str, float]:
    """Rate, p50, p99 and CPU time a request at 1, 8 and 32 clients."""
    found = {}
    for kind in KINDS:
        for clients in (1, 8, 32):
            load = service.load(kind, clients, seconds)
            name = f"{label}_{kind}_{clients}"
            found |= {f"{name}_per_s": load.rate, f"{name}_p50_ms": load.percentile(50)}
            found |= {f"{name}_p99_ms": load.percentile(99), f"{name}_cpu_ms": load.cpu_ms}
    return found


def machine() -> dict[str, object]:
    names = ("torch", "open_clip_torch", "bentoml", "transformers")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "threads": 1,
        **{f"{name}_version": version(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 pairs of 3 s, ViT-B/32 alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument(
        "--mixed", type=float, metavar="SECONDS", help="mixed load on the packaged Bento alone"
    )
    parser.add_argument("--models", type=Path, help="keep the models made for this here, and use them again")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers end with us
    figures = machine()
    with tempfile.TemporaryDirectory(prefix="safeclip-bench-") as scratch:
        if not options.mixed:
            figures |= vit(options.models or Path(scratch), Path(scratch), options.quick)
        if options.mixed or not options.quick:
            with ours(PICTUREBOOK, Path(scratch)) as service:
                if options.mixed:
                    figures |= mixed_load(service, options.mixed)
                else:
                    figures |= sweep("picturebook", service, 4)
    figures["errors"] = sum(value for name, value in figures.items() if name.endswith("_errors"))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for name, value in figures.items():
        if isinstance(value, int | float):
            print(f"{name:<32} {value:.3f}" if isinstance(value, float) else f"{name:<32} {value}")


def vit(models: Path, scratch: Path, quick: bool) -> dict[str, Any]:
    if not (models / "ours" / "info.json").is_file():
        write_ours(models / "ours")
    if not (models / "peer" / "vocab.json").is_file():
        write_peer(models / "peer")
    figures: dict[str, Any] = {}
    pairs, seconds = (5, 3.0) if quick else (9, 8.0)
    with ours(models / "ours", scratch) as service, infinity(models / "peer", scratch) as peer:
        if peer is None:
            print("infinity-emb NOT RUN: .venv-bench is missing; `make bench-env` makes it", file=sys.stderr)
        with Ceiling(models / "ours") as ceiling:
            for kind in KINDS:
                figures |= compare(kind, service, peer, ceiling, pairs, seconds)
        if not quick:
            figures |= sweep("vitb32", service, 6)
    return figures


if __name__ == "__main__":
    main()
