"""Releases as signed, annotated git tags in GTO's format, and what may be believed of them.

    safeclip@v1.2.0     this commit is version 1.2.0
    safeclip#prod#3     the third assignment of `prod`: this commit's version is in production from here on

A tag's message is a line for people, then JSON: reviewer, reason, version and digests. It counts only if its
signature is by a reviewer listed in `allowed_signers` *of the last commit promoted before it* (a rollback
does not bring an older list back), the signed name is the ref's name (else an old tag could be filed under
a new name), and the signer is the reviewer that the message names. The first release is held against its
own commit's list: trust starts there.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeclip.core.errors import RegistryError
from safeclip.release.git import file_at, git

NAME = "safeclip"
STAGE = "prod"
PROMOTED, ROLLED_BACK = "promote", "roll back to"
SIGNERS = "allowed_signers"
_VERSION = re.compile(rf"^{NAME}@(v\d+\.\d+\.\d+)$")
_ASSIGNED = re.compile(rf"^{NAME}#{STAGE}#(\d+)$")
_GOOD = re.compile(r'^Good "git" signature for (\S+) with ', re.MULTILINE)


@dataclass(frozen=True)
class Release:
    """One signed tag whose signature holds. `number` counts assignments; it is 0 for a version's own tag."""

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
    """What a tag says: a line for people, then the JSON that is read back."""
    line = f"{release['kind']} {NAME} {release['version']}: {release['reason']} ({release['reviewer']})"
    return f"{line}\n\n{json.dumps(release, indent=2, sort_keys=True)}\n"


def assignments(root: Path) -> list[Release]:
    """Every assignment of `prod`, first to last, each checked; a `RegistryError` names the first bad one."""
    found: list[Release] = []
    numbers = {int(match[1]): tag for tag in _tags(root) if (match := _ASSIGNED.match(tag))}
    for number, tag in sorted(numbers.items()):
        if number != len(found) + 1:
            raise RegistryError(
                f"{tag}: assignment {len(found) + 1} is missing; fetch the tags of the remote"
            )
        promoted = [release.commit for release in found if release.kind == PROMOTED]
        found.append(_checked(root, tag, number, promoted[-1] if promoted else None))
    return found


def production(root: Path) -> Release | None:
    """What is in production, or None if nothing ever was."""
    history = assignments(root)
    return history[-1] if history else None


def versions(root: Path) -> dict[str, Release]:
    """Version -> the release that first put it into production."""
    found: dict[str, Release] = {}
    for release in assignments(root):
        found.setdefault(release.version, release)
    return found


def find_release(root: Path, wanted: str) -> Release:
    """By version (`v1.2.0`) or stage (`prod`); a `RegistryError` that lists what there is."""
    known = versions(root)
    current = production(root)
    if wanted == STAGE and current:
        return current
    if wanted in known:
        return known[wanted]
    there = ", ".join(known) or "nothing was ever released"
    raise RegistryError(f"no version or stage {wanted!r}; there is: {there}")


def next_version(root: Path, bump: str) -> str:
    """The version after the highest tag, `bump` one of major, minor, patch; v0.1.0 if there is none."""
    found = [match[1] for tag in _tags(root) if (match := _VERSION.match(tag))]
    numbers = max(([int(part) for part in version[1:].split(".")] for version in found), default=[0, 0, 0])
    place = ("major", "minor", "patch").index(bump) if found else 1
    raised = [*numbers[:place], numbers[place] + 1, *([0] * (2 - place))]
    return "v" + ".".join(map(str, raised))


def signer_of(signers: str, key: Path) -> str:
    """The reviewer to whom `signers` (text of an allowed_signers file) gives this key; refused if nobody."""
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
    """The list of reviewers as of a commit."""
    text = file_at(root, commit, SIGNERS)
    if not text or not text.strip():
        raise RegistryError(
            f"{SIGNERS} is missing or empty in {commit[:12]}; list the reviewers' public keys in it"
        )
    return text


def _checked(root: Path, tag: str, number: int, before: str | None) -> Release:
    raw = git(root, "cat-file", "tag", tag)
    header, _, body = raw.partition("\n\n")
    fields = dict(line.split(" ", 1) for line in header.splitlines())
    if fields.get("tag") != tag:
        raise RegistryError(
            f"{tag}: its signed name is {fields.get('tag')}; the tag was filed under another name"
        )
    reviewer = _signed_by(root, tag, trusted_signers(root, before or fields["object"]))
    said = _said(tag, body)
    if said["reviewer"] != reviewer:
        raise RegistryError(f"{tag}: it names {said['reviewer']}, but {reviewer} signed it")
    when = int(fields["tagger"].rsplit(" ", 2)[1])
    return Release(tag=tag, commit=fields["object"], when=when, number=number, **said)


def _said(tag: str, body: str) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.JSONDecoder().raw_decode(body[body.index("\n{") + 1 :])[0]
        return {name: said[name] for name in ("version", "reviewer", "reason", "kind", "digests")}
    except (ValueError, KeyError):
        raise RegistryError(
            f"{tag}: its message holds no release; it was not made by `safeclip review`"
        ) from None


def _signed_by(root: Path, tag: str, signers: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=f".{SIGNERS}") as file:
        file.write(signers)
        file.flush()
        settings = ["-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={file.name}"]
        done = subprocess.run(
            ["git", *settings, "verify-tag", tag], cwd=root, capture_output=True, text=True, check=False
        )
    good = _GOOD.search(done.stderr)
    if done.returncode or not good:
        raise RegistryError(f"{tag}: not signed by a reviewer of the release before it; it does not count")
    return good[1]


def _tags(root: Path) -> list[str]:
    return git(root, "tag", "--list", f"{NAME}[@#]*").splitlines()
