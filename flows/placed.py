"""The flow `placed`: one stage for a run of `retrain` elsewhere, in the checkout of this pool's workers.

Deployed once in that checkout, under the pool's name; `retrain` sends what `placement` in params.yaml says.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from safeclip.core.errors import SafeclipError
from safeclip.pipeline.graph import project_root
from safeclip.pipeline.placement import Order, carry_out
from safeclip.pipeline.stage_process import stop_all

ROOT = project_root(Path(__file__).parent)
ENTRY = "lock-entry"


@flow(name="placed", flow_run_name="{name}")
def placed(name: str, commit: str, lock: str) -> State:
    """Run stage `name` of `commit` with the inputs of `lock`; its entry of dvc.lock is the run's artifact."""
    log = get_run_logger()
    try:
        entry = carry_out(ROOT, Order(name, commit, lock), lambda line: log.info("%s", line))
    except SafeclipError as error:
        return Failed(message=str(error))
    finally:
        stop_all()
    Artifact(type=ENTRY, data=entry).create()
    return Completed(message=f"{name} of {commit[:12]}")
