"""From a passed gate to production and back: what is signed counts, everything else is refused."""

from __future__ import annotations

import json
import os
from datetime import timedelta

import gto.api
import pytest

from safeclip.core.errors import RegistryError, SafeclipError
from safeclip.pipeline.checkout import override_params
from safeclip.release import promotion
from safeclip.release.approval import ask, record_answer, sign
from safeclip.release.promotion import Decision, roll_back, sync_from_tags
from safeclip.release.releases import assignments, production, pull
from tests.release.project import Project, promoted, put_forward


def test_a_signed_approval_puts_the_candidate_into_production(project: Project) -> None:
    release = promoted(project)
    assert (release.version, release.reviewer) == ("v0.1.0", "alice@example.org")
    record = json.loads((project.root / "release/production.json").read_text())
    assert record["version"] == "v0.1.0"
    assert (project.root / record["adapter"]).read_text() == "w1"
    index = json.loads((project.root / "registry/index.json").read_text())
    assert index["stages"] == {"prod": "v0.1.0"}
    assert (project.root / "registry" / index["versions"]["v0.1.0"]["bento"]).read_text() == "bento of w1"


def test_the_tags_are_gtos_own(project: Project) -> None:
    promoted(project)
    promoted(project, harm=0.15, weights="w2")
    (shown,) = [row for row in gto.api.show(str(project.root), "safeclip@greatest")]
    assert shown["version"] == "v0.2.0"
    staged = gto.api.show(str(project.root), "safeclip#prod")
    assert [row["version"] for row in staged] == ["v0.2.0"]


def test_git_itself_finds_the_signature_good(project: Project) -> None:
    release = promoted(project)
    signers = f"gpg.ssh.allowedSignersFile={project.root / 'allowed_signers'}"
    told = project.do("git", "-c", "gpg.format=ssh", "-c", signers, "verify-tag", release.tag).stderr
    assert 'Good "git" signature for alice@example.org' in told


def test_the_checkout_and_its_branch_are_left_alone(project: Project) -> None:
    before = project.do("git", "log", "--format=%H", "main").stdout
    promoted(project)
    assert project.do("git", "log", "--format=%H", "main").stdout == before
    assert project.do("git", "status", "--porcelain").stdout == " M release/production.json\n"


def test_asking_twice_about_the_same_candidate_is_one_request(project: Project) -> None:
    assert put_forward(project) == put_forward(project)


def test_an_approval_without_a_key_changes_nothing_until_it_is_signed(project: Project) -> None:
    review = record_answer(project.registry, put_forward(project), True, "carol", "looks good")
    assert review.state == "approved"
    assert production(project.root) is None
    release = sign(project.registry, review, project.key("bob"), review.reason or "")
    assert release.reviewer == "bob@example.org"


def test_a_rejected_candidate_cannot_be_approved_afterwards(project: Project) -> None:
    review = record_answer(project.registry, put_forward(project), False, "alice", "zero-shot is too low")
    with pytest.raises(RegistryError, match=r"was rejected by alice: zero-shot is too low"):
        sign(project.registry, review, project.key("alice"), "no, it is good")


def test_an_unanswered_request_expires_and_says_so(project: Project) -> None:
    review = put_forward(project)
    late = review.model_copy(update={"expires": review.asked - timedelta(seconds=1)})
    with pytest.raises(RegistryError, match="nobody answered until"):
        sign(project.registry, late, project.key("alice"), "it passed")


def test_an_approval_gives_its_reason(project: Project) -> None:
    with pytest.raises(RegistryError, match="say why"):
        sign(project.registry, put_forward(project), project.key("alice"), "  ")


