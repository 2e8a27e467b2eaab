"""Tell another system what happened: one JSON POST to `registry.webhook`. It never stops the run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safeclip.core.errors import GateError, PipelineError, RegistryError
from safeclip.core.production import read_production
from safeclip.gate.rules import Difference, compare_rules
from safeclip.pipeline.graph import all_changes, gate_passed
from safeclip.release import reviews
from safeclip.release.candidate import FILES, Candidate, check_candidate, describe, gate_at, read_package
from safeclip.release.git import ZERO, move_refs, ref, snapshot_commit
from safeclip.release.promotion import Decision, promote, reviewer_of
from safeclip.release.releases import PROMOTED, Release, assignments, production
from safeclip.release.store import Store
from safeclip.settings import Settings, load_settings

Event = Literal[
    "stage_failed", "gate_failed", "approval_wanted", "promoted", "rolled_back", "production_worse"
]


def notify(url: str | None, event: Event, **facts: Any) -> bool:
    """POST {"event": ..., "project": "safeclip", ...facts}; False (and a log line) if nobody took it."""
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


# Outputs of a commit, through DVC: pushed so that they outlive it, fetched where a check needs them.


def push_outputs(root: Path, commit: str) -> int:
    """Push every output of `commit` to its DVC remote; how many files went."""
    from dvc.repo import Repo

    with _told(), Repo(str(root), _wait_for_lock=True) as repo:
        return int(repo.push(revs=[commit], workspace=False))


def fetch(root: Path, commit: str, paths: tuple[str, ...], folder: Path) -> None:
    """Copy files of `commit`, tracked by git or DVC, into `folder` at their own paths."""
    from dvc.api import DVCFileSystem

    with _told():
        files = DVCFileSystem(str(root), rev=commit)
        for path in paths:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(path, str(target))


@contextmanager
def _told() -> Iterator[None]:
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, OSError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise PipelineError(f"DVC: {line}; `dvc pull` and `dvc push` tell more") from None


# Freeze a candidate, take an answer, promote: what `safeclip review` and the flow `review` both do.


@dataclass(frozen=True)
class Registry:
    """A project and where its releases lie."""

    root: Path
    store: Store
    settings: Settings

    @classmethod
    def of(cls, root: Path) -> Registry:
        settings = load_settings(root / "params.yaml")
        return cls(root, Store(settings.registry.url, root), settings)

    def fetch(self, commit: str, paths: tuple[str, ...], folder: Path) -> None:
        """Files of a commit, from git, DVC's cache or its remote."""
        fetch(self.root, commit, paths, folder)


def freeze(registry: Registry) -> Candidate:
    """Keep the checkout's passed candidate: commit, outputs, Bento. Refused if anything is stale."""
    root, store = registry.root, registry.store
    if not gate_passed(root):
        raise GateError("the gate did not pass; there is nothing to approve, it takes a new commit")
    stale = [name for name, why in all_changes(root).items() if why and name != "report"]
    if stale:
        raise GateError(f"{', '.join(stale)}: not up to date; `safeclip run` first")
    commit = snapshot_commit(root, "Candidate\n")
    candidate = describe(root, commit)
    check_candidate(root, candidate)
    push_outputs(root, commit)
    package = read_package(root)
    store.put(f"bentos/{candidate.bento}.tar", root / "results/package" / f"{package['name']}.tar")
    store.put(f"adapters/{candidate.digests['adapter']}.safetensors", root / FILES["adapter"])
    store.write_json(f"candidates/{candidate.id}.json", candidate.model_dump())
    move_refs(root, {candidate.branch: commit}, {candidate.branch: ref(root, candidate.branch) or ZERO})
    return candidate


def ask(registry: Registry, flow_run: str | None = None) -> reviews.Review:
    """Freeze and file a request; the webhook is told."""
    candidate = freeze(registry)
    hours = registry.settings.registry.expires_hours
    review = reviews.ask(registry.store, candidate, reviews.starter(), hours, flow_run)
    notify(
        registry.settings.registry.webhook, "approval_wanted", candidate=candidate.id, commit=candidate.commit
    )
    return review


