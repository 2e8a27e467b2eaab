"""Freeze a candidate, take an answer, promote: what `safeclip review` and the flow `review` both do.

The order of `sign`: the request is open, the key is a reviewer's, the frozen files have their digests, the
verdict computed again is the recorded one, production is what it was judged against, no rule was loosened
without a yes. Only then does `promotion.promote` release it.

Also here: outputs of a commit through DVC, and the webhook that other systems listen to.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from safeclip.core import artifacts
from safeclip.core.errors import GateError, PipelineError, RegistryError
from safeclip.core.production import read_production
from safeclip.gate.rules import Difference, compare_rules
from safeclip.pipeline.graph import all_changes, gate_passed
from safeclip.release import reviews
from safeclip.release.candidate import Candidate, check_candidate, describe, gate_at, read_package
from safeclip.release.git import ABSENT, move_refs, object_of, snapshot_commit
from safeclip.release.promotion import Decision, promote, reviewer_of
from safeclip.release.releases import Release, assignments, last_promoted, production
from safeclip.release.store import Store
from safeclip.settings import Settings, load_settings

Event = Literal[
    "stage_failed", "gate_failed", "approval_wanted", "promoted", "rolled_back", "production_worse"
]


@dataclass(frozen=True)
class ReleaseRegistry:
    """A project and where its releases lie."""

    root: Path
    store: Store
    settings: Settings

    @classmethod
    def of(cls, root: Path) -> ReleaseRegistry:
        """Open the registry that the project's params.yaml names."""
        settings = load_settings(root / artifacts.PARAMS)
        return cls(root, Store(settings.registry.url, root), settings)

    def fetch(self, commit: str, paths: tuple[str, ...], folder: Path) -> None:
        """Copy files of a commit into `folder` at their own paths, from git, DVC's cache or its remote."""
        from dvc.api import DVCFileSystem

        with _as_pipeline_error():
            files = DVCFileSystem(str(self.root), rev=commit)
            for path in paths:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(path, str(target))

    def push_outputs(self, commit: str) -> None:
        """Push every output of a commit to its DVC remote, so that they outlive the checkout."""
        from dvc.repo import Repo

        with _as_pipeline_error(), Repo(str(self.root), _wait_for_lock=True) as repo:
            repo.push(revs=[commit], workspace=False)


@contextmanager
def _as_pipeline_error() -> Iterator[None]:
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, OSError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise PipelineError(f"DVC: {line}; `dvc pull` and `dvc push` tell more") from None


def notify(url: str | None, event: Event, **facts: Any) -> bool:
    """POST {"event": ..., "project": "safeclip", ...facts} to the webhook; it never stops a run.

    Returns:
        False, with a line in the log, if nobody took it.
    """
    if url is None:
        return False
    import httpx

    try:
        answer = httpx.post(url, json={"event": event, "project": "safeclip", **facts}, timeout=5.0)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        logging.getLogger(__name__).warning("webhook %s: %s", event, error)
        return False
    return True


def freeze(registry: ReleaseRegistry) -> Candidate:
    """Keep the checkout's passed candidate: its commit, outputs, Bento and adapter.

    Raises:
        GateError: the gate did not pass, or a stage is stale.
    """
    root, store = registry.root, registry.store
    if not gate_passed(root):
        raise GateError("the gate did not pass; there is nothing to approve, it takes a new commit")
    # The page takes no part in a decision: it may be stale.
    stale = [name for name, reasons in all_changes(root).items() if reasons and name != "report"]
    if stale:
        raise GateError(f"{', '.join(stale)}: not up to date; `safeclip run` first")
    commit = snapshot_commit(root, "Candidate\n")
    candidate = describe(root, commit)
    check_candidate(root, candidate)
    registry.push_outputs(commit)
    bento = artifacts.PACKAGE.with_name(f"{read_package(root)['name']}.tar")
    store.put(f"bentos/{candidate.bento}.tar", root / bento)
    store.put(f"adapters/{candidate.digests['adapter']}.safetensors", root / artifacts.ADAPTER)
    store.write_json(f"candidates/{candidate.id}.json", candidate.model_dump())
    branch = candidate.branch
    move_refs(root, {branch: commit}, {branch: object_of(root, branch) or ABSENT})
    return candidate


