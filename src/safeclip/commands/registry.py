"""`safeclip registry`: what was released, by whom and why; pull, verify, roll back."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from safeclip.commands.review import open_registry, signing_key
from safeclip.commands.subcommands import Commands, adder
from safeclip.core.errors import RegistryError


def registry(options: argparse.Namespace) -> int:
    """The history of production, first to last: version, when, who, why."""
    from safeclip.release.releases import assignments

    history = assignments(open_registry().root)
    for release in history:
        when = datetime.fromtimestamp(release.when, UTC)
        mark = "*" if release is history[-1] else " "
        what = f"{release.kind:12}  {release.reviewer}: {release.reason}"
        print(f"{mark} {release.version:9} {when:%Y-%m-%d %H:%M} UTC  {what}")
    if not history:
        print("nothing was ever in production; `safeclip review` is the way there")
    return 0


def registry_list(options: argparse.Namespace) -> int:
    """The history of production, first to last: version, when, who, why."""
    return registry(options)


def registry_show(options: argparse.Namespace) -> int:
    """One version or stage: commit, digests, reviewer and reason."""
    from safeclip.release.releases import find_release

    release = find_release(open_registry().root, options.version)
    print(f"{release.version}  {release.tag}  commit {release.commit}")
    print(f"{release.reviewer}: {release.reason}")
    print("\n".join(f"{name:10} {digest}" for name, digest in sorted(release.digests.items())))
    return 0


def registry_pull(options: argparse.Namespace) -> int:
    """Download a version's Bento, signature and digest checked; into the local Bento store with --import."""
    from safeclip.release.releases import find_release, pull

    project = open_registry()
    target = pull(project.store, find_release(project.root, options.version), options.out)
    print(target)
    if options.into_store:
        import bentoml

        print(bentoml.import_bento(str(target)).tag)
    return 0


def registry_verify(options: argparse.Namespace) -> int:
    """Check everything a version stands on again: signature, digests, verdict, served vectors."""
    from safeclip.release.releases import find_release, verify

    project = open_registry()
    release = find_release(project.root, options.version)
    for line in verify(project.root, project.store, release, project.fetch):
        print(f"ok  {line}", flush=True)
    print(f"safeclip {release.version} is whole")
    return 0


def registry_rollback(options: argparse.Namespace) -> int:
    """Put a former version back into production; signed and recorded like a promotion."""
    from safeclip.release.approval import notify
    from safeclip.release.promotion import Decision, roll_back

    project = open_registry()
    key = options.key or signing_key(project.root)
    if key is None:
        raise RegistryError("a rollback is signed like a promotion: name a reviewer's key with --key")
    settings = project.settings.registry
    decision = Decision(options.reason, key)
    release = roll_back(project.root, project.store, options.version, decision, settings.git_remote)
    notify(settings.webhook, "rolled_back", version=release.version, reviewer=release.reviewer)
    print(f"safeclip {release.version} is in production again")
    return 0


def registry_sync(options: argparse.Namespace) -> int:
    """Make index, production.json and the adapter say what the signed tags say (after a clone or a kill)."""
    from safeclip.release.promotion import sync_from_tags
    from safeclip.release.releases import production

    project = open_registry()
    sync_from_tags(project.root, project.store)
    current = production(project.root)
    print(f"in production: {current.version}" if current else "nothing was ever in production")
    return 0


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `registry` with its actions."""
    group = adder(commands)(
        registry, "what is and was in production; pull, verify, roll back", "safeclip registry"
    )
    sub = adder(group.add_subparsers(metavar="ACTION"), "registry_")
    sub(registry_list, "the history of production", "safeclip registry list")
    sub(registry_sync, "complete what a kill left open", "safeclip registry sync")
    show = sub(registry_show, "a version's commit and digests", "safeclip registry show v0.1.0")
    pull = sub(registry_pull, "download a version's Bento", "safeclip registry pull prod --out bentos")
    verify = sub(registry_verify, "check all a version stands on", "safeclip registry verify prod")
    for one in (show, pull, verify):
        one.add_argument("version", metavar="VERSION", nargs="?", default="prod", help="v1.2.0, or prod")
    pull.add_argument("--out", type=Path, default=Path("bentos"), help="folder (default: %(default)s)")
    pull.add_argument("--import", dest="into_store", action="store_true", help="also into BentoML's store")
    example = "safeclip registry rollback v0.1.0 --reason 'complaints about v0.2.0' --key ~/.ssh/id_ed25519"
    back = sub(registry_rollback, "put a former version back", example)
    back.add_argument("version", metavar="VERSION", help="a version that was in production")
    back.add_argument("--reason", required=True, help="kept with the release")
    back.add_argument("--key", type=Path, help="the reviewer's private SSH key (default: git's signing key)")
