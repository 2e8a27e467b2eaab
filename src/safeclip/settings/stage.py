"""What every stage reads of params.yaml beside its own section."""

from __future__ import annotations

from pydantic import ConfigDict

from safeclip.settings.section import Count, Positive, Section


class Compute(Section):
    """How work is spread. `threads` is part of the result (sums change order), `workers` is not."""

    threads: Positive = 1  # torch threads a process
    workers: Positive = 2  # processes that share the micro-batches of synthesis


class Data(Section):
    """What enters: the folder that data.dvc versions, and how many rows of each split are used."""

    path: str = "data"
    train: Positive = 850
    val: Positive = 180
    test: Positive = 2230


class StageSettings(Section):
    """Base of a stage's settings: the stage adds its own section, the others are not looked at."""

    model_config = ConfigDict(extra="ignore")

    seed: Count = 2311
    compute: Compute = Compute()
    data: Data = Data()
