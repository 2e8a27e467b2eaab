"""`safeclip gate`: the verdict computed again from the outcomes, and what a failed rule would need."""

from __future__ import annotations

import argparse
import json
import os


def gate(options: argparse.Namespace) -> int:
    """The verdict, computed again from the outcomes; status 2 if it fails or is not the one recorded."""
    from safeclip.gate.explain import explain
    from safeclip.gate.verdict import decide, read_evidence, rule_lines
    from safeclip.pipeline.graph import project_root
    from safeclip.settings import load_settings
    from safeclip.stages.gate import VERDICT

    os.chdir(project_root())
    settings = load_settings()
    evidence = read_evidence()
    verdict = decide(evidence, settings.gate, settings.seed)
    print("\n".join(rule_lines(verdict)))
    if options.explain:
        print(
            "\n".join(explain(verdict, settings.gate, evidence.found))
            or "nothing to explain: every rule is kept"
        )
    recorded = json.loads(VERDICT.read_text(encoding="utf-8")) if VERDICT.is_file() else None
    if recorded != verdict:
        state = "is missing" if recorded is None else "says something else"
        print(f"{VERDICT} {state}: `safeclip stage gate` writes it")
        return 2
    return 0 if verdict["passed"] else 2
