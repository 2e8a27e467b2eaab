"""The flow `remote-stage`: run one stage for a run of `retrain` elsewhere, in this checkout.

Deployed once in the checkout of a pool's workers, under the pool's name. `placement` in params.yaml says
which stages go there.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from safeclip.core.errors import SafeclipError
from safeclip.pipeline.graph import project_root
from safeclip.pipeline.remote_stage import FLOW, StageRequest, run_remote
from safeclip.pipeline.stage_process import stop_all

ROOT = project_root(Path(__file__).parent)


@flow(name=FLOW, flow_run_name="{name}")
def remote_stage(name: str, commit: str, lock: str) -> State:
    """Run stage `name` of `commit` with the inputs of `lock`; its entry of dvc.lock is the run's artifact."""
    log = get_run_logger()
    try:
        entry = run_remote(ROOT, StageRequest(name, commit, lock), lambda line: log.info("%s", line))
    except SafeclipError as error:
        return Failed(message=str(error))
    finally:
        stop_all()
    Artifact(type="lock-entry", data=entry).create()
    return Completed(message=f"{name} of {commit[:12]}")
