"""The flow `review`: waits, without a process, until a reviewer answers in the Prefect UI; then records it.

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
from safeclip.release.approval import Registry, checked, record_answer, sign
from safeclip.release.reviews import Review, find

ROOT = project_root(Path(__file__).parent)
KEY = "SAFECLIP_SIGNING_KEY"


class Decision(RunInput):
    """What the reviewer fills in."""

    approve: bool = Field(description="approve: into production; otherwise the candidate is rejected")
    reviewer: str = Field(min_length=1, description="your name in allowed_signers")
    reason: str = Field(min_length=3, description="kept with the release")


@flow(name="review")
def review(candidate: str) -> State:
    """Ask for a decision about a frozen candidate; Failed if it expired or is not what it was."""
    registry = Registry.of(ROOT)
    try:
        found = find(registry.store, candidate)
        if found is None:
            return Failed(message=f"no candidate {candidate!r} was put forward; `safeclip review` lists them")
        if found.state != "waiting":
            return Completed(message=f"{candidate}: {found.state} by {found.reviewer}")
        return _decided(registry, found, _ask(registry, found))
    except SafeclipError as error:
        return Failed(message=str(error))


def _ask(registry: Registry, found: Review) -> Decision:
    """Suspend until the form is filled in; after that this returns at once what was typed."""
    with checked(registry, found):
        pass
    seconds = registry.settings.registry.expires_hours * 3600
    wait = suspend_flow_run if deployment.id else _needs_a_deployment
    answer: Decision = wait(wait_for_input=Decision, timeout=seconds, key=found.candidate.id)
    return answer


def _decided(registry: Registry, found: Review, answer: Decision) -> State:
    log = get_run_logger()
    told = record_answer(registry, found, answer.approve, answer.reviewer, answer.reason)
    name = told.candidate.id
    key = os.environ.get(KEY)
    if not answer.approve:
        return Completed(message=f"{name}: rejected by {answer.reviewer}")
    if not key:
        log.info(
            "the approval is recorded; a reviewer's key promotes it: safeclip review sign %s --key FILE", name
        )
        return Completed(name="Approved", message=f"{name}: approved by {answer.reviewer}, not signed yet")
    release = sign(registry, told, Path(key), answer.reason)
    return Completed(name="Promoted", message=f"{release.version} is in production")


def _needs_a_deployment(**_: object) -> Decision:
    raise SafeclipError("a flow waits only when deployed; here: `safeclip review approve` or `reject`")
