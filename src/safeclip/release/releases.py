"""Releases: signed git tags in GTO's format. When a tag is trusted, and what `verify` checks beyond it.

    safeclip@v1.2.0     this commit is version 1.2.0
    safeclip#prod#3     the third assignment of `prod`: this commit's version is in production from here on

Guarded against: whoever can write to the repository or the store, but holds no reviewer's private key.

Signed: the tag's name, its commit and its message, which is a line for people, then JSON with reviewer,
reason, version and the digests of everything the release stands on.

A tag is trusted if
1. its signature is by a reviewer in `allowed_signers` *of the last commit promoted before it*. A rollback
   does not bring an older list back. The first release is held against its own list: trust starts there;
2. its signed name is the ref's name, else an old tag could be filed under a new name;
3. its signer is the reviewer that the message names;
4. no assignment before it is missing.
"""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safeclip.core.errors import RegistryError
from safeclip.core.files import sha256, unpack
from safeclip.release.candidate import Candidate, check_candidate
from safeclip.release.git import file_at, git, tag_signer
from safeclip.release.store import Store

NAME = "safeclip"
STAGE = "prod"
PROMOTED, ROLLED_BACK = "promote", "roll back to"
SIGNERS = "allowed_signers"
_VERSION = re.compile(rf"^{NAME}@(v\d+\.\d+\.\d+)$")
_ASSIGNED = re.compile(rf"^{NAME}#{STAGE}#(\d+)$")
Fetch = Callable[[str, tuple[str, ...], Path], None]
"""Copies files of a commit into a folder: (commit, paths, folder)."""


@dataclass(frozen=True)
class Release:
    """One assignment whose tag is trusted. `number` counts from 1; `when` is in seconds since 1970, UTC."""

    tag: str
    commit: str
    when: int
    number: int
    version: str
    reviewer: str
    reason: str
    kind: str
    digests: dict[str, str]


def message(release: dict[str, Any]) -> str:
    """Write what a tag says: a line for people, then the JSON that is read back."""
    line = f"{release['kind']} {NAME} {release['version']}: {release['reason']} ({release['reviewer']})"
    return f"{line}\n\n{json.dumps(release, indent=2, sort_keys=True)}\n"


def assignments(root: Path) -> list[Release]:
    """Return every assignment of `prod`, first to last; `RegistryError` names the first not to be trusted."""
    history: list[Release] = []
    numbers = {int(match[1]): tag for tag in _tags(root) if (match := _ASSIGNED.match(tag))}
    for number, tag in sorted(numbers.items()):
        if number != len(history) + 1:
            raise RegistryError(
                f"{tag}: assignment {len(history) + 1} is missing; fetch the tags of the remote"
            )
        last = last_promoted(history)
        history.append(_trusted(root, tag, number, last.commit if last else None))
    return history


def last_promoted(history: list[Release]) -> Release | None:
    """Return the last promotion among assignments, rollbacks left out; None if there is none."""
    return next((release for release in reversed(history) if release.kind == PROMOTED), None)


def production(root: Path) -> Release | None:
    """Return what is in production, None if nothing ever was."""
    history = assignments(root)
    return history[-1] if history else None


def versions(root: Path) -> dict[str, Release]:
    """Return version -> the release that first put it into production."""
    first: dict[str, Release] = {}
    for release in assignments(root):
        first.setdefault(release.version, release)
    return first


def find_release(root: Path, wanted: str) -> Release:
    """Find a release by version (`v1.2.0`) or stage (`prod`); a `RegistryError` lists what there is."""
    known = versions(root)
    current = production(root)
    if wanted == STAGE and current:
        return current
    if wanted in known:
        return known[wanted]
    there = ", ".join(known) or "nothing was ever released"
    raise RegistryError(f"no version or stage {wanted!r}; there is: {there}")


def next_version(root: Path, bump: str) -> str:
    """Return the version after the highest tag, v0.1.0 if there is none; bump: major, minor or patch."""
    known = [match[1] for tag in _tags(root) if (match := _VERSION.match(tag))]
    numbers = max(([int(part) for part in version[1:].split(".")] for version in known), default=[0, 0, 0])
    place = ("major", "minor", "patch").index(bump) if known else 1
    raised = [*numbers[:place], numbers[place] + 1, *([0] * (2 - place))]
    return "v" + ".".join(map(str, raised))


def signer_of(signers: str, key: Path) -> str:
    """Return the reviewer to whom `signers` (text of an allowed_signers file) gives this key.

    Raises:
        RegistryError: its public half is not there, or not in the list.
    """
    public = key.with_name(f"{key.name}.pub")
    if not public.is_file():
        raise RegistryError(f"{public}: no such file; the public half must lie beside the key")
    ours = public.read_text(encoding="utf-8").split()[:2]
    for line in signers.splitlines():
        words = line.split()
        if any(ours == words[at : at + 2] for at in range(1, len(words))):
            return words[0]
    raise RegistryError(
        f"{key}: this key is not in {SIGNERS}; a reviewer who is must add it, in a release of its own"
    )


