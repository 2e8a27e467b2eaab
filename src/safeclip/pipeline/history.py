"""Every version of the outputs that git or DVC's cache knows, and those that registered versions stand on."""

from __future__ import annotations

import json
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safeclip.errors import DataError, PipelineError
from safeclip.production import read_production

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
    production = read_production(root / "production.json")
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
