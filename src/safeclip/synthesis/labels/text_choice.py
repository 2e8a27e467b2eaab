"""The text labeller that settings ask for; each one's code is loaded only where it is used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from safeclip.settings.label_safety import Judge, Ngrams, TextClassifier, TextLabelling
from safeclip.synthesis.labels.calibration import Calibration
from safeclip.synthesis.labels.interface import TextLabeller


def text_labeller(
    own: TextLabelling,
    ngrams: Callable[[], TextLabeller],
    calibration: Calibration[str],
    *,
    servers: ExitStack,
    threads: int,
) -> tuple[TextLabeller, np.ndarray]:
    """The text labeller of these settings and its scores of the calibration captions.

    `ngrams` fits the n-gram model, which alone needs the run's training captions. A server that a judge needs
    is started with `threads` (without a GPU) and stops when `servers` closes.
    """
    labeller = ngrams() if isinstance(own, Ngrams) else _language_labeller(own, servers, threads)
    return labeller, labeller.score(calibration.items)


def _language_labeller(own: TextClassifier | Judge, servers: ExitStack, threads: int) -> TextLabeller:
    if isinstance(own, TextClassifier):
        from safeclip.synthesis.labels.text_classifier import ClassifierTextLabeller

        return ClassifierTextLabeller(own.model, own.unsafe, own.batch_size)
    from safeclip.synthesis.labels.judge import JudgeTextLabeller
    from safeclip.synthesis.labels.judge_engines import open_judge

    return JudgeTextLabeller(servers.enter_context(open_judge(own, threads=threads)), own.max_lost)