def trusted_signers(root: Path, commit: str) -> str:
    """Return the text of `allowed_signers` in a commit; `RegistryError` if it is missing or empty."""
    text = file_at(root, commit, SIGNERS)
    if not text or not text.strip():
        raise RegistryError(
            f"{SIGNERS} is missing or empty in {commit[:12]}; list the reviewers' public keys in it"
        )
    return text


def verify(root: Path, store: Store, release: Release, fetch: Fetch) -> Iterator[str]:
    """Check again everything that a release stands on; yield one line for each check that held.

    The release was read through `assignments`, so its signature is good already. `SafeclipError` at the
    first check that fails.
    """
    yield f"{release.tag}: signed by {release.reviewer}"
    candidate = read_candidate(store, release)
    parent = git(root, "rev-parse", f"{release.commit}^").strip()
    if candidate.commit != parent:
        raise RegistryError(f"{release.version}: its commit does not stand on candidate {candidate.id}")
    yield f"commit {release.commit[:12]} stands on candidate {candidate.id}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fetch(candidate.commit, candidate.files, folder)
        verdict = check_candidate(folder, candidate)
        yield f"verdict computed again from its outcomes: passed, {len(verdict['rules'])} rules"
        bento = folder / "bento.tar"
        store.get(f"bentos/{candidate.bento}.tar", bento, candidate.bento)
        adapter = candidate.digests["adapter"]
        store.get(f"adapters/{adapter}.safetensors", folder / "adapter.safetensors", adapter)
        yield f"Bento and adapter are the released ones ({candidate.bento[:12]}, {adapter[:12]})"
        check_served(bento, folder)
        yield "the packaged model gives its reference vectors, as the service asks of it"


def read_candidate(store: Store, release: Release) -> Candidate:
    """Read the candidate that a release promoted; `RegistryError` unless its digests are the signed ones."""
    key = f"candidates/{release.digests['candidate']}.json"
    record = store.read_json(key)
    if record is None:
        raise RegistryError(f"{release.version}: {key} is missing")
    try:
        candidate = Candidate.model_validate(record)
    except ValidationError:
        raise RegistryError(
            f"{release.version}: {key} is no candidate's record; restore it from a backup of the registry"
        ) from None
    signed = {**candidate.digests, "bento": candidate.bento, "candidate": candidate.id}
    if signed != release.digests:
        raise RegistryError(f"{release.version}: the store's candidate is not the one that was signed")
    return candidate


def check_served(bento: Path, scratch: Path) -> None:
    """Load the packaged model as the service does, which refuses if its reference vectors differ."""
    from safeclip.serving.embedder import Embedder

    folder = scratch / "bento"
    try:
        with tarfile.open(bento) as archive:
            unpack(archive, folder)
    except tarfile.TarError as error:
        raise RegistryError(f"the Bento is no archive ({error}); it was not made by `package`") from None
    models = [path.parent for path in folder.glob("models/safeclip/*/reference.json")]
    if len(models) != 1:
        raise RegistryError(
            f"the Bento holds {len(models)} models instead of one; it was not made by `package`"
        )
    Embedder(models[0])


def pull(store: Store, release: Release, folder: Path) -> Path:
    """Download a release's Bento into `folder`, checked against the signed digest; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"safeclip-embedder-{release.version}.tar"
    digest = release.digests["bento"]
    if not (target.is_file() and sha256(target) == digest):
        store.get(f"bentos/{digest}.tar", target, digest)
    return target


def _trusted(root: Path, tag: str, number: int, promoted_before: str | None) -> Release:
    """Read the tag of assignment `number` and check its name, its signature and who signed it.

    promoted_before: the last commit promoted before this tag, whose list of reviewers counts.
    """
    header, _, body = git(root, "cat-file", "tag", tag).partition("\n\n")
    fields = dict(line.split(" ", 1) for line in header.splitlines())
    if fields.get("tag") != tag:
        raise RegistryError(
            f"{tag}: its signed name is {fields.get('tag')}; the tag was filed under another name"
        )
    signer = tag_signer(root, tag, trusted_signers(root, promoted_before or fields["object"]))
    if signer is None:
        raise RegistryError(f"{tag}: not signed by a reviewer of the release before it; it does not count")
    try:
        record: dict[str, Any] = json.JSONDecoder().raw_decode(body[body.index("\n{") + 1 :])[0]
        stated = {name: record[name] for name in ("version", "reviewer", "reason", "kind", "digests")}
    except (ValueError, KeyError):
        raise RegistryError(
            f"{tag}: its message holds no release; it was not made by `safeclip review`"
        ) from None
    if stated["reviewer"] != signer:
        raise RegistryError(f"{tag}: it names {stated['reviewer']}, but {signer} signed it")
    when = int(fields["tagger"].rsplit(" ", 2)[1])
    return Release(tag=tag, commit=fields["object"], when=when, number=number, **stated)


def _tags(root: Path) -> list[str]:
    return git(root, "tag", "--list", f"{NAME}[@#]*").splitlines()
