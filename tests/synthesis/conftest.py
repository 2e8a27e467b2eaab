"""Where the tests of this folder find a real vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers import make
from tests.support.toy import PROJECT


@pytest.fixture
def vllm_environment() -> Path:
    """The environment of `make vllm`, made if need be."""
    environment = PROJECT / ".venv-vllm"
    if not (environment / ".installed").exists():
        make("vllm")
    return environment
