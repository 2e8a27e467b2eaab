"""The flow `retrain`: each stage of dvc.yaml is a task, in the graph's order, independent ones side by side.

It decides nothing: DVC says what is stale, the gate says what may be packaged. `safeclip run` is the short
way to start it; `python flows/retrain.py` uses whatever Prefect API is configured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from safeclip.core.errors import PipelineError, SafeclipError
from safeclip.pipeline import placement
from safeclip.pipeline.graph import all_changes, changes, gate_passed, load_graph, project_root
from safeclip.pipeline.stage_process import run_stage, stop_all
from safeclip.pipeline.summary import plot_markdown, summary_lines, summary_markdown
from safeclip.release.approval import notify
from safeclip.release.releases import SIGNERS
from safeclip.settings import load_settings

GATED = "package"
GATE_FAILED = "GateFailed"
RAN = "ran: "
PLACED = "placed"  # flow, deployed in other checkouts under the name of their pool
REVIEW = "review/review"  # flow/deployment in prefect.yaml
MAX_STAGES = 32  # threads of the task runner: a task that waits for another holds one
ROOT = project_root(Path(__file__).parent)


@task(task_run_name="{name}")
def stage(name: str, fresh: bool) -> State:
    """One stage of dvc.yaml: Cached if DVC finds it up to date, Skipped if the gate forbids it, else run.

    `fresh`: it and all it needs were up to date when the flow began, so that DVC need not be asked again.
    """
    if name == GATED and not gate_passed(ROOT):
        return Completed(name="Skipped", message="the gate did not pass: nothing is packaged")
    log = get_run_logger()
    try:
        stale = [] if fresh else changes(ROOT, name)
        if not stale:
            return Completed(name="Cached", message="nothing that it depends on has changed")
        log.info("stale: %s", _few(stale))
        carry_out(name, lambda line: log.info("%s", line))
    except PipelineError as error:
        return Failed(message=str(error))
    return Completed(message=f"{RAN}{_few(stale)}")


def carry_out(name: str, log: Callable[[str], None]) -> None:
    """Run a stage here, or in the work pool that params.yaml names for it; `PipelineError` if it fails."""
    pool = load_settings(ROOT / "params.yaml").placement.get(name)
    if pool is None:
        return run_stage(ROOT, name, log)
    order = placement.order(ROOT, name, log)
    log(f"waits for a worker of the pool {pool}")
    try:
        wanted = asdict(order)
        run = cast("FlowRun", run_deployment(f"{PLACED}/{pool}", parameters=wanted, poll_interval=1))
    except ObjectNotFound:
        deploy = f"prefect deploy flows/placed.py:placed --name {pool} --pool {pool}"
        raise PipelineError(f"{name}: no deployment {PLACED}/{pool}; in its checkout: {deploy}") from None
    if run.state is None or not run.state.is_completed():
        raise PipelineError(f"{name} in the pool {pool}: {run.state and run.state.message}")
    placement.take_in(ROOT, name, _entry(run.id), log)
    return None


def _entry(run: UUID) -> placement.Entry:
    """The entry of dvc.lock that a run of `placed` left as its artifact."""
    wanted = ArtifactFilterFlowRunId(any_=[run])
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=wanted))
    return dict(json.loads(str(artifact.data)))


@flow(name="retrain", task_runner=ThreadPoolTaskRunner(max_workers=MAX_STAGES))  # type: ignore[arg-type]
def retrain() -> State:
    """Data to verdict and Bento; Failed if a stage fails, and (named GateFailed) if the verdict is failed."""
    futures: dict[str, PrefectFuture[State]] = {}
    try:
        graph = load_graph(ROOT)
        placement.check_placement(load_settings(ROOT / "params.yaml").placement, graph)
        reasons = all_changes(ROOT)
        for name, needs in graph.items():
            before = [futures[need] for need in needs]
            named = stage.with_options(name=name)
            futures[name] = named.submit(name, fresh=not reasons[name], wait_for=before, return_state=False)
        for future in futures.values():
            future.wait()
    finally:
        stop_all()
    states = {name: future.state for name, future in futures.items()}
    if ran(states.get(GATED)) and (ROOT / SIGNERS).is_file():
        states[ask.name] = ask(return_state=True)
    publish(states)
    ended = outcome(states)
    tell(ended)
    return ended


@task(name="ask")
def ask() -> State:
    """Freeze the candidate and ask its reviewers; a deployment of the flow `review` waits for the answer."""
    from safeclip.release.approval import Registry
    from safeclip.release.approval import ask as ask_reviewers

    try:
        candidate = ask_reviewers(Registry.of(ROOT)).candidate.id
    except SafeclipError as error:
        return Failed(message=str(error))
    try:
        run_deployment(REVIEW, parameters={"candidate": candidate}, timeout=0, as_subflow=False)
    except ObjectNotFound:
        get_run_logger().info("waits: safeclip review approve %s (or reject)", candidate)
    return Completed(message=f"candidate {candidate} waits for a decision")


def ran(state: State | None) -> bool:
    """Whether a stage did its work in this run: a run in which everything was cached asks nothing."""
    return state is not None and (state.message or "").startswith(RAN)


def tell(ended: State) -> None:
    """The webhook hears of failures; of requests and promotions it is told where they happen."""
    url = load_settings(ROOT / "params.yaml").registry.webhook
    if ended.name == GATE_FAILED:
        notify(url, "gate_failed", why=ended.message)
    elif ended.is_failed():
        notify(url, "stage_failed", why=ended.message)


def outcome(states: dict[str, State]) -> State:
    """The flow's own state from its stages' states."""
    failed = {name: state for name, state in states.items() if state.is_failed() or state.is_crashed()}
    if failed:
        return Failed(message="; ".join(f"{name}: {state.message}" for name, state in failed.items()))
    if GATED in states and not gate_passed(ROOT):
        return Failed(name=GATE_FAILED, message="the gate did not pass; results/report/index.html says why")
    cached = sum(state.name == "Cached" for state in states.values())
    return Completed(message=f"{len(states)} stages, {cached} of them cached")


def publish(states: dict[str, State]) -> None:
    """The artifacts of the run: a summary table, the way to the reviewer's page, a plot."""
    table = summary_markdown(ROOT, {name: state.name for name, state in states.items()})
    create_markdown_artifact(table, key="summary", description="stages, verdict and headline metrics")
    page = ROOT / "results/report/index.html"
    if page.is_file():
        create_link_artifact(
            page.as_uri(), link_text="report", key="report", description="the reviewer's page"
        )
    if plot := plot_markdown(ROOT):
        create_markdown_artifact(plot, key="plot", description="base and candidate, side by side")


def main() -> int:
    """Run the flow and print the summary; 0: passed, 1: a stage failed, 2: the verdict is failed."""
    state = retrain(return_state=True)
    if state.name == GATE_FAILED:
        status = 2
    elif state.is_completed():
        status = 0
    else:
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    print("\n".join(summary_lines(ROOT)))
    return status


def _few(phrases: list[str], most: int = 3) -> str:
    rest = len(phrases) - most
    return ", ".join(phrases[:most]) + (f" and {rest} more" if rest > 0 else "")


if __name__ == "__main__":
    sys.exit(main())
