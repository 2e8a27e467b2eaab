"""The flow `reevaluate`: production against scenes and attacks of a fresh seed; tells if it is worse now."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from safeclip.core.errors import SafeclipError
from safeclip.pipeline.graph import project_root
from safeclip.pipeline.reevaluate import reevaluate as measure_again
from safeclip.release.approval import ReleaseRegistry, notify

ROOT = project_root(Path(__file__).parent)
WORSE = "Worse"


@flow(name="reevaluate")
def reevaluate(seed: int | None = None) -> State:
    """Failed, named Worse, if a figure surely fell since the release; `seed`: this week's if not given."""
    log = get_run_logger()
    try:
        registry = ReleaseRegistry.of(ROOT)
        webhook = registry.settings.registry.webhook
        found = measure_again(
            registry, this_week() if seed is None else seed, lambda line: log.info("%s", line)
        )
    except SafeclipError as error:
        return Failed(message=str(error))
    if found is None:
        return Completed(message="nothing is in production")
    lines = found.lines()
    create_markdown_artifact("\n".join(f"- {line}" for line in lines), key="reevaluation")
    if found.worse:
        why = "; ".join(line for line in lines if line.endswith("WORSE"))
        notify(webhook, "production_worse", version=found.version, seed=found.seed, why=why)
        return Failed(name=WORSE, message=f"{found.version} with seed {found.seed}: {why}")
    return Completed(message=f"{found.version} with seed {found.seed}: as at its release")


def this_week() -> int:
    """Year and ISO week, 202647: another seed every week, and whoever repeats it gets the same figures."""
    year, week, _ = datetime.now(UTC).isocalendar()
    return year * 100 + week


if __name__ == "__main__":
    reevaluate()
