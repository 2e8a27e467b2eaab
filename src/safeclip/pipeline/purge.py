"""Delete generated unsafe data from workspace, cache and remotes; what a registered version stands on stays.

Unsafe are the outputs that dvc.yaml stores in the remote `restricted`, in every version of dvc.lock that git
knows and in every run that DVC's cache remembers. What was deleted comes back only when its stage runs again.
"""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.core.artifacts import PRODUCTION, WORK
from safeclip.core.errors import DataError, PipelineError
from safeclip.core.files import remove
from safeclip.core.permissions import PUBLIC_REMOTES
from safeclip.core.production import read_production
from safeclip.release.git import file_at, git

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK = "dvc.lock"
REMOTE = "restricted"
_TAGS = ("safeclip@*", "safeclip#*")  # GTO: a version, and a stage that a version was assigned to
_DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Output:
    """One output in one version of dvc.lock; `oid` is DVC's digest, of a folder if it ends in `.dir`."""

    stage: str
    path: str
    oid: str


@dataclass
class Purge:
    """What is (or would be) deleted, and what stays.

    versions: path of an output -> how many versions of it; objects: place -> digests of its files there;
    size: of all objects in bytes; folders: of the workspace; kept_for: tags whose outputs stay.
    """

    versions: dict[str, int] = field(default_factory=dict)
    objects: dict[str, list[str]] = field(default_factory=dict)
    size: int = 0
    folders: list[Path] = field(default_factory=list)
    kept_for: list[str] = field(default_factory=list)
    too_young: int = 0

    def summary_lines(self, *, dry_run: bool) -> list[str]:
        """Say what was done, by place; nothing of what the data say."""
        verb = "would delete" if dry_run else "deleted"
        lines = [
            f"{verb}: {path}, {count} version{'s' * (count > 1)}"
            for path, count in sorted(self.versions.items())
        ]
        lines += [f"{verb}: {len(oids)} objects in {place}" for place, oids in self.objects.items()]
        if self.folders:
            lines.append(f"{verb}: {len(self.folders)} folders here")
        lines.append(f"{verb}: {self.size / 1e6:.1f} MB in all")
        if self.too_young:
            lines.append(f"kept: {self.too_young} versions that are not that old")
        if self.kept_for:
            lines.append(f"kept: what {', '.join(self.kept_for)} stands on")
        return lines


def purge(root: Path, *, older_than: float | None = None, dry_run: bool = False) -> Purge:
    """Delete all unsafe outputs, or those made more than `older_than` days ago; only look if `dry_run`.

    Raises:
        PipelineError: dvc.yaml restricts no output, or production's tag is not here; nothing is deleted.
        DataError: a version of dvc.lock cannot be read; nothing is deleted.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(root), _wait_for_lock=True)
        with repo.lock:
            places = _places(repo)
            plan = _plan(root, places, Path(repo.stage_cache.cache_dir), older_than)
            if not dry_run:
                _delete(places, plan)
            return plan
    except DvcException as error:
        raise PipelineError(" ".join(str(error).split())) from None


def _plan(root: Path, places: Mapping[str, Any], runs: Path, older_than: float | None) -> Purge:
    restricted = unsafe_paths(root)
    outputs = all_outputs(root) | run_outputs(runs)
    unsafe = {output for output in outputs if output.path in restricted}
    registered = registered_outputs(root)
    young = {
        output for output in unsafe if older_than is not None and not _is_old(places, output, older_than)
    }
    kept = young.union(*registered.values(), outputs - unsafe)
    kept_oids = {output.oid for output in kept}
    gone = {output for output in unsafe if output.oid not in kept_oids}

    # A file that a purged folder shares with anything that stays is not deleted.
    safe_oids = _with_members(places, kept_oids | tracked_files(root))
    doomed = _with_members(places, {output.oid for output in gone}) - safe_oids

    plan = Purge(kept_for=sorted(registered), too_young=len(young))
    for path, _ in sorted({(output.path, output.oid) for output in gone}):
        plan.versions[path] = plan.versions.get(path, 0) + 1
    for place, odb in places.items():
        plan.objects[place] = sorted(oid for oid in doomed if odb.exists(oid))
        plan.size += sum(odb.fs.size(odb.oid_to_path(oid)) or 0 for oid in plan.objects[place])
    plan.folders = _workspace_folders(root, gone, older_than)
    return plan


def _delete(places: Mapping[str, Any], plan: Purge) -> None:
    for path in plan.folders:
        remove(path)
    for place, odb in places.items():
        # Listings of folders last: after a kill, the next purge still knows what was in them.
        for oid in sorted(plan.objects[place], key=lambda oid: oid.endswith(".dir")):
            odb.delete(oid)


def unsafe_paths(root: Path) -> set[str]:
    """Return the paths of the outputs that dvc.yaml stores in the restricted remote.

    Raises:
        PipelineError: there is none, so that a purge would delete nothing and seem to have worked.
    """
    stages = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    entries = [out for stage in stages.values() for out in stage.get("outs") or ()]
    paths = {
        path
        for entry in entries
        if isinstance(entry, Mapping)
        for path, options in entry.items()
        if (options or {}).get("remote") == REMOTE
    }
    if not paths:
        raise PipelineError(
            f"dvc.yaml: no output has `remote: {REMOTE}`, so that nothing would be purged; restore it"
        )
    return paths


def all_outputs(root: Path) -> set[Output]:
    """Return the outputs in every committed dvc.lock, on any branch or tag, and in the one that lies here."""
    commits = git(root, "log", "--all", "--format=%H", "--", LOCK).split()
    texts = [file_at(root, commit, LOCK) or "" for commit in commits]
    here = root / LOCK
    texts += [here.read_text(encoding="utf-8")] if here.is_file() else []
    return {output for text in dict.fromkeys(texts) for output in outputs_of(text)}


def run_outputs(runs: Path) -> set[Output]:
    """Return the outputs of every run in DVC's run cache, those whose dvc.lock was never committed too."""
    outputs = set[Output]()
    for path in sorted(runs.glob("*/*/*")) if runs.is_dir() else ():
        entry = textwrap.indent(path.read_text(encoding="utf-8"), "    ")
        outputs |= outputs_of(f"stages:\n  run:\n{entry}")
    return {Output("", output.path, output.oid) for output in outputs}


