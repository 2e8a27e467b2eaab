"""Print the tables of README.md and docs/explanation/evaluation.md from `results/`, or write them there.

    python benchmarks/results_table.py [--write]

A page marks where a table goes by `<!-- results: NAME -->` and `<!-- end -->`. What was not measured is a dash.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safeclip.core import artifacts
from safeclip.core.files import write_text

PAGES = (Path("README.md"), Path("docs/explanation/evaluation.md"))
T2I, I2T = "retrieval.t2i", "retrieval.i2t"
# label, and the metric's dotted name in the metrics of the stage that the table reads
HEADLINES = {
    "unsafe caption finds an unsafe image first": f"{T2I}.unsafe.harmful_top1",
    "unsafe image finds an unsafe caption first": f"{I2T}.unsafe.harmful_top1",
    "safe caption finds its own image first (R@1)": f"{T2I}.safe.r1",
    "safe image finds its own caption first (R@1)": f"{I2T}.safe.r1",
    "zero-shot top-1": "zeroshot.top1",
}
ALL = {
    "harmful top-1 of unsafe queries, text to image": f"{T2I}.unsafe.harmful_top1",
    "harmful top-1 of unsafe queries, image to text": f"{I2T}.unsafe.harmful_top1",
    "redirected to the paired safe item, text to image": f"{T2I}.unsafe.redirection",
    "redirected to the paired safe item, image to text": f"{I2T}.unsafe.redirection",
    "safe R@1, text to image": f"{T2I}.safe.r1",
    "safe R@1, image to text": f"{I2T}.safe.r1",
    "safe queries that keep their own target, text to image": f"{T2I}.safe.preference",
    "safe queries that keep their own target, image to text": f"{I2T}.safe.preference",
    "safe generated captions redirected by mistake": f"{T2I}.generated_safe.over_redirection",
    "safe generated images redirected by mistake": f"{I2T}.generated_safe.over_redirection",
    "zero-shot top-1": "zeroshot.top1",
}


def at(tree: Any, path: str) -> Any:
    """What lies at a dotted path of nested mappings; None where a part of it is missing."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def headline_table(metrics: Mapping[str, Any]) -> list[str]:
    """Five rows in two digits, for README."""
    lines = ["| share of queries | base | candidate |", "|---|---:|---:|"]
    for label, metric in HEADLINES.items():
        base, candidate = (at(metrics, f"{model}.{metric}") for model in ("base", "candidate"))
        lines.append(f"| {label} | {digits(base, 2)} | {digits(candidate, 2)} |")
    return lines


def full_table(metrics: Mapping[str, Any]) -> list[str]:
    """Every headline metric in three digits, with the interval of the change and n."""
    lines = ["| metric | base | candidate | change (95 % interval) | n |", "|---|---:|---:|---|---:|"]
    for label, metric in ALL.items():
        base, candidate = (at(metrics, f"{model}.{metric}") for model in ("base", "candidate"))
        change = at(metrics, f"intervals.change.{metric}") or {}
        interval = " to ".join(digits(change.get(end), 3, "+") for end in ("low", "high"))
        shown = f"{digits(change.get('estimate'), 3, '+')} ({interval})"
        lines.append(f"| {label} | {digits(base)} | {digits(candidate)} | {shown} | {change.get('n', '-')} |")
    return lines


def attack_table(metrics: Mapping[str, Any]) -> list[str]:
    """Share of attacked unsafe queries that find something unsafe first, one row an attack."""
    lines = ["| attack | base | candidate | n |", "|---|---:|---:|---:|"]
    for attack in metrics["attacks"]:
        base, candidate = (digits(attack[model]["estimate"], 2) for model in ("base", "candidate"))
        lines.append(f"| `{attack['name']}` | {base} | {candidate} | {attack['n']} |")
    return lines


def digits(value: float | None, places: int = 3, sign: str = "") -> str:
    """A number in fixed point; a dash for what was not measured."""
    return "-" if value is None else f"{value:{sign}.{places}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="into the pages, between their marks")
    arguments = parser.parse_args()
    evaluation = json.loads(artifacts.metrics("evaluate").read_text(encoding="utf-8"))
    red_team = json.loads(artifacts.metrics("red_team").read_text(encoding="utf-8"))
    tables = {
        "headlines": headline_table(evaluation),
        "all": full_table(evaluation),
        "attacks": attack_table(red_team),
    }
    for name, lines in tables.items():
        print(f"<!-- results: {name} -->", *lines, "<!-- end -->", "", sep="\n")
    if arguments.write:
        for page in PAGES:
            write_text(page, filled(page.read_text(encoding="utf-8"), tables))


def filled(text: str, tables: Mapping[str, list[str]]) -> str:
    """`text` with each marked table replaced."""

    def table(mark: re.Match[str]) -> str:
        return "\n".join([mark[1], *tables[mark[2]], mark[3]])

    return re.sub(r"(<!-- results: (\w+) -->)\n.*?(<!-- end -->)", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    main()
