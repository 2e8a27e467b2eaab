"""The flow `retrain`: each stage of dvc.yaml is a task, in the graph's order, independent ones side by side.

It decides nothing: DVC says what is stale, the gate says what may be packaged. `safeclip run` is the short
way to start it; `python flows/retrain.py` uses whatever Prefect API is configured.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from safeclip.core.errors import SafeclipError
from safeclip.pipeline.graph import all_changes, changes, gate_passed, load_graph, project_root
from safeclip.pipeline.remote_stage import check_placement, send
from safeclip.pipeline.stage_process import run_stage, stop_all
from safeclip.pipeline.summary import (
    GATE_FAILED,
    GATED,
    RAN,
    publish,
    result_of,
    summary_lines,
    tell_webhook,
)
from safeclip.release.approval import ReleaseRegistry
from safeclip.release.approval import ask as ask_reviewers
from safeclip.release.releases import SIGNERS
from safeclip.settings import load_settings

REVIEW = "review/review"  # flow/deployment in prefect.yaml
MAX_STAGES = 32  # threads of the task runner: a task that waits for another holds one
ROOT = project_root(Path(__file__).parent)


@flow(name="retrain", task_runner=ThreadPoolTaskRunner(max_workers=MAX_STAGES))  # type: ignore[arg-type]
def retrain() -> State:
    """Data to verdict and Bento; Failed if a stage fails, and (named GateFailed) if the verdict is failed."""
    futures: dict[str, PrefectFuture[State]] = {}
    try:
        graph = load_graph(ROOT)
        check_placement(load_settings(ROOT / "params.yaml").placement, graph)
        stale = all_changes(ROOT)
        for name, needs in graph.items():
            named = stage.with_options(name=name)
            before = [futures[need] for need in needs]
            futures[name] = named.submit(name, fresh=not stale[name], wait_for=before, return_state=False)
        for future in futures.values():
            future.wait()
    finally:
        stop_all()
    states = {name: future.state for name, future in futures.items()}
    # A run in which everything was up to date asks nobody again.
    if GATED in states and states[GATED].name == RAN and (ROOT / SIGNERS).is_file():
        states[ask.name] = ask(return_state=True)
    publish(ROOT, states)
    result = result_of(ROOT, states)
    tell_webhook(ROOT, result)
    return result


@task(task_run_name="{name}")
def stage(name: str, fresh: bool) -> State:
    """One stage of dvc.yaml: Cached if DVC finds it up to date, Skipped if the gate forbids it, else run.

    `fresh`: it and all it needs were up to date when the flow began, so that DVC need not be asked again.
    """
    log = get_run_logger()

    def log_line(line: str) -> None:
        log.info("%s", line)

    if name == GATED and not gate_passed(ROOT):
        return Completed(name="Skipped", message="the gate did not pass: nothing is packaged")
    try:
        reasons = [] if fresh else changes(ROOT, name)
        if not reasons:
            return Completed(name="Cached", message="nothing that it depends on has changed")
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        stale = f"{', '.join(reasons[:3])}{more}"
        log_line(f"stale: {stale}")
        if pool := load_settings(ROOT / "params.yaml").placement.get(name):
            send(ROOT, name, pool, log_line)
        else:
            run_stage(ROOT, name, log_line)
    except SafeclipError as error:
        return Failed(message=str(error))
    return Completed(name=RAN, message=f"ran: {stale}")


@task(name="ask")
def ask() -> State:
    """Freeze the candidate and ask its reviewers; a deployment of the flow `review` waits for the answer."""
    try:
        candidate = ask_reviewers(ReleaseRegistry.of(ROOT)).candidate.id
    except SafeclipError as error:
        return Failed(message=str(error))
    try:
        run_deployment(REVIEW, parameters={"candidate": candidate}, timeout=0, as_subflow=False)
    except ObjectNotFound:
        get_run_logger().info("waits: safeclip review approve %s (or reject)", candidate)
    return Completed(message=f"candidate {candidate} waits for a decision")


def main() -> int:
    """Run the flow and print the summary; 0: passed, 1: a stage failed, 2: the verdict is failed."""
    state = retrain(return_state=True)
    if not state.is_completed() and state.name != GATE_FAILED:
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    print("\n".join(summary_lines(ROOT)))
    return 2 if state.name == GATE_FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