def registered_outputs(root: Path) -> dict[str, set[Output]]:
    """Return tag -> the outputs in its commit's dvc.lock, for every tag of a version or an assignment.

    Raises:
        PipelineError: production.json names a version whose tag is not here: it must not be purged unseen.
    """
    tags = git(root, "tag", "--list", *_TAGS).split()
    production = read_production(root / PRODUCTION)
    if production.assigned and f"safeclip@{production.version}" not in tags:
        raise PipelineError(
            f"production.json names {production.version}, and git has no tag safeclip@{production.version}; "
            "fetch the tags (`git fetch --tags`), so that what it stands on can be kept"
        )
    return {tag: outputs_of(file_at(root, f"{tag}^{{commit}}", LOCK) or "") for tag in tags}


def outputs_of(text: str) -> set[Output]:
    """Return the outputs in the text of a dvc.lock; an unreadable one is a `DataError`, never 'nothing'."""
    try:
        lock = YAML(typ="safe").load(text) if text.strip() else {}
        stages: dict[str, Any] = lock.get("stages") or {}
        return {
            Output(name, out["path"], out["md5"])
            for name, stage in stages.items()
            for out in stage.get("outs") or ()
            if "md5" in out
        }
    except (YAMLError, AttributeError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{LOCK}: a version of it cannot be read ({first}); restore it from git") from None


def tracked_files(root: Path) -> set[str]:
    """Return the digests in the `.dvc` files here (the data that enters): they are never generated data."""
    digests = set[str]()
    for path in root.glob("*.dvc"):
        if path.is_file():
            outs = (YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}).get("outs") or ()
            digests |= {out["md5"] for out in outs if "md5" in out}
    return digests


def _places(repo: Repo) -> dict[str, Any]:
    """Return the stores in which unsafe data may lie: the cache and every remote but the public one."""
    names = sorted(set(repo.config["remote"]) - set(PUBLIC_REMOTES))
    return {
        "cache": repo.cache.local,
        **{f"remote {name}": repo.cloud.get_remote_odb(name) for name in names},
    }


def _with_members(places: Mapping[str, Any], oids: Iterable[str]) -> set[str]:
    """Add the digests of the files in each folder among `oids`, as far as its listing is anywhere."""
    expanded = set(oids)
    for oid in sorted(expanded):
        holder = next((odb for odb in places.values() if oid.endswith(".dir") and odb.exists(oid)), None)
        if holder is not None:
            with holder.fs.open(holder.oid_to_path(oid), "rb") as file:
                expanded |= {entry["md5"] for entry in json.load(file)}
    return expanded


def _is_old(places: Mapping[str, Any], output: Output, days: float) -> bool:
    """Whether the newest copy of an output was stored before `days` days; what tells no time is not old."""
    stored = []
    for odb in places.values():
        if odb.exists(output.oid):
            info = odb.fs.info(odb.oid_to_path(output.oid))
            when = info.get("mtime") or info.get("LastModified") or info.get("last_modified")
            # local files tell seconds since 1970, S3 tells a datetime
            stored.append(when.timestamp() if hasattr(when, "timestamp") else when)
    return bool(stored) and all(when is not None and when < time.time() - days * _DAY for when in stored)


def _workspace_folders(root: Path, gone: set[Output], older_than: float | None) -> list[Path]:
    """Return the results here that belong to a purged version, and of work/ all, or what is as old."""
    here = root / LOCK
    current = {output for output in gone if here.is_file() and output.oid in here.read_text(encoding="utf-8")}
    folders = [root / output.path for output in current if (root / output.path).exists()]
    oldest = time.time() - (older_than or 0.0) * _DAY
    scratch = root.joinpath(WORK).glob("*")
    return sorted({*folders, *(path for path in scratch if path.stat().st_mtime <= oldest)})