def ask(registry: ReleaseRegistry, flow_run: str | None = None) -> reviews.Review:
    """Freeze the candidate, file a request and tell the webhook; an open request is returned as it is."""
    candidate = freeze(registry)
    cfg = registry.settings.registry
    review = reviews.ask(registry.store, candidate, reviews.starter(), cfg.expires_hours, flow_run)
    notify(cfg.webhook, "approval_wanted", candidate=candidate.id, commit=candidate.commit)
    return review


def record_answer(
    registry: ReleaseRegistry, review: reviews.Review, approve: bool, reviewer: str, reason: str
) -> reviews.Review:
    """Record an answer without a signature: a rejection ends it, an approval waits for the signature."""
    reviews.check_open(review)
    if approve:
        _check_may_approve(registry, review, reviewer)
        with checked(registry, review):
            pass
    return reviews.answer(registry.store, review, approve, reviewer, reason)


def sign(
    registry: ReleaseRegistry,
    review: reviews.Review,
    key: Path,
    reason: str,
    bump: str = "minor",
    accept_loosened: bool = False,
) -> Release:
    """Approve with a reviewer's key and promote; a promoted candidate's release is completed.

    Raises:
        GateError, RegistryError: something changed since the question, or this key may not approve it.
    """
    root, cfg = registry.root, registry.settings.registry
    if review.state != "promoted":
        reviews.check_open(review)
    reviews.check_reason(reason)
    _check_may_approve(registry, review, reviewer_of(root, review.candidate.commit, key))
    with checked(registry, review) as folder:
        loosened = [entry for entry in rule_differences(registry, folder) if entry.loosened]
        if loosened and not accept_loosened:
            rules = "; ".join(f"{entry.id}: {entry.what}" for entry in loosened)
            raise RegistryError(
                f"the gate was loosened since production ({rules}); say --accept-loosened if meant"
            )
    decision = Decision(reason.strip(), key)
    release = promote(root, registry.store, review.candidate, decision, bump, cfg.git_remote)
    promoted = {
        "state": "promoted",
        "reviewer": release.reviewer,
        "reason": release.reason,
        "version": release.version,
    }
    reviews.save(registry.store, review.model_copy(update=promoted))
    notify(cfg.webhook, "promoted", version=release.version, reviewer=release.reviewer)
    return release


@contextmanager
def checked(registry: ReleaseRegistry, review: reviews.Review) -> Iterator[Path]:
    """Give a folder with the candidate's frozen files, after checking everything that a decision reads.

    Raises:
        GateError, RegistryError: a file, the verdict or production is not what it was at the question.
    """
    candidate = review.candidate
    if registry.store.read_json(f"candidates/{candidate.id}.json") != candidate.model_dump():
        raise RegistryError(f"candidate {candidate.id}: its record is missing or was changed; ask again")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        registry.fetch(candidate.commit, candidate.files, folder)
        check_candidate(folder, candidate)
        _check_same_production(registry.root, folder, candidate)
        yield folder


def rule_differences(registry: ReleaseRegistry, folder: Path) -> list[Difference]:
    """Compare the rules in `folder` with those of the last promotion; empty if nothing was ever promoted."""
    last = last_promoted(assignments(registry.root))
    if last is None:
        return []
    return compare_rules(gate_at(registry.root, last.commit), load_settings(folder / artifacts.PARAMS).gate)


def describe_review(review: reviews.Review, now: datetime) -> str:
    """Describe a request in one line."""
    state = review.state_at(now)
    answered = f" by {review.reviewer}: {review.reason}" if review.reviewer else ""
    until = f", until {review.expires:%Y-%m-%d %H:%M} UTC" if state == "waiting" else ""
    return f"{review.candidate.id}  {state}{until}{answered}  (started by {review.started_by})"


def _check_same_production(root: Path, folder: Path, candidate: Candidate) -> None:
    current = production(root)
    if current and current.digests["candidate"] == candidate.id:
        return  # promoted already, perhaps killed before the end
    compared_with = read_production(folder / artifacts.PRODUCTION).version
    now = current.version if current else None
    if compared_with != now:
        raise RegistryError(
            f"candidate {candidate.id} was judged against {compared_with or 'no production'}, "
            f"now {now or 'nothing'} is in production; run again"
        )


def _check_may_approve(registry: ReleaseRegistry, review: reviews.Review, reviewer: str) -> None:
    if not reviewer.strip():
        raise RegistryError("an answer needs a reviewer's name")
    if not registry.settings.registry.starter_may_approve and reviewer == review.started_by:
        raise RegistryError(
            f"{reviewer} started this run and may not approve it (registry.starter_may_approve)"
        )
