"""Everything that a release stands on, checked again: signatures, digests, verdict, served vectors."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from safeclip.core.errors import RegistryError
from safeclip.core.files import sha256, unpack
from safeclip.release.candidate import Candidate, check_candidate
from safeclip.release.git import git
from safeclip.release.releases import Release
from safeclip.release.store import Store

Fetch = Callable[[str, tuple[str, ...], Path], None]
"""Copies files of a commit into a folder: (commit, paths, folder)."""


def verify(root: Path, store: Store, release: Release, fetch: Fetch) -> Iterator[str]:
    """A line a check that held; a `SafeclipError` at the first that does not. (What was read is signed.)"""
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
    """The candidate that a release promoted, held against the digests in the signed tag."""
    raw = store.read_json(f"candidates/{release.digests['candidate']}.json")
    if raw is None:
        raise RegistryError(f"{release.version}: candidates/{release.digests['candidate']}.json is missing")
    try:
        candidate = Candidate.model_validate(raw)
    except ValidationError:
        raise RegistryError(
            f"{release.version}: candidates/{release.digests['candidate']}.json is no candidate's record; "
            "restore it from a backup of the registry"
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
    """Download a release's Bento into `folder`, checked against the signed digest."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"safeclip-embedder-{release.version}.tar"
    digest = release.digests["bento"]
    if not (target.is_file() and sha256(target) == digest):
        store.get(f"bentos/{digest}.tar", target, digest)
    return target
