"""A deployed retrain that passes its gate: it asks, suspends without a process, is answered, and promotes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from safeclip.pipeline.checkout import override_params
from safeclip.release.releases import production
from safeclip.release.reviews import all_reviews
from tests.integration.conftest import PrefectServer, Webhook, deploy, order, runs_of, work
from tests.release.project import Project, make_project
from tests.support.toy import run, set_params

pytestmark = pytest.mark.servers


@pytest.fixture
def deployed(tmp_path: Path, prefect_server: PrefectServer, webhook: Webhook) -> Project:
    """The registry's test project with this checkout's flows, deployed to a process pool."""
    project = make_project(tmp_path, registry={"webhook": webhook.url})
    deploy(project, prefect_server)
    return project


def resume(server: PrefectServer, flow_run: str, **answer: object) -> str:
    """Answer a waiting run as the form does; what the server makes of it: ACCEPT or REJECT."""

    async def send() -> str:
        async with get_client() as client:
            result = await client.resume_flow_run(flow_run, run_input=answer)  # type: ignore[arg-type]
            return str(result.status.value)

    with temporary_settings({PREFECT_API_URL: server.url}):
        return asyncio.run(send())


def test_a_deployed_retrain_asks_waits_and_promotes(
    deployed: Project, prefect_server: PrefectServer, webhook: Webhook
) -> None:
    (deployed.root / "package.py").write_text((deployed.root / "package.py").read_text() + "\n")
    order(prefect_server, "nightly")
    log = work(deployed, prefect_server)
    (asked,) = all_reviews(deployed.registry.store)
    assert asked.state == "waiting", log
    assert [(one["event"], one["candidate"]) for one in webhook.heard] == [
        ("approval_wanted", asked.candidate.id)
    ]

    log = work(deployed, prefect_server)
    (waiting,) = runs_of(prefect_server, "review")
    assert waiting["state"]["type"] == "PAUSED", log
    assert production(deployed.root) is None

    assert resume(prefect_server, waiting["id"], approve=True, reviewer="alice@example.org") == "REJECT"
    whole = {"approve": True, "reviewer": "alice@example.org", "reason": "numbers are good"}
    assert resume(prefect_server, waiting["id"], **whole) == "ACCEPT"
    key = str(deployed.key("alice"))
    log = work(deployed, prefect_server, SAFECLIP_SIGNING_KEY=key)
    (ended,) = runs_of(prefect_server, "review")
    assert ended["state"]["name"] == "Promoted", log
    release = production(deployed.root)
    assert release is not None
    assert (release.version, release.reason) == ("v0.1.0", "numbers are good")
    told = {"event": "promoted", "project": "safeclip", "version": "v0.1.0", "reviewer": "alice@example.org"}
    assert webhook.heard[1:] == [told]


@pytest.mark.parametrize(
    ("params", "told", "why"),
    [
        ({"left": {"fails": True, "seconds": 0}}, "stage_failed", "input 7 is broken; mend it"),
        ({"gate": {"passes": False}}, "gate_failed", "the gate did not pass"),
    ],
)
def test_a_failed_run_is_told_and_nobody_is_asked(
    toy: Path, prefect_server: PrefectServer, webhook: Webhook, params: dict[str, Any], told: str, why: str
) -> None:
    set_params(toy, **params)
    override_params(toy, {"registry": {"webhook": webhook.url}})
    (toy / "allowed_signers").write_text("alice@example.org ssh-ed25519 AAAA\n")
    done = run(toy, "python", "flows/retrain.py", PREFECT_API_URL=prefect_server.url)
    assert done.returncode != 0
    assert webhook.events == [told], done.stderr
    assert why in webhook.heard[0]["why"]