def test_whoever_started_the_run_may_be_barred(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    override_params(project.root, {"registry": {"starter_may_approve": False}})
    monkeypatch.setenv("SAFECLIP_STARTED_BY", "alice@example.org")
    review = put_forward(project)
    with pytest.raises(RegistryError, match=r"alice@example\.org started this run"):
        sign(project.registry, review, project.key("alice"), "my own work")
    assert sign(project.registry, review, project.key("bob"), "it passed").version == "v0.1.0"


# --- ways in for a candidate that must not get in


@pytest.mark.parametrize("last_step", ["commit_with", "move_refs", "sync_from_tags"])
def test_a_promotion_killed_anywhere_is_completed_or_never_was(
    project: Project, monkeypatch: pytest.MonkeyPatch, last_step: str
) -> None:
    review = put_forward(project)

    def killed(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promotion, last_step, killed)
        with pytest.raises(KeyboardInterrupt):
            sign(project.registry, review, project.key("alice"), "it passed")
    assert len(assignments(project.root)) == (1 if last_step == "sync_from_tags" else 0)
    sign(project.registry, review, project.key("alice"), "it passed")
    assert [release.version for release in assignments(project.root)] == ["v0.1.0"]
    assert json.loads((project.root / "release/production.json").read_text())["version"] == "v0.1.0"


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.candidate(0.18, "w0")
    slow = put_forward(project)
    project.candidate(0.2, "w1")
    quick = put_forward(project)
    publish = promotion._publish

    def overtaken(root: object, new: object, old: object, remote: object) -> None:
        monkeypatch.setattr(promotion, "_publish", publish)
        sign(project.registry, quick, project.key("bob"), "I was first")
        publish(root, new, old, remote)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion, "_publish", overtaken)
    with pytest.raises(RegistryError, match="another release was made meanwhile"):
        sign(project.registry, slow, project.key("alice"), "it passed")
    assert [release.reviewer for release in assignments(project.root)] == ["bob@example.org"]


def test_a_remote_that_refuses_leaves_nothing_behind(project: Project) -> None:
    override_params(project.root, {"registry": {"git_remote": "nowhere"}})
    with pytest.raises(RegistryError, match="nowhere did not take the release, nothing was changed"):
        sign(project.registry, put_forward(project), project.key("alice"), "it passed")
    assert production(project.root) is None
    assert not project.do("git", "tag").stdout


def test_a_rollback_is_a_release_like_any_other(project: Project) -> None:
    promoted(project)
    promoted(project, harm=0.15, weights="w2")
    registry = project.registry
    release = roll_back(project.root, registry.store, "v0.1.0", Decision("complaints", project.key("bob")))
    assert (release.number, release.version, release.reviewer) == (3, "v0.1.0", "bob@example.org")
    assert json.loads((project.root / "release/production.json").read_text())["version"] == "v0.1.0"
    assert (project.root / "production/adapter.safetensors").read_text() == "w1"
    with pytest.raises(RegistryError, match="in production already"):
        roll_back(project.root, registry.store, "v0.1.0", Decision("again", project.key("bob")))
    with pytest.raises(RegistryError, match=r"no version or stage 'v7'; there is: v0.1.0, v0.2.0"):
        roll_back(project.root, registry.store, "v7", Decision("again", project.key("bob")))


def test_pull_refuses_a_bento_that_was_changed(project: Project) -> None:
    release = promoted(project)
    store = project.registry.store
    assert pull(store, release, project.root / "bentos").read_text() == "bento of w1"
    stored = project.root / f"registry/bentos/{release.digests['bento']}.tar"
    stored.chmod(0o600)
    stored.write_text("bento of x1")
    with pytest.raises(RegistryError, match="was changed"):
        pull(store, release, project.root / "elsewhere")
    assert not list((project.root / "elsewhere").iterdir())


def test_a_clone_learns_what_is_in_production_from_the_tags(project: Project) -> None:
    promoted(project)
    os.remove(project.root / "registry/index.json")
    project.do("git", "checkout", "-q", "release/production.json")
    sync_from_tags(project.root, project.registry.store)
    assert json.loads((project.root / "release/production.json").read_text())["version"] == "v0.1.0"
    assert (project.root / "registry/index.json").is_file()


def test_an_unreachable_registry_is_one_line(project: Project) -> None:
    override_params(project.root, {"registry": {"url": "nonsense://x"}})
    with pytest.raises(SafeclipError, match=r"registry.url = 'nonsense://x'"):
        ask(project.registry)
