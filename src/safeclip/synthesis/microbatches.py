"""Micro-batches of rewriting, shared among processes, kept when done, picked up again after a kill.

The unit of work is the micro-batch: rows in order of id, `batch_size` at a time. Which process takes it and
how often the run was killed cannot change a byte, since floating point depends on the batch alone.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers

from safeclip.core.checkpoints import Scratch
from safeclip.core.errors import ModelError
from safeclip.core.processes import start_worker
from safeclip.settings import RewriteCaptions
from safeclip.synthesis.answers import RewriteOutcome
from safeclip.synthesis.engines import RewriteAnswer, Rewriter, RewriteRequest
from safeclip.synthesis.language_model import folder_digest

Batch = tuple[RewriteRequest, ...]
_HERE = Path(__file__).parent
_CODE = (
    "engines.py", "answers.py", "row_noise.py", "language_model.py", "chat.py",
    "vllm_server.py", "../core/guard.py", "../core/guard_terms.yaml",
)  # fmt: skip


@dataclass
class RewriteJob:
    """All that a worker needs, picklable: how to make the rewriter (once a process) and how to judge.

    A rewriter that `waits` for a server is shared by threads; one that computes gets a process a worker.
    """

    make_rewriter: Callable[[], Rewriter]
    judge: Callable[[RewriteRequest, RewriteAnswer], RewriteOutcome]
    threads: int
    folder: Path
    waits: bool = False
    _rewriter: Rewriter | None = field(default=None, repr=False)

    def run(self, index: int, batch: Batch) -> list[RewriteOutcome]:
        """Outcomes of one micro-batch, from its checkpoint if there is one; written before it returns."""
        kept = self._store.read(_piece(index))
        if kept is not None:
            return [RewriteOutcome(**row) for row in json.loads(kept)]
        if self._rewriter is None:
            torch.set_num_threads(self.threads)
            self._rewriter = self.make_rewriter()
        answers = self._rewriter.rewrite(batch)
        outcomes = [self.judge(request, answer) for request, answer in zip(batch, answers, strict=True)]
        self._store.write(_piece(index), json.dumps([asdict(outcome) for outcome in outcomes]).encode())
        return outcomes

    def is_done(self, index: int) -> bool:
        return self._store.has(_piece(index))

    @property
    def _store(self) -> Scratch:
        return Scratch("rewrite_captions", self.folder)


def _piece(index: int) -> str:
    return f"{index:05d}.json"


def answers_digest(folder: str, adapter: Path, settings: RewriteCaptions, *, seed: int, threads: int) -> str:
    """SHA-256 of all that decides an outcome, the request apart: weights, settings, seed, code, versions."""
    parts = [
        settings.model_dump_json(),
        f"seed {seed} threads {threads} torch {torch.__version__} transformers {transformers.__version__}",
        folder_digest(folder),
        folder_digest(adapter),
        *((_HERE / name).read_text(encoding="utf-8") for name in _CODE),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def checkpoint_folder(root: Path, digest: str, requests: Sequence[RewriteRequest]) -> Path:
    """Where the micro-batches of this job are kept: another job never finds them."""
    asked = json.dumps([asdict(request) for request in requests])
    return root / hashlib.sha256(f"{digest}\0{asked}".encode()).hexdigest()[:16]


def micro_batches(requests: Sequence[RewriteRequest], batch_size: int) -> list[Batch]:
    """Rows sorted by id, cut every `batch_size` rows; the last one may be shorter."""
    ordered = sorted(requests, key=lambda request: request.id)
    return [tuple(ordered[start : start + batch_size]) for start in range(0, len(ordered), batch_size)]


def rewrite_all(job: RewriteJob, batches: Sequence[Batch], workers: int) -> Iterator[list[RewriteOutcome]]:
    """The outcomes of every micro-batch in order, as they are ready; `workers` share what is not done yet."""
    job.folder.mkdir(parents=True, exist_ok=True)
    open_batches = sum(not job.is_done(index) for index in range(len(batches)))
    workers = min(workers, open_batches)
    if workers <= 1:
        yield from map(job.run, range(len(batches)), batches)
        return
    with _pool(job, workers) as pool:
        run = job.run if job.waits else _run_in_worker
        try:
            yield from pool.map(run, range(len(batches)), batches)
        except BrokenProcessPool:
            raise ModelError(
                "rewrite_captions: a worker died (out of memory?); lower `compute.workers` and run again, "
                "finished micro-batches are kept"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _pool(job: RewriteJob, workers: int) -> Executor:
    if job.waits:
        return ThreadPoolExecutor(workers)
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in mid-flight
    return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(job,))


_job: RewriteJob | None = None


def _start_worker(job: RewriteJob) -> None:
    global _job
    _job = job
    start_worker()


def _run_in_worker(index: int, batch: Batch) -> list[RewriteOutcome]:
    assert _job is not None
    return _job.run(index, batch)
