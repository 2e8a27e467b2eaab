"""Stage tune_rewriter: fine-tune the rewriter on the curated pairs, then on preferences if params say so."""

from __future__ import annotations

from pathlib import Path

import torch

from safeclip.core.checkpoints import Scratch, open_scratch
from safeclip.core.device import default_device, resolve_setting
from safeclip.core.files import write_json
from safeclip.core.guard import load_guard
from safeclip.core.stage import main, output
from safeclip.core.taxonomy import load_taxonomy
from safeclip.settings import Drawing, Preference, Settings
from safeclip.synthesis.captions import load_captions
from safeclip.synthesis.language_model import load_model, load_tokenizer, model_folder
from safeclip.synthesis.pairs import load_pairs
from safeclip.synthesis.preferences import (
    CategoryReward,
    HiddenStates,
    Ranked,
    draw_requests,
    draw_rewrites,
    preference_report,
    rank,
    tune_dpo,
)
from safeclip.synthesis.rewriter import TunedRewriter, save_rewriter, tune

STAGE = "tune_rewriter"


def tune_rewriter(settings: Settings) -> None:
    """data/curated_pairs.jsonl -> results/tune_rewriter/{adapter/, loss.csv}.

    With `preference`, that is sft/ and the adapter is what DPO made of it, beside preferences.json.
    """
    settings = resolve_setting(settings, "tune_rewriter", "dtype", default_device())
    data, own = Path(settings.data.path), settings.tune_rewriter
    pairs = load_pairs(data / "curated_pairs.jsonl", load_guard(), load_taxonomy(data / "taxonomy.yaml"))
    folder = model_folder(own.model)
    print(f"{STAGE}: {own.model}, {len(pairs)} pairs, {own.epochs} epochs", flush=True)
    inputs = [data / "curated_pairs.jsonl", data / "taxonomy.yaml", Path(folder)]
    with open_scratch(STAGE, settings, inputs, ["rewrite_captions"]) as scratch:
        tuned = tune(folder, pairs, own, seed=settings.seed, report=_report, scratch=scratch)
        print(f"{STAGE}: loss {tuned.losses[0]:.2f} -> {tuned.losses[-1]:.2f}", flush=True)
        with output(STAGE) as out:
            if own.preference is not None:
                save_rewriter(tuned, own.model, out / "sft")
                tuned = _preferred(settings, own.preference, tuned, out, scratch)
            save_rewriter(tuned, own.model, out)


def _preferred(
    settings: Settings, own: Preference, tuned: TunedRewriter, out: Path, scratch: Scratch
) -> TunedRewriter:
    """The rewriter after DPO; writes what its pairs were chosen from."""
    ranked = rank_rewrites(settings, own, out / "sft" / "adapter", scratch)
    write_json(out / "preferences.json", preference_report(ranked))
    return learn_preferences(settings, own, tuned, ranked, scratch)


def learn_preferences(
    settings: Settings, own: Preference, tuned: TunedRewriter, ranked: Ranked, scratch: Scratch
) -> TunedRewriter:
    """DPO on the ranked pairs; its checkpoints stand apart from those of SFT."""
    folder, apart = model_folder(settings.tune_rewriter.model), scratch.folder / "dpo"
    apart.mkdir(exist_ok=True)
    kept = Scratch(STAGE, apart)
    return tune_dpo(tuned, folder, ranked.pairs, own, seed=settings.seed, report=_report, scratch=kept)


def rank_rewrites(settings: Settings, own: Preference, adapter: Path, scratch: Scratch) -> Ranked:
    """Rewrites of captions of the train split, drawn from the SFT adapter and ranked."""
    data, guard = Path(settings.data.path), load_guard()
    taxonomy = load_taxonomy(data / "taxonomy.yaml")
    pairs = load_pairs(data / "curated_pairs.jsonl", guard, taxonomy)
    folder, seed = model_folder(settings.tune_rewriter.model), settings.seed
    captions = load_captions(data / "captions.jsonl")
    train = sorted((row for row in captions if row.split == "train"), key=lambda row: row.id)[: own.captions]
    requests = draw_requests(train, taxonomy.phrases, guard, draws=own.draws, seed=seed)
    print(f"{STAGE}: drawing {own.draws} rewrites of {len(train)} captions", flush=True)
    # as rewrite_captions draws, but for the temperature, and in this process
    drawing = Drawing(
        batch_size=settings.rewrite_captions.batch_size,
        max_new_tokens=settings.rewrite_captions.max_new_tokens,
        top_p=settings.rewrite_captions.top_p,
        temperature=own.temperature,
        dtype=settings.tune_rewriter.dtype,
    )
    outcomes, said = draw_rewrites(folder, adapter, requests, drawing, guard, seed=seed, scratch=scratch)
    dtype = getattr(torch, settings.tune_rewriter.dtype)
    embed = HiddenStates(load_model(folder, dtype), load_tokenizer(folder))
    reward = CategoryReward(embed, pairs, taxonomy.phrases, [row.caption for row in train])
    ranked = rank(requests, outcomes, said, reward, own.margin)
    print(f"{STAGE}: {len(ranked.pairs)} ranked pairs", flush=True)
    return ranked


def _report(step: int, loss: float) -> None:
    if step == 1 or step % 10 == 0:
        print(f"{STAGE}: step {step}, loss {loss:.2f}", flush=True)


if __name__ == "__main__":
    main(tune_rewriter)
