"""Promote a candidate and roll back, all or nothing.

The order:
1. All checks, uploads and signatures happen before any ref is visible (`approval.sign` checked and uploaded).
2. A commit on top of the candidate's puts the new production.json beside what was judged.
3. Two signed tag objects are written: the version and the assignment of `prod`. No ref names them yet.
4. One git transaction names both tags and moves the candidate's branch. That is the release.
5. The refs are pushed, atomically, if a remote is set; if it refuses, the tags go again.
6. `sync_from_tags` makes the store's index, production.json and the adapter say what the tags say.

A run killed before 4 leaves no trace that anybody sees. Killed after 4, it is completed by the next `promote`
of the same candidate, or by `safeclip registry sync`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeclip.core.artifacts import PRODUCTION, PRODUCTION_ADAPTER
from safeclip.core.errors import GitError, RegistryError
from safeclip.core.files import write_text
from safeclip.release.candidate import Candidate, gate_at
from safeclip.release.git import ABSENT, commit_with, delete_refs, git, move_refs, object_of, signed_tag
from safeclip.release.releases import (
    NAME,
    PROMOTED,
    ROLLED_BACK,
    STAGE,
    Release,
    assignments,
    find_release,
    last_promoted,
    message,
    next_version,
    production,
    signer_of,
    trusted_signers,
    versions,
)
from safeclip.release.store import Store


@dataclass(frozen=True)
class Decision:
    """Why it was decided so, and the private SSH key of the reviewer who decided."""

    reason: str
    key: Path


def reviewer_of(root: Path, candidate_commit: str, key: Path) -> str:
    """Return whose key this is, by the last promoted commit's list; before the first, by the candidate's."""
    last = last_promoted(assignments(root))
    return signer_of(trusted_signers(root, last.commit if last else candidate_commit), key)


def promote(
    root: Path,
    store: Store,
    candidate: Candidate,
    decision: Decision,
    bump: str = "minor",
    remote: str | None = None,
) -> Release:
    """Release a checked candidate whose files are in the store; complete the release if it exists already.

    Args:
        bump: which part of the version is raised: major, minor or patch.
        remote: the git remote that the refs are pushed to.

    Raises:
        RegistryError: the key is no reviewer's, another release came first, or the remote refused.
    """
    for release in assignments(root):
        if release.kind == PROMOTED and release.digests["candidate"] == candidate.id:
            _push(root, [f"refs/tags/{NAME}@{release.version}", f"refs/tags/{release.tag}"], remote)
            sync_from_tags(root, store)
            return release
    reviewer = reviewer_of(root, candidate.commit, decision.key)
    version = next_version(root, bump)
    adapter = candidate.digests["adapter"]
    record = {
        "assigned": True,
        "version": version,
        "adapter": PRODUCTION_ADAPTER.as_posix(),
        "digests": {"adapter": adapter, "bento": candidate.bento, "verdict": candidate.digests["verdict"]},
        "gate": gate_at(root, candidate.commit).model_dump(mode="json"),
    }
    files = {PRODUCTION.as_posix(): json.dumps(record, indent=2, sort_keys=True) + "\n"}
    commit = commit_with(root, candidate.commit, files, f"Production: {NAME} {version}")
    statement = {
        "kind": PROMOTED,
        "version": version,
        "reviewer": reviewer,
        "reason": decision.reason,
        "digests": {**candidate.digests, "bento": candidate.bento, "candidate": candidate.id},
    }
    new = {
        f"refs/tags/{NAME}@{version}": _tag(root, f"{NAME}@{version}", commit, statement, decision.key),
        **_assignment(root, commit, statement, decision.key),
        candidate.branch: commit,
    }
    _publish(root, new, {candidate.branch: object_of(root, candidate.branch) or ABSENT}, remote)
    sync_from_tags(root, store)
    return assignments(root)[-1]


def roll_back(
    root: Path, store: Store, version: str, decision: Decision, remote: str | None = None
) -> Release:
    """Put a former production version back; recorded and signed like a promotion."""
    wanted = find_release(root, version)
    current = production(root)
    if current and current.version == wanted.version:
        raise RegistryError(f"{wanted.version} is in production already; nothing to roll back")
    statement = {
        "kind": ROLLED_BACK,
        "version": wanted.version,
        "reviewer": reviewer_of(root, wanted.commit, decision.key),
        "reason": decision.reason,
        "digests": wanted.digests,
    }
    _publish(root, _assignment(root, wanted.commit, statement, decision.key), {}, remote)
    sync_from_tags(root, store)
    return assignments(root)[-1]


def sync_from_tags(root: Path, store: Store) -> None:
    """Make the store's index, production.json and the adapter say what the signed tags say. Idempotent."""
    current = production(root)
    if current is None:
        return
    store.write_json("index.json", index_of(root))
    record = git(root, "show", f"{current.commit}:{PRODUCTION.as_posix()}")
    digest = current.digests["adapter"]
    store.get(f"adapters/{digest}.safetensors", root / PRODUCTION_ADAPTER, digest)
    write_text(root / PRODUCTION, record)


def index_of(root: Path) -> dict[str, Any]:
    """Describe versions and stages for readers without git: digests, commit, reviewer and reason."""
    current = production(root)
    return {
        "versions": {
            version: {
                "bento": f"bentos/{release.digests['bento']}.tar",
                "commit": release.commit,
                "digests": release.digests,
                "reviewer": release.reviewer,
                "reason": release.reason,
            }
            for version, release in versions(root).items()
        },
        "stages": {STAGE: current.version} if current else {},
    }


def _assignment(root: Path, commit: str, statement: dict[str, Any], key: Path) -> dict[str, str]:
    name = f"{NAME}#{STAGE}#{len(assignments(root)) + 1}"
    return {f"refs/tags/{name}": _tag(root, name, commit, statement, key)}


def _tag(root: Path, name: str, commit: str, statement: dict[str, Any], key: Path) -> str:
    # GTO orders by time, to the second: a tag is always younger than the one before it.
    last = max((release.when for release in assignments(root)), default=0)
    return signed_tag(root, name, commit, message(statement), key, max(int(time.time()), last + 1))


def _publish(root: Path, new: dict[str, str], old: dict[str, str], remote: str | None) -> None:
    """Move refs in one transaction here, then push them atomically; `RegistryError` if another was first."""
    try:
        move_refs(root, new, old)
    except GitError as error:
        raise RegistryError(
            f"another release was made meanwhile ({error}); look at `safeclip registry list`"
        ) from None
    _push(root, [*new], remote)


def _push(root: Path, names: list[str], remote: str | None) -> None:
    if remote is None:
        return
    try:
        git(root, "push", "--atomic", remote, *(f"{name}:{name}" for name in names))
    except GitError as error:
        delete_refs(root, [name for name in names if name.startswith("refs/tags/")])
        raise RegistryError(f"{remote} did not take the release, nothing was changed ({error})") from None
