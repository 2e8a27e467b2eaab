"""The whole of params.yaml, checked before any stage starts."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from safeclip.settings.audit import Audit
from safeclip.settings.embed_teacher import EmbedTeacher
from safeclip.settings.evaluate import Evaluate
from safeclip.settings.finetune import Finetune
from safeclip.settings.fit_probes import FitProbes
from safeclip.settings.gate import Gate
from safeclip.settings.generate import Generate
from safeclip.settings.label_safety import LabelSafety
from safeclip.settings.package import Package
from safeclip.settings.red_team import RedTeam
from safeclip.settings.reevaluate import Reevaluate
from safeclip.settings.registry import Registry
from safeclip.settings.render_images import RenderImages
from safeclip.settings.report import Report
from safeclip.settings.rewrite_captions import RewriteCaptions
from safeclip.settings.section import Count, Section, load
from safeclip.settings.stage import Compute, Data
from safeclip.settings.tune_rewriter import TuneRewriter
from safeclip.settings.validate_data import ValidateData


class Settings(Section):
    """The whole of params.yaml."""

    seed: Count = 2311
    placement: dict[str, str] = Field(default_factory=dict)  # stage: Prefect work pool; others: the flow's
    compute: Compute = Compute()
    data: Data = Data()
    tune_rewriter: TuneRewriter = TuneRewriter()
    rewrite_captions: RewriteCaptions = RewriteCaptions()
    render_images: RenderImages = RenderImages()
    label_safety: LabelSafety = LabelSafety()
    validate_data: ValidateData = ValidateData()
    embed_teacher: EmbedTeacher = EmbedTeacher()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    generate: Generate = Generate()
    red_team: RedTeam = RedTeam()
    audit: Audit = Audit()
    fit_probes: FitProbes = FitProbes()
    gate: Gate = Gate()
    report: Report = Report()
    package: Package = Package()
    registry: Registry = Registry()
    reevaluate: Reevaluate = Reevaluate()


def load_settings(path: Path | str = "params.yaml") -> Settings:
    """Read and check params.yaml; a `SettingsError` of one line names the first fault."""
    return load(Settings, Path(path))
