"""How long the chain takes: first run of a fresh clone, rerun with nothing changed, a changed threshold.

    python benchmarks/pipeline.py [--quick] [--json FILE]

The rerun is paired with `dvc repro` on the same unchanged project, alternating: the difference is what
Prefect costs. `--quick` runs the chain on 40 rows; its gate fails, so that `package` is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML

from safeclip.pipeline.checkout import copy_checkout, override_params, tiny_params
from safeclip.pipeline.graph import load_graph, project_root

PAIRS = 5
RAN = re.compile(r"Task run '(\S+)' - Finished in state Completed\(")
PASSED, GATE_FAILED = 0, 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="40 rows instead of the default profile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure and sample to FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="safeclip-pipeline-") as folder:
        figures = measure(Path(folder) / "project", quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    for key in ("first_run_s", "noop_s", "dvc_repro_noop_s"):
        print(f"{key:24} {figures[key]:8.1f}")
    print(f"{'threshold_change_stages':24} {', '.join(figures['threshold_change_stages'])}")


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Every figure, from a fresh copy of this checkout in `folder`."""
    root = copy_checkout(project_root(Path(__file__).parent), folder)
    if quick:
        override_params(root, tiny_params(root))
    first, status, _ = timed(root, "safeclip", "run")
    targets = [name for name in load_graph(root) if not name.endswith(".dvc")]
    if status == GATE_FAILED:
        targets.remove("package")
    pairs = [
        (timed(root, "safeclip", "run")[0], timed(root, "dvc", "repro", *targets)[0]) for _ in range(PAIRS)
    ]
    noop, repro = ([round(pair[side], 3) for pair in pairs] for side in (0, 1))
    return machine() | {
        "quick": quick,
        "gate_passed": status == PASSED,
        "first_run_s": round(first, 1),
        "noop_s": median(noop),
        "noop_samples_s": noop,
        "dvc_repro_noop_s": median(repro),
        "dvc_repro_noop_samples_s": repro,
        "threshold_change_stages": stages_of_a_changed_threshold(root),
    }


def stages_of_a_changed_threshold(root: Path) -> list[str]:
    """Change the factor of the first gate rule by 0.001 and list the stages that ran."""
    rules = YAML(typ="safe").load(root / "params.yaml")["gate"]["rules"]
    rules[0]["factor"] = rules[0].get("factor", 1.0) + 0.001
    override_params(root, {"gate": {"rules": rules}})
    return RAN.findall(timed(root, "safeclip", "run")[2])


def timed(root: Path, *command: str) -> tuple[float, int, str]:
    """(seconds, exit status, standard error) of a command; anything but a verdict ends the benchmark."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(root / "src")}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in (PASSED, GATE_FAILED):
        sys.exit(f"error: {' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    print(f"{' '.join(command[:2])}: {seconds:.1f} s", file=sys.stderr)
    return seconds, done.returncode, done.stderr


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    tools = ("prefect", "dvc", "torch", "transformers")
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()} | {
        f"version_{name}": version(name) for name in tools
    }


if __name__ == "__main__":
    main()
