"""Stage tune_rewriter: fine-tune the rewriter on the curated pairs; the adapter is the output."""

from __future__ import annotations

from pathlib import Path

from safeclip.guard import load_guard
from safeclip.settings import Settings
from safeclip.stages.stage import main, output
from safeclip.synthesis.pairs import load_pairs
from safeclip.synthesis.rewriter import losses, save_rewriter, tune
from safeclip.synthesis.smollm import model_folder
from safeclip.taxonomy import load_taxonomy


def tune_rewriter(settings: Settings) -> None:
    """data/curated_pairs.jsonl -> results/tune_rewriter/{adapter/, loss.csv}."""
    data, own = Path(settings.data.path), settings.tune_rewriter
    guard = load_guard()
    pairs = load_pairs(data / "curated_pairs.jsonl", guard, load_taxonomy(data / "taxonomy.yaml"))
    folder = model_folder(own.model)
    print(f"tune_rewriter: {own.model}, {len(pairs)} pairs, {own.epochs} epochs", flush=True)
    trainer = tune(folder, pairs, own, seed=settings.seed)
    steps = losses(trainer)
    print(f"tune_rewriter: loss {steps[0][1]:.2f} -> {steps[-1][1]:.2f} in {len(steps)} steps", flush=True)
    with output("tune_rewriter") as out:
        save_rewriter(trainer, own.model, out)


if __name__ == "__main__":
    main(tune_rewriter)
