"""From a passed gate to production and back: what is signed counts, everything else is refused."""

from __future__ import annotations

import json
import os
from datetime import timedelta

import gto.api
import pytest

from safeclip.errors import GateError, RegistryError, SafeclipError
from safeclip.pipeline.release import ask, freeze, record_answer, sign
from safeclip.registry import promotion, reviews
from safeclip.registry.git import git, ref
from safeclip.registry.promotion import Decision, roll_back, settle
from safeclip.registry.releases import Release, assignments, find_release, production
from safeclip.registry.reviews import Review
from safeclip.registry.verify import pull
from tests.registry.project import Project


def put_forward(project: Project) -> Review:
    return ask(project.registry)


def promoted(project: Project, by: str = "alice", harm: float = 0.2, weights: str = "w1") -> Release:
    if weights != "w1":
        project.candidate(harm, weights)
    return sign(project.registry, put_forward(project), project.key(by), "it passed")


def test_a_signed_approval_puts_the_candidate_into_production(project: Project) -> None:
    release = promoted(project)
    assert (release.version, release.reviewer) == ("v0.1.0", "alice@example.org")
    record = json.loads((project.root / "production.json").read_text())
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
    assert project.do("git", "status", "--porcelain").stdout == " M production.json\n"


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
    params = project.root / "params.yaml"
    params.write_text(params.read_text() + "registry: {starter_may_approve: false}\n")
    monkeypatch.setenv("SAFECLIP_STARTED_BY", "alice@example.org")
    review = put_forward(project)
    with pytest.raises(RegistryError, match=r"alice@example\.org started this run"):
        sign(project.registry, review, project.key("alice"), "my own work")
    assert sign(project.registry, review, project.key("bob"), "it passed").version == "v0.1.0"


# --- ways in for a candidate that must not get in


def test_a_failed_gate_has_nothing_to_approve(project: Project) -> None:
    project.candidate(harm=0.9)
    with pytest.raises(GateError, match="the gate did not pass"):
        ask(project.registry)


def test_a_failed_gate_whose_verdict_was_edited_is_found_out(project: Project) -> None:
    project.candidate(harm=0.9)
    path = project.root / "results/gate/verdict.json"
    verdict = json.loads(path.read_text())
    verdict["passed"] = True
    path.unlink()
    path.write_text(json.dumps(verdict))
    project.commit_outputs()
    with pytest.raises(GateError, match=r"the gate failed \(core_harmful_t2i, harmful_t2i\)"):
        freeze(project.registry)


def test_outputs_edited_after_the_run_are_not_put_forward(project: Project) -> None:
    metrics = project.root / "results/evaluate/metrics.json"
    text = metrics.read_text()
    metrics.unlink()
    metrics.write_text(text.replace("0.2", "0.1"))
    with pytest.raises(GateError, match="not up to date"):
        ask(project.registry)


@pytest.mark.parametrize("name", ["verdict", "adapter", "lock"])
def test_a_request_whose_digests_were_edited_is_refused(project: Project, name: str) -> None:
    review = put_forward(project)
    path = project.root / f"registry/reviews/{review.candidate.id}.json"
    record = json.loads(path.read_text())
    record["candidate"]["digests"][name] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(RegistryError, match="was edited"):
        reviews.find(project.registry.store, review.candidate.id)


def test_a_direct_call_with_an_invented_candidate_is_refused(project: Project) -> None:
    review = put_forward(project)
    forged = review.candidate.model_copy(update={"bento": "0" * 64})
    with pytest.raises(RegistryError, match="its record is missing or was changed"):
        sign(
            project.registry,
            review.model_copy(update={"candidate": forged}),
            project.key("alice"),
            "trust me",
        )
    assert production(project.root) is None


def test_a_key_that_is_not_a_reviewers_is_refused(project: Project) -> None:
    with pytest.raises(RegistryError, match="this key is not in allowed_signers"):
        sign(project.registry, put_forward(project), project.key("mallory"), "trust me")


def test_an_unsigned_tag_does_not_count(project: Project) -> None:
    promoted(project)
    commit = find_release(project.root, "prod").commit
    project.do("git", "tag", "-a", "safeclip#prod#2", commit, "-m", "mine\n\n{}")
    with pytest.raises(RegistryError, match=r"safeclip#prod#2: not signed by a reviewer"):
        production(project.root)


