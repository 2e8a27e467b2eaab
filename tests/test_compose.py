"""compose.yaml, as far as it can be held to account without an engine."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from safeclip.cli import main
from tests.support.toy import PROJECT


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(YAML(typ="safe").load((PROJECT / "deploy/compose.yaml").read_text()))


def test_the_server_is_the_version_that_the_project_pins(compose: dict[str, Any]) -> None:
    pinned = re.search(r'"prefect==([\d.]+)"', (PROJECT / "pyproject.toml").read_text())
    assert pinned
    assert compose["services"]["prefect"]["image"].startswith(f"prefecthq/prefect:{pinned[1]}-")


def test_whoever_waits_waits_for_a_service_that_tells_its_health(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", name
            assert "healthcheck" in services[needed]


def test_nothing_listens_beyond_this_machine_and_no_password_is_given(compose: dict[str, Any]) -> None:
    text = (PROJECT / "deploy/compose.yaml").read_text()
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "${POSTGRES_PASSWORD:?" in text


def test_the_commands_in_it_exist(compose: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("serve", "registry"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
    assert re.search(r"^setup:", (PROJECT / "Makefile").read_text(), re.MULTILINE)
