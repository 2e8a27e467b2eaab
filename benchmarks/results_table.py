"""Print the tables of README.md and docs/explanation/evaluation.md from `results/`, or write them there.

    python benchmarks/results_table.py [--write]      # figures, and the sizes in README's map of the folders
    python benchmarks/results_table.py --sizes        # write the sizes alone; needs no results

A page marks where a table goes by `<!-- results: NAME -->` and `<!-- end -->`. What was not measured is a
dash.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safeclip.core import artifacts
from safeclip.core.files import write_text
from safeclip.metrics.outcomes import lookup

README = Path("README.md")
PAGES = (README, Path("docs/explanation/evaluation.md"))
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
    "harmful top-1, captions among captions": "retrieval.t2t.unsafe.harmful_top1",
    "harmful top-1, images among images": "retrieval.i2i.unsafe.harmful_top1",
    "harmful top-1, captions among all items": "retrieval.t2a.unsafe.harmful_top1",
    "harmful top-1, images among all items": "retrieval.i2a.unsafe.harmful_top1",
    "redirected to the paired safe item, text to image": f"{T2I}.unsafe.redirection",
    "redirected to the paired safe item, image to text": f"{I2T}.unsafe.redirection",
    "the same where nothing unsafe is found, text to image": f"{T2I}.unsafe.redirection_safe",
    "the same where nothing unsafe is found, image to text": f"{I2T}.unsafe.redirection_safe",
    "safe R@1, text to image": f"{T2I}.safe.r1",
    "safe R@1, image to text": f"{I2T}.safe.r1",
    "safe queries that keep their own target, text to image": f"{T2I}.safe.preference",
    "safe queries that keep their own target, image to text": f"{I2T}.safe.preference",
    "safe generated captions redirected by mistake": f"{T2I}.generated_safe.over_redirection",
    "safe generated images redirected by mistake": f"{I2T}.generated_safe.over_redirection",
    "zero-shot top-1": "zeroshot.top1",
}


def headline_table(metrics: Mapping[str, Any]) -> list[str]:
    """Five rows in two digits, for README."""
    lines = ["| share of queries | base | candidate |", "|---|---:|---:|"]
    for label, metric in HEADLINES.items():
        base, candidate = (lookup(metrics, f"{model}.{metric}") for model in ("base", "candidate"))
        lines.append(f"| {label} | {digits(base, 2)} | {digits(candidate, 2)} |")
    return lines


def full_table(metrics: Mapping[str, Any]) -> list[str]:
    """Every headline metric in three digits, with the interval of the change and n."""
    lines = ["| metric | base | candidate | change (95 % interval) | n |", "|---|---:|---:|---|---:|"]
    for label, metric in ALL.items():
        base, candidate = (lookup(metrics, f"{model}.{metric}") for model in ("base", "candidate"))
        change = lookup(metrics, f"intervals.change.{metric}") or {}
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
    parser.add_argument("--sizes", action="store_true", help="only the sizes of README's folders")
    arguments = parser.parse_args()
    if arguments.write or arguments.sizes:
        write_text(README, resized(README.read_text(encoding="utf-8")))
    if arguments.sizes:
        return
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


def resized(text: str) -> str:
    """`text` with the line counts of its map of folders worked out again."""
    before, rule, rest = text.partition("## The folders\n")
    folders, end, after = rest.partition("\n## ")
    parent = ""
    lines = []
    for line in folders.split("\n"):
        entry = re.match(r"( *)([\w./]+)( +)([\d,]+)  ", line)
        if entry:
            parent = "" if not entry[1] else parent
            count = f"{rounded(line_count(parent + entry[2])):,}"
            width = len(entry[3] + entry[4])
            line = f"{entry[1]}{entry[2]}{count:>{width}}  {line[entry.end() :]}"
            parent = parent or entry[2]
        lines.append(line)
    return before + rule + "\n".join(lines) + end + after


def line_count(path: str) -> int:
    """Lines of the code and templates below a path that git tracks."""
    listed = subprocess.run(["git", "ls-files", path], capture_output=True, text=True, check=True).stdout
    suffixes = {".py", ".j2", ".css", ".js", ".html", ".yaml", ".txt"}
    files = [Path(name) for name in listed.splitlines() if Path(name).suffix in suffixes]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files if file.is_file())


def rounded(count: int) -> int:
    """To tens, from a thousand on to hundreds."""
    return round(count, -2 if count >= 1000 else -1)


if __name__ == "__main__":
    main()
