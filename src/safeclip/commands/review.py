"""`safeclip review`: what waits for a decision, and the decision."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from safeclip.commands.subcommands import Commands, adder
from safeclip.core.errors import RegistryError

if TYPE_CHECKING:
    from safeclip.release.approval import ReleaseRegistry
    from safeclip.release.reviews import Review


def review(options: argparse.Namespace) -> int:
    """List the candidates that were put forward and what became of them."""
    from safeclip.release.approval import describe_review
    from safeclip.release.reviews import all_reviews

    lines = [describe_review(waiting, datetime.now(UTC)) for waiting in all_reviews(open_registry().store)]
    print("\n".join(lines) or "nothing was ever put forward; `safeclip review ask` does, after a passed gate")
    return 0


def review_ask(options: argparse.Namespace) -> int:
    """Freeze the candidate of the last run and ask for a decision about it."""
    from safeclip.release.approval import ask

    candidate = ask(open_registry()).candidate.id
    print(f"candidate {candidate} waits; read results/report/index.html, then")
    print(f"  safeclip review approve {candidate} --reason '...' --key ~/.ssh/id_ed25519")
    print(f"  safeclip review reject  {candidate} --reason '...'")
    return 0


def review_show(options: argparse.Namespace) -> int:
    """The candidate's digests, its verdict computed again, and how its rules differ from production's."""
    from safeclip.gate.verdict import decide, read_evidence, rule_lines
    from safeclip.release.approval import checked, describe_review, rule_differences
    from safeclip.settings import load_settings

    registry = open_registry()
    chosen = _find(registry, options.candidate)
    print(describe_review(chosen, datetime.now(UTC)))
    print("\n".join(f"{name:9} {digest}" for name, digest in sorted(chosen.candidate.digests.items())))
    with checked(registry, chosen) as folder:
        settings = load_settings(folder / "params.yaml")
        print("\n".join(rule_lines(decide(read_evidence(folder), settings.gate, settings.seed))))
        for entry in rule_differences(registry, folder):
            print(f"{'LOOSENED' if entry.loosened else 'changed '}  {entry.id}: {entry.what}")
    return 0


def review_approve(options: argparse.Namespace) -> int:
    """Approve with a reviewer's key, which promotes; without one the approval waits for the signature."""
    from safeclip.release.approval import record_answer, sign

    registry = open_registry()
    chosen = _find(registry, options.candidate)
    key = options.key or signing_key(registry.root)
    if key is None:
        chosen = record_answer(registry, chosen, True, _who(options), options.reason)
        print(
            f"recorded; a reviewer's key promotes it: safeclip review sign {chosen.candidate.id} --key FILE"
        )
        return 0
    reason = options.reason or chosen.reason or ""
    release = sign(registry, chosen, key, reason, options.bump, options.accept_loosened)
    print(f"safeclip {release.version} is in production, approved by {release.reviewer}")
    return 0


def review_sign(options: argparse.Namespace) -> int:
    """Sign what was approved without a key (in the Prefect UI, say), which promotes it."""
    if options.key is None and signing_key(open_registry().root) is None:
        raise RegistryError("name a reviewer's private SSH key with --key, or set git's user.signingkey")
    return review_approve(options)


def review_reject(options: argparse.Namespace) -> int:
    """Reject a candidate; the reason is kept."""
    from safeclip.release.approval import record_answer

    registry = open_registry()
    chosen = record_answer(registry, _find(registry, options.candidate), False, _who(options), options.reason)
    print(f"candidate {chosen.candidate.id} is rejected")
    return 0


def open_registry() -> ReleaseRegistry:
    """The registry of the project around the current folder."""
    from safeclip.pipeline.graph import project_root
    from safeclip.release.approval import ReleaseRegistry

    root = project_root()
    os.chdir(root)
    return ReleaseRegistry.of(root)


def _find(registry: ReleaseRegistry, name: str) -> Review:
    from safeclip.release.reviews import find

    chosen = find(registry.store, name)
    if chosen is None:
        raise RegistryError(f"no candidate {name!r} was put forward; `safeclip review` lists them")
    return chosen


def _who(options: argparse.Namespace) -> str:
    from safeclip.release.reviews import starter

    return str(options.reviewer or starter())


def signing_key(root: Path) -> Path | None:
    """git's own signing key, if it is an SSH key file; the name of its public half serves too."""
    from safeclip.release.git import setting

    name = setting(root, "user.signingkey")
    path = Path(name.removesuffix(".pub")).expanduser() if name else None
    return path if path and path.is_file() else None


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `review` with its actions."""
    group = adder(commands)(review, "approve or reject what passed the gate", "safeclip review")
    sub = adder(group.add_subparsers(metavar="ACTION"), "review_")
    sub(review_ask, "freeze the last run's candidate and ask", "safeclip review ask")
    for command, summary, example in (
        (review_show, "what a decision is about", "safeclip review show 1a2b3c"),
        (
            review_approve,
            "approve; with a key also promote",
            "safeclip review approve 1a2b3c --reason ok",
        ),
        (review_reject, "reject", "safeclip review reject 1a2b3c --reason 'zero-shot is too low'"),
        (
            review_sign,
            "promote what was approved",
            "safeclip review sign 1a2b3c --key ~/.ssh/id_ed25519",
        ),
    ):
        one = sub(command, summary, example)
        one.add_argument("candidate", metavar="CANDIDATE", help="the first digits of its id")
        if command is review_show:
            continue
        one.add_argument("--reason", default="", help="kept with the release")
        one.add_argument("--as", dest="reviewer", metavar="NAME", help="who answers (without a key)")
        if command is review_reject:
            continue
        one.add_argument(
            "--key", type=Path, help="the reviewer's private SSH key (default: git's signing key)"
        )
        one.add_argument("--bump", choices=("major", "minor", "patch"), default="minor", help="%(default)s")
        one.add_argument(
            "--accept-loosened", action="store_true", help="yes to rules looser than production's"
        )
