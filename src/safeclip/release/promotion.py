"""From a signed decision to production and back again, all or nothing.

Everything slow or refusable happens before anything shows: checks, uploads, the commit, the signed tags.
Then one git transaction names the version and the assignment; that is the release. The index in the store,
production.json and the adapter beside it follow from the tags (`settle`), so a run that was killed in between
is completed by the next one.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeclip.core.errors import RegistryError
from safeclip.core.production import PRODUCTION
from safeclip.release.candidate import Candidate, gate_at
from safeclip.release.git import ZERO, commit_with, delete_refs, git, move_refs, ref, signed_tag
from safeclip.release.releases import (
    NAME,
    PROMOTED,
    ROLLED_BACK,
    STAGE,
    Release,
    assignments,
    find_release,
    message,
    next_version,
    production,
    signer_of,
    trusted_signers,
    versions,
)
from safeclip.release.store import Store

ADAPTER = Path("production") / "adapter.safetensors"


@dataclass(frozen=True)
class Decision:
    """Who decided and why; `key` is the reviewer's private SSH key."""

    reason: str
    key: Path


def reviewer_of(root: Path, candidate_commit: str, key: Path) -> str:
    """The reviewer whose key this is, by the list of the last promoted commit (or the candidate's own)."""
    promoted = [release for release in assignments(root) if release.kind == PROMOTED]
    return signer_of(trusted_signers(root, promoted[-1].commit if promoted else candidate_commit), key)


def promote(
    root: Path,
    store: Store,
    candidate: Candidate,
    decision: Decision,
    bump: str = "minor",
    remote: str | None = None,
) -> Release:
    """Release a checked candidate whose files are in the store; one already released is only settled."""
    for release in assignments(root):
        if release.kind == PROMOTED and release.digests["candidate"] == candidate.id:
            _push(root, [f"refs/tags/{NAME}@{release.version}", f"refs/tags/{release.tag}"], remote)
            settle(root, store)
            return release
    reviewer = reviewer_of(root, candidate.commit, decision.key)
    version = next_version(root, bump)
    adapter = candidate.digests["adapter"]
    record = {
        "assigned": True,
        "version": version,
        "adapter": ADAPTER.as_posix(),
        "digests": {"adapter": adapter, "bento": candidate.bento, "verdict": candidate.digests["verdict"]},
        "gate": gate_at(root, candidate.commit).model_dump(mode="json"),
    }
    files = {PRODUCTION.as_posix(): json.dumps(record, indent=2, sort_keys=True) + "\n"}
    commit = commit_with(root, candidate.commit, files, f"Production: {NAME} {version}")
    said = {
        "kind": PROMOTED,
        "version": version,
        "reviewer": reviewer,
        "reason": decision.reason,
        "digests": {**candidate.digests, "bento": candidate.bento, "candidate": candidate.id},
    }
    new = {
        f"refs/tags/{NAME}@{version}": _tag(root, f"{NAME}@{version}", commit, said, decision.key),
        **_assignment(root, commit, said, decision.key),
        candidate.branch: commit,
    }
    _publish(root, new, {candidate.branch: ref(root, candidate.branch) or ZERO}, remote)
    settle(root, store)
    return _last(root)


def roll_back(
    root: Path, store: Store, version: str, decision: Decision, remote: str | None = None
) -> Release:
    """Put a former production version back; recorded and signed like a promotion."""
    wanted = find_release(root, version)
    current = production(root)
    if current and current.version == wanted.version:
        raise RegistryError(f"{wanted.version} is in production already; nothing to roll back")
    said = {
        "kind": ROLLED_BACK,
        "version": wanted.version,
        "reviewer": reviewer_of(root, wanted.commit, decision.key),
        "reason": decision.reason,
        "digests": wanted.digests,
    }
    _publish(root, _assignment(root, wanted.commit, said, decision.key), {}, remote)
    settle(root, store)
    return _last(root)


def settle(root: Path, store: Store) -> None:
    """Make the store's index, production.json and the adapter say what the signed tags say. Idempotent."""
    current = production(root)
    if current is None:
        return
    store.write_json("index.json", index_of(root))
    record = git(root, "show", f"{current.commit}:{PRODUCTION.as_posix()}")
    (root / ADAPTER).parent.mkdir(exist_ok=True)
    digest = current.digests["adapter"]
    store.get(f"adapters/{digest}.safetensors", root / ADAPTER, digest)
    _replace(root / PRODUCTION, record)


def index_of(root: Path) -> dict[str, Any]:
    """Versions and stages, for readers without git: digests, commit, reviewer and reason."""
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


def _assignment(root: Path, commit: str, said: dict[str, Any], key: Path) -> dict[str, str]:
    name = f"{NAME}#{STAGE}#{len(assignments(root)) + 1}"
    return {f"refs/tags/{name}": _tag(root, name, commit, said, key)}


def _tag(root: Path, name: str, commit: str, said: dict[str, Any], key: Path) -> str:
    # GTO orders by time, to the second: a tag is always younger than the one before it.
    last = max((release.when for release in assignments(root)), default=0)
    return signed_tag(root, name, commit, message(said), key, max(int(time.time()), last + 1))


def _publish(root: Path, new: dict[str, str], old: dict[str, str], remote: str | None) -> None:
    """One transaction here, one atomic push there; the loser of two takes its names back."""
    try:
        move_refs(root, new, old)
    except RegistryError as error:
        raise RegistryError(
            f"another release was made meanwhile ({error}); look at `safeclip registry list`"
        ) from None
    _push(root, [*new], remote)


def _push(root: Path, names: list[str], remote: str | None) -> None:
    if remote is None:
        return
    try:
        git(root, "push", "--atomic", remote, *(f"{name}:{name}" for name in names))
    except RegistryError as error:
        delete_refs(root, [name for name in names if name.startswith("refs/tags/")])
        raise RegistryError(f"{remote} did not take the release, nothing was changed ({error})") from None


def _last(root: Path) -> Release:
    return assignments(root)[-1]


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
