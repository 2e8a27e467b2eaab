"""The one place that switches the tools' usage reports off; `import safeclip` calls it first of all."""

from __future__ import annotations

import os

OFF = {
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",  # "1" is ignored
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",  # GTO
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "VLLM_NO_USAGE_STATS": "1",
}


def switch_off() -> None:
    """Set the switches for this process and its children; a value the user set already stays."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
