"""Sum up a run: the flow's state, lines for the terminal, artifacts for Prefect, the webhook."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeclip.core import artifacts
from safeclip.metrics.outcomes import lookup
from safeclip.pipeline.graph import gate_passed
from safeclip.settings import load_settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

GATED = "package"  # the stage that runs only after a passed gate
# The state of a stage that did its work in this run; others are Cached, Skipped and so on.
RAN = "Completed"
GATE_FAILED = "GateFailed"  # name of the flow's state
MOST_LINES = 25
PLOTS = artifacts.RESULTS / "evaluate" / "plots"
HEADLINES = (
    ("harmful top-1, text to image", "retrieval.t2i.unsafe.harmful_top1"),
    ("harmful top-1, image to text", "retrieval.i2t.unsafe.harmful_top1"),
    ("safe R@1, text to image", "retrieval.t2i.safe.r1"),
    ("safe R@1, image to text", "retrieval.i2t.safe.r1"),
    ("zero-shot top-1", "zeroshot.top1"),
)
"""Label -> dotted path below `base` and `candidate` in metrics.json."""


def result_of(root: Path, states: Mapping[str, State]) -> State:
    """Make the flow's own state from its stages' states."""
    from prefect.states import Completed, Failed

    failed = {name: state for name, state in states.items() if state.is_failed() or state.is_crashed()}
    if failed:
        return Failed(message="; ".join(f"{name}: {state.message}" for name, state in failed.items()))
    if GATED in states and not gate_passed(root):
        return Failed(name=GATE_FAILED, message="the gate did not pass; results/report/index.html says why")
    cached = sum(state.name == "Cached" for state in states.values())
    return Completed(message=f"{len(states)} stages, {cached} of them cached")


def publish(root: Path, states: Mapping[str, State]) -> None:
    """Create the run's Prefect artifacts: a summary table, the way to the reviewer's page, a plot."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    table = summary_markdown(root, {name: state.name for name, state in states.items()})
    create_markdown_artifact(table, key="summary", description="stages, verdict and headline metrics")
    page = root / artifacts.PAGE
    if page.is_file():
        create_link_artifact(
            page.as_uri(), link_text="report", key="report", description="the reviewer's page"
        )
    if plot := plot_markdown(root):
        create_markdown_artifact(plot, key="plot", description="base and candidate, side by side")


def tell_webhook(root: Path, result: State) -> None:
    """Tell the webhook of a failed run; requests and promotions are told where they happen."""
    from safeclip.release.approval import notify

    url = load_settings(root / artifacts.PARAMS).registry.webhook
    if result.name == GATE_FAILED:
        notify(url, "gate_failed", why=result.message)
    elif result.is_failed():
        notify(url, "stage_failed", why=result.message)


def summary_lines(root: Path) -> list[str]:
    """Say the verdict, the headline metrics, where page and Bento are and what to type next, in 25 lines."""
    verdict, metrics = _read(root / artifacts.VERDICT), _read(root / artifacts.metrics("evaluate"))
    passed = verdict.get("passed") is True
    lines = ["", _verdict_line(verdict), *_failed_rules(verdict)]
    lines += ["", f"{'':32}{'base':>9}{'candidate':>11}{'change':>9}"]
    lines += [f"{label:32}{base:9.3f}{now:11.3f}{now - base:+9.3f}" for label, base, now in _rows(metrics)]
    lines += ["", f"page    {artifacts.PAGE}"]
    if passed and (root / artifacts.BENTO).is_file():
        lines += [f"Bento   {artifacts.BENTO}", "", "next    safeclip report --open    read the page"]
        lines += ["        safeclip serve            serve the Bento over HTTP"]
    else:
        why = "nothing was packaged" if passed else "the gate did not pass"
        lines += [f"Bento   none: {why}", "", "next    safeclip report --open    see why"]
    return lines[:MOST_LINES]


def summary_markdown(root: Path, states: Mapping[str, str | None]) -> str:
    """Say the same as tables: how each stage ended, the verdict, the headline metrics."""
    lines = [
        "| stage | state |",
        "| --- | --- |",
        *(f"| {name} | {state} |" for name, state in states.items()),
        "",
        f"**{_verdict_line(_read(root / artifacts.VERDICT))}**",
        "",
        "| metric | base | candidate | change |",
        "| --- | ---: | ---: | ---: |",
    ]
    for label, base, now in _rows(_read(root / artifacts.metrics("evaluate"))):
        lines.append(f"| {label} | {base:.3f} | {now:.3f} | {now - base:+.3f} |")
    return "\n".join(lines)


def plot_markdown(root: Path) -> str:
    """Put the evaluation's first plot inside the text, as no server has to serve it; "" if there is none."""
    for plot in sorted((root / PLOTS).glob("*.png")):
        return f"![{plot.stem}](data:image/png;base64,{base64.b64encode(plot.read_bytes()).decode()})"
    return ""


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is missing or is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _verdict_line(verdict: Mapping[str, Any]) -> str:
    if not verdict:
        return "verdict: none, the gate has not run"
    rules = verdict["rules"]
    kept = sum(rule["passed"] is True for rule in rules)
    result = "PASSED" if verdict.get("passed") is True else "FAILED"
    return f"verdict: {result} ({kept} of {len(rules)} gate rules kept)"


def _failed_rules(verdict: Mapping[str, Any], most: int = 8) -> list[str]:
    """Return a line for each broken rule: its name and figures, or why there are none."""
    failed = [rule for rule in verdict.get("rules", []) if rule["passed"] is False]
    lines = [
        f"  broken: {rule['id']}: {rule.get('figures') or rule.get('reason') or rule['why']}"
        for rule in failed[:most]
    ]
    return lines + ([f"  and {len(failed) - most} more"] if len(failed) > most else [])


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return (label, base, candidate) of every headline that was measured on both."""
    rows = []
    for label, path in HEADLINES:
        base, now = lookup(metrics, f"base.{path}"), lookup(metrics, f"candidate.{path}")
        if isinstance(base, int | float) and isinstance(now, int | float):
            rows.append((label, float(base), float(now)))
    return rows
