"""Run git: read commits, write commits beside the checkout, sign and verify tags, move refs together.

Nothing here touches the checkout, its index or its branch, so a release works on a snapshot whatever happens
in the checkout meanwhile. A tag object is written first and named last, in one transaction of
`git update-ref`: a kill leaves either all the names or none.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from safeclip.core.errors import GitError, RegistryError

ABSENT = "0" * 40
"""What git calls the value of a ref that does not exist."""
_NOTHING: Mapping[str, str] = MappingProxyType({})
# `git verify-tag` answers in this line of ssh-keygen's, which git reads in the same way.
_GOOD_SIGNATURE = re.compile(r'^Good "git" signature for (\S+) with ', re.MULTILINE)


def git(
    root: Path,
    command: str,
    *arguments: str,
    text: str | None = None,
    config: Mapping[str, str] = _NOTHING,
    environment: Mapping[str, str] = _NOTHING,
) -> str:
    """Run `git COMMAND ARGUMENTS` in `root` and return its standard output.

    Args:
        text: standard input.
        config: settings for this command alone, over those of the user and the repository.
        environment: variables on top of this process's.

    Raises:
        GitError: git failed; its own words are in the message.
    """
    done = _run(root, command, *arguments, text=text, config=config, environment=environment)
    if done.returncode:
        raise GitError(f"git {command}: {' '.join(done.stderr.split()) or 'failed'}")
    return done.stdout


def object_of(root: Path, name: str) -> str | None:
    """Return the id of the object that a ref or revision names, None if there is no such name."""
    return _run(root, "rev-parse", "--verify", "--quiet", name).stdout.strip() or None


def file_at(root: Path, commit: str, path: str) -> str | None:
    """Return a file's text in a commit, None if the commit has no such file."""
    done = _run(root, "show", f"{commit}:{path}")
    return None if done.returncode else done.stdout


def setting(root: Path, name: str) -> str:
    """Return a value of git's configuration, empty if it is not set."""
    return _run(root, "config", name).stdout.strip()


def snapshot_commit(root: Path, message: str) -> str:
    """Commit every tracked file as it lies here, on top of HEAD; untracked files are not in it."""
    with _scratch_index(root, "HEAD") as index:
        git(root, "add", "--update", ".", environment=index)
        return _commit(root, git(root, "write-tree", environment=index).strip(), "HEAD", message)


def commit_with(root: Path, parent: str, files: Mapping[str, str], message: str) -> str:
    """Commit `parent` with `files` (path -> text) replaced or added, on top of `parent`."""
    with _scratch_index(root, parent) as index:
        for path, content in files.items():
            blob = git(root, "hash-object", "-w", "--stdin", text=content).strip()
            git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=index)
        return _commit(root, git(root, "write-tree", environment=index).strip(), parent, message)


def signed_tag(root: Path, name: str, commit: str, message: str, key: Path, when: int) -> str:
    """Write an annotated tag object signed with an SSH key and return its id; no ref of `root` names it yet.

    Args:
        key: the private key's file.
        when: the tag's time in seconds since 1970, UTC.

    Raises:
        RegistryError: there is no such key, or it cannot sign.
    """
    if not key.is_file():
        raise RegistryError(f"{key}: no such key; name a private SSH key with --key")
    objects = git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects").strip()
    with tempfile.TemporaryDirectory() as scratch:
        # `git tag` names what it writes: let it do so in a repository of a moment that shares our objects.
        git(root, "init", "--quiet", "--bare", scratch)
        there = {
            "GIT_DIR": scratch,
            "GIT_OBJECT_DIRECTORY": objects,
            "GIT_COMMITTER_NAME": setting(root, "user.name") or "safeclip",
            "GIT_COMMITTER_EMAIL": setting(root, "user.email"),
            "GIT_COMMITTER_DATE": f"{when} +0000",
        }
        signing = {"gpg.format": "ssh", "user.signingkey": str(key.absolute())}
        arguments = ("--sign", "--cleanup=verbatim", "--file=-", name, commit)
        try:
            git(root, "tag", *arguments, text=f"{message.rstrip()}\n", config=signing, environment=there)
        except GitError as error:
            raise RegistryError(f"{key}: cannot sign with it ({error})") from None
        return git(root, "rev-parse", f"refs/tags/{name}", environment=there).strip()


def tag_signer(root: Path, tag: str, signers: str) -> str | None:
    """Return who signed a tag, None if the signature is not good or is of nobody in the list.

    signers: the text of an `allowed_signers` file (ssh-keygen(1)).
    """
    with tempfile.NamedTemporaryFile("w", suffix=".allowed_signers") as file:
        file.write(signers)
        file.flush()
        trust = {"gpg.format": "ssh", "gpg.ssh.allowedSignersFile": file.name}
        done = _run(root, "verify-tag", tag, config=trust)
    good = _GOOD_SIGNATURE.search(done.stderr)
    return None if done.returncode or not good else good[1]


def move_refs(root: Path, new: Mapping[str, str], old: Mapping[str, str] | None = None) -> None:
    """Point every ref of `new` at its object, all or none; a ref that is not in `old` must not exist yet.

    Raises:
        GitError: a ref is not what `old` says; none was moved.
    """
    lines = [f"update {name} {target} {(old or {}).get(name, ABSENT)}" for name, target in new.items()]
    git(root, "update-ref", "--stdin", text="\n".join(["start", *lines, "prepare", "commit", ""]))


def delete_refs(root: Path, names: Sequence[str]) -> None:
    """Remove refs, all or none."""
    git(root, "update-ref", "--stdin", text="".join(f"delete {name}\n" for name in names))


@contextmanager
def _scratch_index(root: Path, commit: str) -> Iterator[dict[str, str]]:
    """Give the environment of an index of its own that holds the files of `commit`."""
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git(root, "read-tree", commit, environment=index)
        yield index


def _commit(root: Path, tree: str, parent: str, message: str) -> str:
    # Dated like its parent, by nobody in particular: the same files on one parent are the same commit.
    when = git(root, "show", "--no-patch", "--format=%ct +0000", parent).strip()
    nobody = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", "safeclip"), ("EMAIL", "safeclip@localhost"), ("DATE", when))
    }
    return git(root, "commit-tree", tree, "-p", parent, text=message, environment=nobody).strip()


def _run(
    root: Path,
    *arguments: str,
    text: str | None = None,
    config: Mapping[str, str] = _NOTHING,
    environment: Mapping[str, str] = _NOTHING,
) -> subprocess.CompletedProcess[str]:
    settings = [word for name, value in config.items() for word in ("-c", f"{name}={value}")]
    return subprocess.run(
        ["git", *settings, *arguments], cwd=root, env=os.environ | dict(environment), input=text,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
