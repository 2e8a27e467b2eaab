"""Where everything lies below the project's root. Paths are relative to the root, where commands run.

One name a file: who writes it is the folder's name (`results/STAGE/`), who reads it imports it from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PARAMS = Path("params.yaml")
SCHEMA = Path("params/schema.json")  # of params.yaml, for editors
RESULTS = Path("results")  # outputs of the stages, versioned by DVC
WORK = Path("work")  # checkpoints, caches, locks: never versioned, may be deleted when nothing runs
LOGS = Path("logs")

# state of releases, committed
PRODUCTION = Path("release/production.json")
DATA_BASELINE = Path("release/data_baseline.json")
FRONTIER = Path("release/frontier.json")
PRODUCTION_ADAPTER = Path("production/adapter.safetensors")

# what stages hand to each other
REWRITER = RESULTS / "tune_rewriter" / "adapter"
CAPTIONS = RESULTS / "rewrite_captions" / "captions.parquet"
IMAGES = RESULTS / "render_images"  # images-00000.parquet and so on
TRUTH = RESULTS / "render_images" / "truth.parquet"
LABELS = RESULTS / "label_safety" / "labels.parquet"
DATASET = RESULTS / "validate_data" / "dataset"  # SPLIT-00000.parquet and so on
DATA_SUMMARY = RESULTS / "validate_data" / "summary.json"
TEACHER = RESULTS / "embed_teacher"  # SPLIT.safetensors
ADAPTER = RESULTS / "finetune" / "adapter.safetensors"
HISTORY = RESULTS / "finetune" / "history.csv"
GRIDS = RESULTS / "generate" / "grids"
PROBES = RESULTS / "fit_probes" / "probes.json"
VERDICT = RESULTS / "gate" / "verdict.json"
PAGE = RESULTS / "report" / "index.html"
PACKAGE = RESULTS / "package" / "package.json"
BENTO = RESULTS / "package" / "safeclip-embedder.tar"


def metrics(stage: str) -> Path:
    """The numbers that a stage measured."""
    return RESULTS / stage / "metrics.json"


def outcomes(stage: str) -> Path:
    """What became of each query of a stage, from which the gate recomputes the numbers."""
    return RESULTS / stage / "outcomes.parquet"


def counts(stage: str) -> Path:
    """Rows in, out, quarantined and destroyed."""
    return RESULTS / stage / "counts.json"


def quarantine(stage: str) -> Path:
    """Rejected rows with the reason."""
    return RESULTS / stage / "quarantine.parquet"


@dataclass(frozen=True)
class DataFolder:
    """The data folder that `data.path` of params.yaml names and data.dvc versions."""

    root: Path

    @property
    def captions(self) -> Path:
        return self.root / "captions.jsonl"

    @property
    def curated_pairs(self) -> Path:
        return self.root / "curated_pairs.jsonl"

    @property
    def taxonomy(self) -> Path:
        return self.root / "taxonomy.yaml"

    @property
    def base_encoder(self) -> Path:
        return self.root / "base_encoder"

    @property
    def calibration(self) -> Path:
        return self.root / "calibration"

    @property
    def diffusion(self) -> Path:
        return self.root / "diffusion"

    @property
    def zeroshot(self) -> Path:
        return self.root / "zeroshot.parquet"

    @property
    def zeroshot_prompts(self) -> Path:
        return self.root / "zeroshot_prompts.json"

    @property
    def import_report(self) -> Path:
        return self.root / "import_report.jsonl"
