"""Stage tune_rewriter: fine-tune the rewriter on the curated pairs; the adapter is the output."""

from __future__ import annotations

from pathlib import Path

from safeclip.guard import load_guard
from safeclip.scratch import open_scratch
from safeclip.settings.stage import StageSettings
from safeclip.settings.tune_rewriter import TuneRewriter
from safeclip.stages.stage import main, output
from safeclip.synthesis.pairs import load_pairs
from safeclip.synthesis.rewriter import save_rewriter, tune
from safeclip.synthesis.smollm import model_folder
from safeclip.taxonomy import load_taxonomy


class Settings(StageSettings):
    tune_rewriter: TuneRewriter = TuneRewriter()


def tune_rewriter(settings: Settings) -> None:
    """data/curated_pairs.jsonl -> results/tune_rewriter/{adapter/, loss.csv}."""
    data, own = Path(settings.data.path), settings.tune_rewriter
    guard = load_guard()
    pairs = load_pairs(data / "curated_pairs.jsonl", guard, load_taxonomy(data / "taxonomy.yaml"))
    folder = model_folder(own.model)
    print(f"tune_rewriter: {own.model}, {len(pairs)} pairs, {own.epochs} epochs", flush=True)
    inputs = [data / "curated_pairs.jsonl", data / "taxonomy.yaml", Path(folder)]
    with open_scratch("tune_rewriter", settings, inputs) as scratch:
        tuned = tune(folder, pairs, own, seed=settings.seed, report=_report, scratch=scratch)
        print(f"tune_rewriter: loss {tuned.losses[0]:.2f} -> {tuned.losses[-1]:.2f}", flush=True)
        with output("tune_rewriter") as out:
            save_rewriter(tuned, own.model, out)


def _report(step: int, loss: float) -> None:
    if step == 1 or step % 10 == 0:
        print(f"tune_rewriter: step {step}, loss {loss:.2f}", flush=True)


if __name__ == "__main__":
    main(tune_rewriter, Settings)
