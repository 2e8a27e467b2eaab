"""Ways around a reviewer: edited results, invented candidates, unsigned and foreign tags, loosened rules."""

from __future__ import annotations

import json

import pytest

from safeclip.core.errors import GateError, RegistryError
from safeclip.release import promotion, reviews
from safeclip.release.approval import ask, freeze, sign
from safeclip.release.git import git, object_of
from safeclip.release.releases import find_release, production
from tests.release.project import Project, promoted, put_forward


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


def forge(project: Project, reviewer: str, key: str) -> None:
    """A second production tag that names `reviewer`, signed with the key of `key`."""
    first = promoted(project)
    said = {"kind": "promote", "version": "v9.0.0", "reviewer": reviewer, "reason": "x", "digests": {}}
    tag = promotion._tag(project.root, "safeclip#prod#2", first.commit, said, project.key(key))
    git(project.root, "update-ref", "refs/tags/safeclip#prod#2", tag)


def test_a_tag_of_an_unknown_key_does_not_count(project: Project) -> None:
    forge(project, "alice@example.org", "mallory")
    with pytest.raises(RegistryError, match="not signed by a reviewer"):
        production(project.root)


def test_an_old_tag_under_a_new_name_does_not_count(project: Project) -> None:
    promoted(project)
    promoted(project, harm=0.15, weights="w2")
    old = object_of(project.root, "refs/tags/safeclip#prod#1")
    git(project.root, "update-ref", "refs/tags/safeclip#prod#3", str(old))
    with pytest.raises(RegistryError, match="filed under another name"):
        production(project.root)


def test_a_reviewer_cannot_sign_in_anothers_name(project: Project) -> None:
    forge(project, "bob@example.org", "alice")
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
