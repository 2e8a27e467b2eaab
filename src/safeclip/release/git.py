"""The few git operations that releases need: commits beside the checkout, signed tags, refs moved together.

Nothing here touches the checkout, its index or its branch: a release works on snapshots, whatever the
checkout does meanwhile. Tag objects are written first and named last, in one transaction of `git update-ref`,
so that a kill leaves either all the names or none.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from safeclip.core.errors import RegistryError

ZERO = "0" * 40


def git(root: Path, *arguments: str, text: str | None = None, **environment: str) -> str:
    """Standard output of `git ARGUMENTS` in `root`; a `RegistryError` with git's own words if it fails."""
    done = _run(root, arguments, text, environment)
    if done.returncode:
        raise RegistryError(f"git {arguments[0]}: {' '.join(done.stderr.split()) or 'failed'}")
    return done.stdout


def ref(root: Path, name: str) -> str | None:
    """The object that a ref names, or None."""
    done = _run(root, ("rev-parse", "--verify", "--quiet", name), None, {})
    return done.stdout.strip() or None


def snapshot_commit(root: Path, message: str) -> str:
    """A commit on top of HEAD of every tracked file as it is now; untracked files are not in it."""
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git(root, "read-tree", "HEAD", **index)
        git(root, "add", "--update", ".", **index)
        return _commit(root, git(root, "write-tree", **index).strip(), "HEAD", message)


def commit_with(root: Path, parent: str, files: Mapping[str, str], message: str) -> str:
    """A commit on top of `parent` in which `files` (path -> text) are as given."""
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git(root, "read-tree", parent, **index)
        for path, content in files.items():
            blob = git(root, "hash-object", "-w", "--stdin", text=content).strip()
            git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", **index)
        return _commit(root, git(root, "write-tree", **index).strip(), parent, message)


def file_at(root: Path, commit: str, path: str) -> str | None:
    """A file's text in a commit; None if the commit has no such file."""
    done = _run(root, ("show", f"{commit}:{path}"), None, {})
    return None if done.returncode else done.stdout


def signed_tag(root: Path, name: str, commit: str, message: str, key: Path, when: int) -> str:
    """Write an annotated tag object signed with an SSH key and return its id; no ref names it yet.

    when: seconds since 1970, UTC. The signature is in git's own format (`git verify-tag` reads it).
    """
    who = f"{setting(root, 'user.name') or 'safeclip'} <{setting(root, 'user.email')}>"
    payload = f"object {commit}\ntype commit\ntag {name}\ntagger {who} {when} +0000\n\n{message.rstrip()}\n"
    return git(
        root, "hash-object", "-t", "tag", "-w", "--stdin", text=payload + _signature(payload, key)
    ).strip()


def move_refs(root: Path, new: Mapping[str, str], old: Mapping[str, str] | None = None) -> None:
    """Point every ref of `new` at its object, all or none; a ref that is not in `old` must not exist yet."""
    lines = [f"update {name} {target} {(old or {}).get(name, ZERO)}" for name, target in new.items()]
    git(root, "update-ref", "--stdin", text="\n".join(["start", *lines, "prepare", "commit", ""]))


def delete_refs(root: Path, names: Sequence[str]) -> None:
    """Remove refs, all or none."""
    git(root, "update-ref", "--stdin", text="".join(f"delete {name}\n" for name in names))


def _commit(root: Path, tree: str, parent: str, message: str) -> str:
    """Dated like its parent, by nobody in particular: the same files on one parent are the same commit."""
    when = git(root, "show", "--no-patch", "--format=%ct +0000", parent).strip()
    nobody = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", "safeclip"), ("EMAIL", "safeclip@localhost"), ("DATE", when))
    }
    return git(root, "commit-tree", tree, "-p", parent, text=message, **nobody).strip()


def _signature(payload: str, key: Path) -> str:
    if not key.is_file():
        raise RegistryError(f"{key}: no such key; name a private SSH key with --key")
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", "git", "-f", str(key)],
        input=payload, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RegistryError(f"{key}: cannot sign with it ({' '.join(done.stderr.split())})")
    return done.stdout


def setting(root: Path, name: str) -> str:
    """A value of git's configuration, empty if it is not set."""
    return _run(root, ("config", name), None, {}).stdout.strip()


def _run(
    root: Path, arguments: Sequence[str], text: str | None, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], cwd=root, env=os.environ | dict(environment), input=text,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
