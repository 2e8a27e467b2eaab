"""The flow `review`: wait, without a process, until a reviewer answers in the Prefect UI; then record it.

Deployed, it suspends: the process ends, and the answer starts the flow again from the top, which finds the
request and its state in the registry. An answer typed into a form proves nobody's identity, so it promotes
only if the worker holds a reviewer's key (SAFECLIP_SIGNING_KEY); else `safeclip review sign` completes it.
"""

from __future__ import annotations

import os
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from prefect.states import Completed, Failed
from pydantic import Field

from safeclip.core.errors import SafeclipError
from safeclip.pipeline.graph import project_root
from safeclip.release.approval import ReleaseRegistry, checked, record_answer, sign
from safeclip.release.reviews import Review, find

ROOT = project_root(Path(__file__).parent)
KEY = "SAFECLIP_SIGNING_KEY"


class Answer(RunInput):
    """The form that the reviewer fills in."""

    approve: bool = Field(description="approve: into production; otherwise the candidate is rejected")
    reviewer: str = Field(min_length=1, description="your name in allowed_signers")
    reason: str = Field(min_length=3, description="kept with the release")


@flow(name="review")
def review(candidate: str) -> State:
    """Ask for a decision about a frozen candidate; Failed if it expired or is not what it was."""
    registry = ReleaseRegistry.of(ROOT)
    try:
        request = find(registry.store, candidate)
        if request is None:
            return Failed(message=f"no candidate {candidate!r} was put forward; `safeclip review` lists them")
        if request.state != "waiting":
            return Completed(message=f"{candidate}: {request.state} by {request.reviewer}")
        with checked(registry, request):
            answer = wait_for_answer(request, seconds=registry.settings.registry.expires_hours * 3600)
        return act_on(registry, request, answer)
    except SafeclipError as error:
        return Failed(message=str(error))


def wait_for_answer(request: Review, seconds: int) -> Answer:
    """Suspend until the form is filled in; started again after that, return at once what was typed."""
    if not deployment.id:
        raise SafeclipError("a flow waits only when deployed; here: `safeclip review approve` or `reject`")
    answer: Answer = suspend_flow_run(  # type: ignore[assignment]
        wait_for_input=Answer, timeout=seconds, key=request.candidate.id
    )
    return answer


def act_on(registry: ReleaseRegistry, request: Review, answer: Answer) -> State:
    """Record the answer; promote if it approves and this worker holds a reviewer's key."""
    answered = record_answer(registry, request, answer.approve, answer.reviewer, answer.reason)
    name = answered.candidate.id
    if not answer.approve:
        return Completed(message=f"{name}: rejected by {answer.reviewer}")
    key = os.environ.get(KEY)
    if not key:
        get_run_logger().info(
            "the approval is recorded; a reviewer's key promotes it: safeclip review sign %s --key FILE", name
        )
        return Completed(name="Approved", message=f"{name}: approved by {answer.reviewer}, not signed yet")
    release = sign(registry, answered, Path(key), answer.reason)
    return Completed(name="Promoted", message=f"{release.version} is in production")
