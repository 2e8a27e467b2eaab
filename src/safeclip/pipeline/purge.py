"""Delete generated unsafe data from workspace, cache and remotes; what a registered version stands on stays.

Unsafe are the outputs that dvc.yaml stores in the remote `restricted`, in every version of dvc.lock that git
knows and in every run that the cache remembers. What was deleted comes back only by running its stage again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from safeclip.errors import PipelineError
from safeclip.modes import PUBLIC_REMOTES
from safeclip.pipeline.history import (
    Output,
    all_outputs,
    members,
    registered_outputs,
    run_outputs,
    tracked_files,
)

if TYPE_CHECKING:
    from dvc.repo import Repo

REMOTE = "restricted"
SCRATCH = Path("work")
_DAY = 86_400.0


@dataclass
class Purge:
    """What is (or would be) deleted: versions and objects by place, workspace folders; and what stays."""

    versions: dict[str, int] = field(default_factory=dict)
    objects: dict[str, list[str]] = field(default_factory=dict)
    size: int = 0
    folders: list[Path] = field(default_factory=list)
    kept_for: list[str] = field(default_factory=list)
    too_young: int = 0


def purge(root: Path, *, older_than: float | None = None, dry_run: bool = False) -> Purge:
    """Delete all unsafe outputs, or those made more than `older_than` days ago; only look if `dry_run`."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(root), _wait_for_lock=True)
        with repo.lock:
            return _purge(repo, root, older_than, dry_run)
    except DvcException as error:
        raise PipelineError(" ".join(str(error).split())) from None


def _purge(repo: Repo, root: Path, older_than: float | None, dry_run: bool) -> Purge:
    paths = unsafe_paths(root)
    places = _places(repo)
    outputs = all_outputs(root) | run_outputs(Path(repo.stage_cache.cache_dir))
    unsafe = {output for output in outputs if output.path in paths}
    registered = registered_outputs(root)
    young = {
        output for output in unsafe if older_than is not None and not _is_old(places, output, older_than)
    }
    kept = young.union(*registered.values(), outputs - unsafe)
    gone = {output for output in unsafe if output.oid not in {other.oid for other in kept}}
    safe_oids = _expand(places, {output.oid for output in kept} | tracked_files(root))
    doomed = _expand(places, {output.oid for output in gone}) - safe_oids
    found = Purge(kept_for=sorted(registered), too_young=len(young))
    for path, _ in sorted({(output.path, output.oid) for output in gone}):
        found.versions[path] = found.versions.get(path, 0) + 1
    for name, odb in places.items():
        found.objects[name] = sorted(oid for oid in doomed if odb.exists(oid))
        found.size += sum(odb.fs.size(odb.oid_to_path(oid)) or 0 for oid in found.objects[name])
    found.folders = _folders(root, gone, older_than)
    if not dry_run:
        _delete(places, found)
    return found


def unsafe_paths(root: Path) -> set[str]:
    """Paths of the outputs that dvc.yaml stores in the restricted remote."""
    stages = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    paths = set()
    for stage in stages.values():
        for out in stage.get("outs") or ():
            for path, options in out.items() if isinstance(out, Mapping) else ():
                if (options or {}).get("remote") == REMOTE:
                    paths.add(path)
    if not paths:
        raise PipelineError(
            f"dvc.yaml: no output has `remote: {REMOTE}`, so that nothing would be purged; restore it"
        )
    return paths


def _places(repo: Repo) -> dict[str, Any]:
    """The object stores in which unsafe data may lie: the cache and every remote but the public one."""
    names = sorted(set(repo.config["remote"]) - set(PUBLIC_REMOTES))
    return {
        "cache": repo.cache.local,
        **{f"remote {name}": repo.cloud.get_remote_odb(name) for name in names},
    }


def _expand(places: Mapping[str, Any], oids: Iterable[str]) -> set[str]:
    """These digests with those of the files in each folder among them, as far as its listing is anywhere."""
    found = set(oids)
    for oid in sorted(found):
        holder = next((odb for odb in places.values() if oid.endswith(".dir") and odb.exists(oid)), None)
        if holder is not None:
            with holder.fs.open(holder.oid_to_path(oid), "rb") as file:
                found |= members(file.read())
    return found


def _is_old(places: Mapping[str, Any], output: Output, days: float) -> bool:
    """Whether the newest copy of an output was stored before `days` days; what tells no time is not old."""
    stored = [_stored(odb, output.oid) for odb in places.values() if odb.exists(output.oid)]
    return bool(stored) and all(when is not None and when < time.time() - days * _DAY for when in stored)


def _stored(odb: Any, oid: str) -> float | None:
    info = odb.fs.info(odb.oid_to_path(oid))
    when = info.get("mtime") or info.get("LastModified") or info.get("last_modified")
    return when.timestamp() if hasattr(when, "timestamp") else when


def _folders(root: Path, gone: set[Output], older_than: float | None) -> list[Path]:
    """Results here that belong to a purged version, and scratch: all of it, or what is as old."""
    here = root / "dvc.lock"
    current = {output for output in gone if here.is_file() and output.oid in here.read_text(encoding="utf-8")}
    folders = [root / output.path for output in current if (root / output.path).exists()]
    oldest = time.time() - (older_than or 0.0) * _DAY
    scratch = root.joinpath(SCRATCH).glob("*")
    return sorted({*folders, *(path for path in scratch if path.stat().st_mtime <= oldest)})


def _delete(places: Mapping[str, Any], found: Purge) -> None:
    for path in found.folders:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, odb in places.items():
        for oid in sorted(found.objects[name], key=lambda oid: oid.endswith(".dir")):  # listings last
            odb.delete(oid)


def lines(found: Purge, *, dry_run: bool) -> list[str]:
    """What was done, by place; nothing of what the data say."""
    verb = "would delete" if dry_run else "deleted"
    told = [
        f"{verb}: {path}, {count} version{'s' * (count > 1)}"
        for path, count in sorted(found.versions.items())
    ]
    told += [f"{verb}: {len(oids)} objects in {name}" for name, oids in found.objects.items()]
    told += [f"{verb}: {len(found.folders)} folders here"] if found.folders else []
    told.append(f"{verb}: {found.size / 1e6:.1f} MB in all")
    told += [f"kept: {found.too_young} versions that are not that old"] if found.too_young else []
    if found.kept_for:
        told.append(f"kept: what {', '.join(found.kept_for)} stands on")
    return told