def test_a_tag_of_an_unknown_key_does_not_count(project: Project) -> None:
    first = promoted(project)
    said = {
        "kind": "promote",
        "version": "v9.0.0",
        "reviewer": "alice@example.org",
        "reason": "x",
        "digests": {},
    }
    tag = promotion._tag(project.root, "safeclip#prod#2", first.commit, said, project.key("mallory"))
    git(project.root, "update-ref", "refs/tags/safeclip#prod#2", tag)
    with pytest.raises(RegistryError, match="not signed by a reviewer"):
        production(project.root)


def test_an_old_tag_under_a_new_name_does_not_count(project: Project) -> None:
    promoted(project)
    promoted(project, harm=0.15, weights="w2")
    old = ref(project.root, "refs/tags/safeclip#prod#1")
    git(project.root, "update-ref", "refs/tags/safeclip#prod#3", str(old))
    with pytest.raises(RegistryError, match="filed under another name"):
        production(project.root)


def test_a_reviewer_cannot_sign_in_anothers_name(project: Project) -> None:
    first = promoted(project)
    said = {
        "kind": "promote",
        "version": "v2.0.0",
        "reviewer": "bob@example.org",
        "reason": "x",
        "digests": {},
    }
    tag = promotion._tag(project.root, "safeclip#prod#2", first.commit, said, project.key("alice"))
    git(project.root, "update-ref", "refs/tags/safeclip#prod#2", tag)
    with pytest.raises(RegistryError, match=r"it names bob@example.org, but alice@example.org signed it"):
        production(project.root)


def test_a_new_reviewer_counts_only_from_the_release_after(project: Project) -> None:
    promoted(project)
    signers = project.root / "allowed_signers"
    signers.write_text(signers.read_text() + f"mallory@example.org {project.key('mallory.pub').read_text()}")
    project.candidate(0.15, "w2")
    review = put_forward(project)
    with pytest.raises(RegistryError, match="this key is not in allowed_signers"):
        sign(project.registry, review, project.key("mallory"), "I added myself")
    sign(project.registry, review, project.key("alice"), "mallory may review from here on")
    assert promoted(project, by="mallory", harm=0.14, weights="w3").version == "v0.3.0"


def test_a_loosened_rule_needs_an_explicit_yes(project: Project) -> None:
    promoted(project)
    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("factor: 0.7", "factor: 0.8"))
    project.candidate(0.15, "w2")
    review = put_forward(project)
    with pytest.raises(RegistryError, match=r"loosened since production \(harmful_t2i: factor 0.7 -> 0.8\)"):
        sign(project.registry, review, project.key("alice"), "it passed")
    assert sign(project.registry, review, project.key("alice"), "meant so", accept_loosened=True)


def test_a_candidate_judged_against_older_production_is_refused(project: Project) -> None:
    project.candidate(0.18, "w0")
    stale = put_forward(project)
    project.candidate(0.2, "w1")
    sign(project.registry, put_forward(project), project.key("alice"), "first")
    with pytest.raises(RegistryError, match=r"judged against no production, now v0.1.0 is in production"):
        sign(project.registry, stale, project.key("bob"), "second")


# --- all or nothing, and back


@pytest.mark.parametrize("last_step", ["commit_with", "move_refs", "settle"])
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
    assert len(assignments(project.root)) == (1 if last_step == "settle" else 0)
    sign(project.registry, review, project.key("alice"), "it passed")
    assert [release.version for release in assignments(project.root)] == ["v0.1.0"]
    assert json.loads((project.root / "production.json").read_text())["version"] == "v0.1.0"


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
    params = project.root / "params.yaml"
    params.write_text(params.read_text() + "registry: {git_remote: nowhere}\n")
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
    assert json.loads((project.root / "production.json").read_text())["version"] == "v0.1.0"
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
    project.do("git", "checkout", "-q", "production.json")
    settle(project.root, project.registry.store)
    assert json.loads((project.root / "production.json").read_text())["version"] == "v0.1.0"
    assert (project.root / "registry/index.json").is_file()


def test_an_unreachable_registry_is_one_line(project: Project) -> None:
    params = project.root / "params.yaml"
    params.write_text(params.read_text() + "registry: {url: 'nonsense://x'}\n")
    with pytest.raises(SafeclipError, match=r"registry.url = 'nonsense://x'"):
        ask(project.registry)
