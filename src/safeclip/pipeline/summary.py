"""What a run came to, in a few lines for the terminal and as Markdown for Prefect's artifacts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safeclip.pipeline.graph import VERDICT

METRICS = Path("results/evaluate/metrics.json")
PLOTS = Path("results/evaluate/plots")
REPORT = Path("results/report/index.html")
BENTO = Path("results/package/safeclip-embedder.tar")
MOST_LINES = 25

HEADLINES = (
    ("harmful top-1, text to image", "retrieval.t2i.unsafe.harmful_top1"),
    ("harmful top-1, image to text", "retrieval.i2t.unsafe.harmful_top1"),
    ("safe R@1, text to image", "retrieval.t2i.safe.r1"),
    ("safe R@1, image to text", "retrieval.i2t.safe.r1"),
    ("zero-shot top-1", "zeroshot.top1"),
)
"""What is shown and where it stands below `base` and `candidate` in metrics.json."""


def summary_lines(root: Path) -> list[str]:
    """Verdict, headline metrics, where the page and the Bento are, what to type next: at most 25 lines."""
    verdict, metrics = _read(root / VERDICT), _read(root / METRICS)
    lines = ["", _verdict_line(verdict), *_failed_rules(verdict)]
    lines += ["", f"{'':32}{'base':>9}{'candidate':>11}{'change':>9}"]
    lines += [f"{label:32}{base:9.3f}{now:11.3f}{now - base:+9.3f}" for label, base, now in _rows(metrics)]
    lines += ["", f"page    {REPORT}"]
    if _passed(verdict) and (root / BENTO).is_file():
        lines += [f"Bento   {BENTO}", "", "next    safeclip report --open    read the page"]
        lines += ["        safeclip serve            serve the Bento over HTTP"]
    else:
        why = "nothing was packaged" if _passed(verdict) else "the gate did not pass"
        lines += [f"Bento   none: {why}", "", "next    safeclip report --open    see why"]
    return lines[:MOST_LINES]


def summary_markdown(root: Path, states: Mapping[str, str | None]) -> str:
    """The same as tables: how each stage ended, the verdict, the headline metrics."""
    lines = [
        "| stage | state |",
        "| --- | --- |",
        *(f"| {name} | {state} |" for name, state in states.items()),
    ]
    lines += ["", f"**{_verdict_line(_read(root / VERDICT))}**", "", "| metric | base | candidate | change |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for label, base, now in _rows(_read(root / METRICS)):
        lines.append(f"| {label} | {base:.3f} | {now:.3f} | {now - base:+.3f} |")
    return "\n".join(lines)


def plot_markdown(root: Path) -> str:
    """The first plot of the evaluation, inside the text (no server has to serve it); "" if there is none."""
    for plot in sorted((root / PLOTS).glob("*.png")):
        return f"![{plot.stem}](data:image/png;base64,{base64.b64encode(plot.read_bytes()).decode()})"
    return ""


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _passed(verdict: Mapping[str, Any]) -> bool:
    return verdict.get("passed") is True


def _verdict_line(verdict: Mapping[str, Any]) -> str:
    if not verdict:
        return "verdict: none, the gate has not run"
    rules = verdict["rules"]
    kept = sum(rule["passed"] is True for rule in rules)
    return f"verdict: {'PASSED' if _passed(verdict) else 'FAILED'} ({kept} of {len(rules)} gate rules kept)"


def _failed_rules(verdict: Mapping[str, Any], most: int = 8) -> list[str]:
    """A line a broken rule: its name, and of its `why` the figures without the reason of the rule."""
    failed = [rule for rule in verdict.get("rules", []) if rule["passed"] is False]
    lines = [f"  broken: {rule['id']}: {'; '.join(rule['why'].split('; ')[:2])}" for rule in failed[:most]]
    return lines + ([f"  and {len(failed) - most} more"] if len(failed) > most else [])


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(label, base, candidate) of every headline that was measured on both."""
    rows = []
    for label, path in HEADLINES:
        base, now = _at(metrics, f"base.{path}"), _at(metrics, f"candidate.{path}")
        if base is not None and now is not None:
            rows.append((label, base, now))
    return rows


def _at(tree: Any, path: str) -> float | None:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return float(tree) if isinstance(tree, int | float) else None
