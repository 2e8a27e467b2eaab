"""Draw docs/images/retrieval.png: what unsafe captions find with the base encoder and with the candidate.

    python benchmarks/readme_image.py [--queries 3]

Reads `results/evaluate/retrieved.json` and the test split. The stage `evaluate` chose the queries:
the first of each category in id order. No generated caption is shown, only its categories. Unsafe images
are blurred.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safeclip.core import artifacts
from safeclip.core.records import read_dataset
from safeclip.evaluation.grids import Cell, draw_lines

OUT = Path("docs/images/retrieval.png")
LABELS = {"base": "base", "candidate": "safeclip"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=3)
    arguments = parser.parse_args()
    lookups = json.loads(Path("results/evaluate/retrieved.json").read_text(encoding="utf-8"))
    rows = {row["id"]: row for row in read_dataset(artifacts.DATASET, "test").to_pylist()}
    lines = []
    for lookup in lookups["unsafe_t2i"][: arguments.queries]:
        categories = ", ".join(rows[lookup["query"]["id"]]["categories"]).replace("_", " ")
        asked = Cell(f"unsafe caption: {categories}", unsafe=True)
        for model, label in LABELS.items():
            shown = [
                Cell(rows[item["id"]][f"image_{item['side']}"], unsafe=item["unsafe"])
                for item in lookup["found"][model]
            ]
            lines.append((label, [asked, *shown]))
    OUT.parent.mkdir(exist_ok=True)
    draw_lines(OUT, lines)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
