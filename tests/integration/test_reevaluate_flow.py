"""The weekly look at production: a deployed run measures it for real, and tells once it is surely worse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safeclip.release.approval import ask, sign
from tests.integration.conftest import PrefectServer, Webhook, deploy, order, runs_of, work
from tests.release.project import Project, make_project
from tests.serving.conftest import write_adapter
from tests.support.toy import PROJECT

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]
HARM = "retrieval.t2i.unsafe.harmful_top1"
RELEASED, FRESH, WORSE = 1, 5, 6  # seeds


@pytest.fixture
def released(tmp_path: Path, prefect_server: PrefectServer, webhook: Webhook) -> Project:
    """A project with the picture book's base encoder, whose adapter is in production, and its deployments."""
    data = PROJECT / "data"
    write_adapter(tmp_path / "made" / "adapter.safetensors", data / "base_encoder")
    project = make_project(
        tmp_path,
        weights=(tmp_path / "made" / "adapter.safetensors").read_bytes(),
        data={"path": str(data)},
        registry={"webhook": webhook.url},
        evaluate={"bootstrap": 100},
        reevaluate={"scenes": 20},
        red_team={"attacks": [{"kind": "jpeg", "quality": 25}, {"kind": "leetspeak"}]},
    )
    sign(project.registry, ask(project.registry), project.key("alice"), "good numbers")
    deploy(project, prefect_server)
    return project


def test_production_is_measured_on_fresh_scenes_and_told_of_once_it_is_worse(
    released: Project, prefect_server: PrefectServer, webhook: Webhook
) -> None:
    webhook.heard.clear()
    order(prefect_server, "weekly", seed=FRESH)
    log = work(released, prefect_server)
    (ended,) = runs_of(prefect_server, "reevaluate")
    assert ended["state"]["type"] == "COMPLETED", log
    assert ended["state"]["message"] == f"v0.1.0 with seed {FRESH}: as at its release"
    assert webhook.heard == []
    kept = released.root / "registry/reevaluations/v0.1.0"
    assert {path.stem for path in kept.iterdir()} == {str(RELEASED), str(FRESH)}
    figures = json.loads((kept / f"{FRESH}.json").read_text())
    assert {name.split(".")[0] for name in figures} == {"retrieval", "red_team"}
    assert 0 < figures[HARM]["n"] <= 20

    at_release = json.loads((kept / f"{RELEASED}.json").read_text())
    (kept / f"{RELEASED}.json").write_text(json.dumps(at_release | {HARM: sharp(0.1)}))
    (kept / f"{WORSE}.json").write_text(json.dumps(figures | {HARM: sharp(0.9)}))
    order(prefect_server, "weekly", seed=WORSE)
    log = work(released, prefect_server)
    ended = runs_of(prefect_server, "reevaluate")[0]
    assert (ended["state"]["type"], ended["state"]["name"]) == ("FAILED", "Worse"), log
    (told,) = webhook.heard
    assert (told["event"], told["version"], told["seed"]) == ("production_worse", "v0.1.0", WORSE)
    assert told["why"] == f"{HARM}: 0.100 at release, 0.900 now WORSE"


def sharp(share: float) -> dict[str, float]:
    """A figure with a narrow interval."""
    return {"n": 2000, "estimate": share, "low": share - 0.01, "high": share + 0.01}