def record_answer(
    registry: Registry, review: reviews.Review, approve: bool, reviewer: str, reason: str
) -> reviews.Review:
    """An answer without a signature: a rejection ends it, an approval waits for the signature."""
    reviews.check_open(review)
    if approve:
        _may_approve(registry, review, reviewer)
        with checked(registry, review):
            pass
    return reviews.answer(registry.store, review, approve, reviewer, reason)


def sign(
    registry: Registry,
    review: reviews.Review,
    key: Path,
    reason: str,
    bump: str = "minor",
    accept_loosened: bool = False,
) -> Release:
    """Approve with a reviewer's key and promote. Whatever changed since the question refuses it."""
    root, store = registry.root, registry.store
    if review.state != "promoted":
        reviews.check_open(review)
    if not reason.strip():
        raise RegistryError("say why: --reason is kept with the release")
    reviewer = reviewer_of(root, review.candidate.commit, key)
    _may_approve(registry, review, reviewer)
    with checked(registry, review) as folder:
        loosened = [entry for entry in rule_differences(registry, folder) if entry.loosened]
        if loosened and not accept_loosened:
            rules = "; ".join(f"{entry.id}: {entry.what}" for entry in loosened)
            raise RegistryError(
                f"the gate was loosened since production ({rules}); say --accept-loosened if meant"
            )
    decision = Decision(reason.strip(), key)
    release = promote(root, store, review.candidate, decision, bump, registry.settings.registry.git_remote)
    done = {
        "state": "promoted",
        "reviewer": release.reviewer,
        "reason": release.reason,
        "version": release.version,
    }
    reviews.save(store, review.model_copy(update=done))
    notify(registry.settings.registry.webhook, "promoted", version=release.version, reviewer=release.reviewer)
    return release


@contextmanager
def checked(registry: Registry, review: reviews.Review) -> Iterator[Path]:
    """The candidate's frozen files, all checked, the verdict computed again, production still what it was."""
    candidate = review.candidate
    if registry.store.read_json(f"candidates/{candidate.id}.json") != candidate.model_dump():
        raise RegistryError(f"candidate {candidate.id}: its record is missing or was changed; ask again")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        registry.fetch(candidate.commit, candidate.files, folder)
        check_candidate(folder, candidate)
        _same_production(registry.root, folder, candidate)
        yield folder


def rule_differences(registry: Registry, folder: Path) -> list[Difference]:
    """How the candidate's rules differ from production's; empty if nothing was ever promoted."""
    promoted = [release for release in assignments(registry.root) if release.kind == PROMOTED]
    if not promoted:
        return []
    return compare_rules(
        gate_at(registry.root, promoted[-1].commit), load_settings(folder / "params.yaml").gate
    )


def _same_production(root: Path, folder: Path, candidate: Candidate) -> None:
    current = production(root)
    if current and current.digests["candidate"] == candidate.id:
        return  # promoted already, perhaps killed before the end
    judged = read_production(folder / "release/production.json").version
    now = current.version if current else None
    if judged != now:
        raise RegistryError(
            f"candidate {candidate.id} was judged against {judged or 'no production'}, "
            f"now {now or 'nothing'} is in production; run again"
        )


def _may_approve(registry: Registry, review: reviews.Review, reviewer: str) -> None:
    if not reviewer.strip():
        raise RegistryError("an answer needs a reviewer's name")
    if not registry.settings.registry.starter_may_approve and reviewer == review.started_by:
        raise RegistryError(
            f"{reviewer} started this run and may not approve it (registry.starter_may_approve)"
        )


def describe_review(review: reviews.Review, now: Any) -> str:
    """One line of `safeclip review`."""
    state = review.now(now)
    answered = f" by {review.reviewer}: {review.reason}" if review.reviewer else ""
    until = f", until {review.expires:%Y-%m-%d %H:%M} UTC" if state == "waiting" else ""
    return f"{review.candidate.id}  {state}{until}{answered}  (started by {review.started_by})"
