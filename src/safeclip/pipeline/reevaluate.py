"""Production again, on scenes and attacks of a fresh seed: is it still as good as it was at its release?

The stages `evaluate` and `red_team` run with the release's adapter and params in a folder of their own, on
scenes that nothing was ever trained or tuned on. The same with the release's own seed is what it was at
release; it is measured once a version. A figure is worse if the lower end of the interval of its difference
(MOVER: Zou and Donner, Statistics in Medicine 27, 2008, from the two figures' own intervals) is above the
margin. Figures are kept in the store under reevaluations/VERSION/SEED.json.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from safeclip.core.artifacts import PRODUCTION
from safeclip.core.errors import PipelineError, RegistryError
from safeclip.core.files import write_text
from safeclip.core.parts import make_part
from safeclip.core.records import OUTCOMES, read_table
from safeclip.metrics.intervals import Resampling
from safeclip.metrics.outcomes import measured
from safeclip.pipeline.checkout import override_values
from safeclip.release.approval import ReleaseRegistry
from safeclip.release.git import file_at
from safeclip.release.releases import Release, production
from safeclip.settings import load_settings

STAGES = ("evaluate", "red_team")
HARM = (".unsafe.harmful_top1", ".success")
"""Ends of the names of figures that are worse when higher."""
UTILITY = (".safe.r1",)
"""And of those that are worse when lower."""
NOT_ASSIGNED = '{"assigned": false, "version": null, "digests": {}}\n'


class Figure(BaseModel):
    """A share with its interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    estimate: float
    low: float
    high: float


class Figures(RootModel[dict[str, Figure]]):
    """By metric."""


@dataclass(frozen=True)
class FigureChange:
    """A figure at release and now; `at_least` is how much worse it surely is, in the direction of worse."""

    metric: str
    then: Figure
    now: Figure
    at_least: float


@dataclass(frozen=True)
class Reevaluation:
    """What was found about a version; `worse` are the changes above the margin."""

    version: str
    seed: int
    changes: list[FigureChange]
    worse: list[FigureChange]

    def lines(self) -> list[str]:
        """A line a figure, the worst change first."""
        return [
            f"{change.metric}: {change.then.estimate:.3f} at release, {change.now.estimate:.3f} now"
            + (" WORSE" if change in self.worse else "")
            for change in sorted(self.changes, key=lambda change: -change.at_least)
        ]


Measure = Callable[[ReleaseRegistry, Release, int, Callable[[str], None]], Figures]


def reevaluate(
    registry: ReleaseRegistry, seed: int, log: Callable[[str], None], measure: Measure | None = None
) -> Reevaluation | None:
    """Measure production with `seed`; None if nothing is in production."""
    release = production(registry.root)
    if release is None:
        return None
    then, now = (
        _known_or_measured(registry, release, one, log, measure or run_stages)
        for one in (_settings_seed(registry.root, release), seed)
    )
    changes = [
        FigureChange(metric, then.root[metric], figure, _surely_worse(metric, then.root[metric], figure))
        for metric, figure in sorted(now.root.items())
        if metric in then.root
    ]
    margin = registry.settings.reevaluate.margin
    return Reevaluation(release.version, seed, changes, [one for one in changes if one.at_least > margin])


def run_stages(registry: ReleaseRegistry, release: Release, seed: int, log: Callable[[str], None]) -> Figures:
    """The figures of a release with a seed, from the stages themselves in a temporary folder."""
    settings = registry.settings
    if settings.reevaluate.scenes_from is None:
        raise PipelineError("reevaluate: nothing makes fresh scenes; name a part in `reevaluate.scenes_from`")
    with tempfile.TemporaryDirectory(prefix="safeclip-reevaluate-") as scratch:
        folder = Path(scratch)
        _lay_out(registry, release, seed, folder, settings.data.path)
        results = folder / "results"
        dataset, truth = results / "validate_data/dataset", results / "render_images/truth.parquet"
        make_part(settings.reevaluate.scenes_from, settings.reevaluate.scenes, seed, dataset, truth)
        for stage in STAGES:
            _run(folder, stage, log)
        found = {
            metric: Figure.model_validate(one.interval("candidate", Resampling(seed)).as_dict())
            for stage in STAGES
            for metric, one in measured(read_table(results / stage / "outcomes.parquet", OUTCOMES)).items()
            if not metric.startswith("categories.") and metric.endswith(HARM + UTILITY)
        }
    return Figures(found)


def _lay_out(registry: ReleaseRegistry, release: Release, seed: int, folder: Path, data: str) -> None:
    """A project in which the release is the candidate: its params and adapter, this checkout's data."""
    params = folder / "params.yaml"
    params.write_text(_params(registry.root, release), encoding="utf-8")
    source = (registry.root / data).resolve()
    override_values(params, {"seed": seed, "data": {"path": str(source)}})
    write_text(folder / PRODUCTION, NOT_ASSIGNED)
    digest = release.digests["adapter"]
    for name in ("finetune", "validate_data/dataset", "render_images"):
        (folder / "results" / name).mkdir(parents=True)
    registry.store.get(
        f"adapters/{digest}.safetensors", folder / "results/finetune/adapter.safetensors", digest
    )


def _run(folder: Path, stage: str, log: Callable[[str], None]) -> None:
    command = [sys.executable, "-m", f"safeclip.stages.{stage}"]
    done = subprocess.run(
        command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    for line in done.stdout.splitlines():
        log(line)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["failed"])[-1]
        raise PipelineError(f"reevaluate: {stage}: {last.removeprefix('error: ')}")


def _known_or_measured(
    registry: ReleaseRegistry, release: Release, seed: int, log: Callable[[str], None], measure: Measure
) -> Figures:
    key = f"reevaluations/{release.version}/{seed}.json"
    if (raw := registry.store.read_json(key)) is not None:
        try:
            return Figures.model_validate(raw)
        except ValidationError:
            raise RegistryError(f"{key}: not the figures of a re-evaluation; remove it") from None
    log(f"{release.version} on scenes and attacks of seed {seed}")
    found = measure(registry, release, seed, log)
    registry.store.write_json(key, found.model_dump())
    return found


def _surely_worse(metric: str, then: Figure, now: Figure) -> float:
    worse, better = (now, then) if metric.endswith(HARM) else (then, now)
    reach = math.hypot(worse.estimate - worse.low, better.high - better.estimate)
    return worse.estimate - better.estimate - reach


def _params(root: Path, release: Release) -> str:
    text = file_at(root, release.commit, "params.yaml")
    if text is None:
        raise RegistryError(f"{release.version}: its commit has no params.yaml")
    return text


def _settings_seed(root: Path, release: Release) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "params.yaml"
        path.write_text(_params(root, release), encoding="utf-8")
        return load_settings(path).seed
