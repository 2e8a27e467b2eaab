"""Every version of the outputs that git or DVC's cache knows, and those that registered versions stand on."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.core.errors import DataError, PipelineError
from safeclip.core.permissions import PUBLIC_REMOTES
from safeclip.core.production import read_production
from safeclip.synthesis.captions import SafeCaption, load_captions

LOCK = "dvc.lock"
_TAGS = ("safeclip@*", "safeclip#*")  # GTO: a version, and a stage that a version was assigned to


@dataclass(frozen=True)
class Output:
    """One output of one version of dvc.lock; `oid` is DVC's digest, of a folder if it ends in `.dir`."""

    stage: str
    path: str
    oid: str


def all_outputs(root: Path) -> set[Output]:
    """The outputs in every committed dvc.lock, on any branch or tag, and in the one that lies here."""
    listed = _git(root, "log", "--all", "--format=%H", "--", LOCK).split()
    texts = [_git(root, "show", f"{revision}:{LOCK}", missing="") for revision in listed]
    here = root / LOCK
    texts += [here.read_text(encoding="utf-8")] if here.is_file() else []
    return {output for text in dict.fromkeys(texts) for output in outputs_of(text)}


def run_outputs(runs: Path) -> set[Output]:
    """The outputs of every run that DVC's cache remembers, those whose dvc.lock was never committed too."""
    found = set()
    for path in sorted(runs.glob("*/*/*")) if runs.is_dir() else ():
        found |= outputs_of(f"stages:\n  run:\n{textwrap.indent(path.read_text(encoding='utf-8'), '    ')}")
    return {Output("", output.path, output.oid) for output in found}


def registered_outputs(root: Path) -> dict[str, set[Output]]:
    """Tag -> the outputs that its commit's dvc.lock names.

    `PipelineError` if production.json names a version that no tag here is of: it must not be purged unseen.
    """
    tags = _git(root, "tag", "--list", *_TAGS).split()
    production = read_production(root / "release/production.json")
    if production.assigned and f"safeclip@{production.version}" not in tags:
        raise PipelineError(
            f"production.json names {production.version}, and git has no tag safeclip@{production.version}; "
            "fetch the tags (`git fetch --tags`), so that what it stands on can be kept"
        )
    return {tag: outputs_of(_git(root, "show", f"{tag}^{{commit}}:{LOCK}", missing="")) for tag in tags}


def outputs_of(text: str) -> set[Output]:
    """The outputs in the text of a dvc.lock; one that is not readable is a `DataError`, never 'nothing'."""
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
    """Digests named by the `.dvc` files here (the data that enters): they are never generated data."""
    found = set()
    for path in root.glob("*.dvc"):
        if path.is_file():
            outs = (YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}).get("outs") or ()
            found |= {out["md5"] for out in outs if "md5" in out}
    return found


def members(listing: bytes) -> set[str]:
    """Digests of the files in a folder, from DVC's `.dir` object."""
    return {entry["md5"] for entry in json.loads(listing)}


def _git(root: Path, *arguments: str, missing: str | None = None) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode and missing is None:
        raise PipelineError(f"git {arguments[0]}: {' '.join(done.stderr.split())}")
    return done.stdout if not done.returncode else str(missing)


# Another version of the data, through git and DVC: its captions, and which files and outputs differ.


@dataclass(frozen=True)
class Earlier:
    """The captions of that version, None if it had none; paths that were added, deleted or modified since."""

    captions: list[SafeCaption] | None
    files: dict[str, list[str]]


def earlier_version(root: Path, folder: str, revision: str) -> Earlier:
    """What `folder` was at a git revision, and what differs now; results are compared as whole outputs."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        captions = _captions(root, folder, revision)
        with Repo(str(root)) as repo:
            found = repo.diff(revision) or {}
    except DvcException as error:
        why = " ".join(str(error).split())
        raise PipelineError(
            f"{revision}: cannot be compared ({why}); name a commit whose data are pulled"
        ) from None
    kinds = ("added", "deleted", "modified")
    paths = {kind: sorted(str(entry["path"]) for entry in found.get(kind, [])) for kind in kinds}
    return Earlier(captions, {kind: _few(listed, folder) for kind, listed in paths.items() if listed})


def _captions(root: Path, folder: str, revision: str) -> list[SafeCaption] | None:
    from dvc.api import DVCFileSystem
    from dvc.scm import RevError

    try:
        text = DVCFileSystem(str(root), rev=revision).read_text(f"{folder}/captions.jsonl")
    except FileNotFoundError:
        return None
    except RevError:
        raise PipelineError(
            f"{revision}: git knows no such revision; name a commit, a branch or a tag"
        ) from None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "captions.jsonl"
        path.write_text(text, encoding="utf-8")
        return load_captions(path)


def _few(paths: list[str], folder: str) -> list[str]:
    """Files of the data folder one by one, unless they are pictures; of results the outputs alone."""
    kept = [path for path in paths if path.startswith(f"{folder}/") and f"{folder}/images/" not in path]
    kept += [path for path in paths if path.startswith("results/") and path.rstrip("/").count("/") == 1]
    pictures = sum(f"{folder}/images/" in path for path in paths)
    files = [path for path in kept if path.rstrip("/") != folder]
    return sorted(files) + ([f"{pictures} pictures"] if pictures else [])


# Delete generated unsafe data from workspace, cache and remotes; what a registered version stands on stays.
#
# Unsafe are the outputs that dvc.yaml stores in the remote `restricted`, in every version of dvc.lock that
# git knows and in every run that the cache remembers. What was deleted comes back only by running its stage
# again.


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
