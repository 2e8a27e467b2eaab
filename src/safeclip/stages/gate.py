"""Rules over the outcomes of evaluation -> results/gate/verdict.json. Exits 0 whatever the verdict."""

from __future__ import annotations

from safeclip.core.artifacts import VERDICT
from safeclip.core.files import write_json
from safeclip.core.stage import main, output
from safeclip.gate.verdict import decide, read_evidence, rule_lines
from safeclip.settings import Settings


def gate(settings: Settings) -> None:
    """Write the verdict and print a line a rule."""
    verdict = decide(read_evidence(), settings.gate, settings.seed)
    with output("gate") as out:
        write_json(out / VERDICT.name, verdict)
    print("\n".join(rule_lines(verdict)), flush=True)


if __name__ == "__main__":
    main(gate)
