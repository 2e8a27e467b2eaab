"""Kill -9 at random moments, run again, compare: does every stage recover by itself to the same bytes?

    python benchmarks/crashes.py [--quick] [--stages NAME ...] [--kills N] [--first N] [--chain FOLDER]
                                 [--json FILE]

The chain runs once on 40 rows (or is taken from `--chain`, a folder in which it has run and which is
changed). Then, for each stage and each trial, the stage is started through DVC, and at a moment drawn from
(seed, stage, trial) either the stage, the DVC process or the process that started both is killed. Nothing
may live on in the folder, and the rerun, begun at once, must end with status 0, the bytes of the undisturbed
run and nothing half done. `--quick`: two kills of the three cheapest stages.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from safeclip.pipeline.checkout import copy_checkout, override_params, tiny_params
from safeclip.pipeline.graph import changes, project_root

STAGES = ("tune_rewriter", "rewrite_captions", "render_images", "finetune", "evaluate", "package")
CHEAP = ("render_images", "finetune", "package")
VICTIMS = ("stage", "dvc", "starter")
SEED = 2311
MARK = "SAFECLIP_CRASH_TRIAL"
DEADLINE = 1200.0  # seconds for one run of a stage


@dataclass(frozen=True)
class Trial:
    """One kill. `fault` is empty if the rerun recovered."""

    stage: str
    victim: str
    killed_after_s: float
    rerun_s: float
    fault: str


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two kills of the three cheapest stages")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES, metavar="NAME")
    parser.add_argument("--kills", type=int, default=10, help="trials a stage (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, to go on from")
    parser.add_argument("--chain", type=Path, metavar="FOLDER", help="a tiny chain that has run; is changed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial to FILE")
    options = parser.parse_args()
    stages, kills = (CHEAP, 2) if options.quick else (options.stages, options.kills)
    with tempfile.TemporaryDirectory(prefix="safeclip-crashes-") as folder:
        root = options.chain or tiny_chain(Path(folder) / "project")
        numbers = range(options.first, options.first + kills)
        trials = [trial for stage in stages for trial in try_stage(root.resolve(), stage, numbers)]
    if options.json:
        options.json.write_text(json.dumps(summary(trials), indent=2, sort_keys=True) + "\n")
    for stage in stages:
        mine = [trial for trial in trials if trial.stage == stage]
        print(f"{stage:18} {sum(not trial.fault for trial in mine)} of {len(mine)} recovered")
    return 1 if any(trial.fault for trial in trials) else 0


def tiny_chain(folder: Path) -> Path:
    """The chain on 40 rows, run once; its gate fails, as so few rows measure nothing."""
    root = copy_checkout(project_root(Path(__file__).parent), folder)
    override_params(root, tiny_params(root))
    subprocess.run(["safeclip", "run"], cwd=root, env=environment(root), check=False, stdout=sys.stderr)
    return root


def try_stage(root: Path, stage: str, numbers: Iterable[int]) -> list[Trial]:
    """Run a stage undisturbed for its bytes and its time, then kill it once for each number."""
    if stage == "package":
        pass_gate(root)
    began = time.monotonic()
    if status := start(root, stage).wait(DEADLINE):
        sys.exit(f"error: {stage} ends with status {status} undisturbed; nothing to try")
    seconds, whole = time.monotonic() - began, tree_digest(root / "results" / stage)
    trials = []
    for number in numbers:
        draw = random.Random(f"{SEED} {stage} {number}")
        trial = try_once(root, stage, VICTIMS[number % len(VICTIMS)], draw.uniform(0, seconds), whole)
        told = f"{stage} {trial.victim} after {trial.killed_after_s:.1f} of {seconds:.1f} s"
        print(f"{told}: {trial.fault or 'recovered'}", flush=True)
        trials.append(trial)
    return trials


def try_once(root: Path, stage: str, victim: str, after: float, whole: str) -> Trial:
    """One kill and one rerun."""
    began = time.monotonic()
    starter = start(root, stage)
    time.sleep(after)
    while starter.poll() is None and not kill(starter, stage, victim):
        time.sleep(0.02)
    killed = time.monotonic() - began
    starter.wait(DEADLINE)
    began = time.monotonic()
    status = start(root, stage).wait(DEADLINE)
    fault = "; ".join(faults(root, stage, status, whole))
    return Trial(stage, victim, round(killed, 2), round(time.monotonic() - began, 2), fault)


def faults(root: Path, stage: str, status: int, whole: str) -> list[str]:
    """What is not as it would be had nothing been killed."""
    found = {
        f"status {status}": status != 0,
        "other bytes": tree_digest(root / "results" / stage) != whole,
        "half-done output beside it": any((root / "results").glob(".*.partial")),
        "scratch left": any((root / "work" / stage).glob("*")),
        "a process lives on": bool(living(root)),
        "not up to date": bool(changes(root, stage)),
    }
    return [fault for fault, holds in found.items() if holds]


def start(root: Path, stage: str) -> subprocess.Popen[bytes]:
    """`safeclip stage NAME --force`, its lines dropped."""
    quiet = subprocess.DEVNULL
    command = ["safeclip", "stage", stage, "--force"]
    return subprocess.Popen(command, cwd=root, env=environment(root), stdout=quiet, stderr=quiet)


def kill(starter: subprocess.Popen[bytes], stage: str, victim: str) -> bool:
    """Kill -9 the victim among the starter and its descendants; False if it has not begun yet."""
    try:
        family = [psutil.Process(starter.pid), *psutil.Process(starter.pid).children(recursive=True)]
        marks = {"stage": f"safeclip.stages.{stage}", "dvc": "safeclip.pipeline.stage_process"}
        for process in family:
            if victim == "starter" or marks[victim] in process.cmdline():
                process.kill()
                return True
    except psutil.NoSuchProcess:
        pass
    return False


def living(root: Path) -> list[int]:
    """Processes that a run in the folder started, two seconds after the last of them should have ended."""
    time.sleep(2)
    return [process.pid for process in psutil.process_iter() if _of_a_run(process, root)]


def _of_a_run(process: psutil.Process, root: Path) -> bool:
    """Whatever a run starts inherits the mark; a shell that happens to stand in the folder has none."""
    try:
        return process.environ().get(MARK) == str(root)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def pass_gate(root: Path) -> None:
    """`package` refuses a failed verdict, and that of 40 rows is one."""
    path = root / "results/gate/verdict.json"
    verdict = json.loads(path.read_text())
    path.write_text(json.dumps(verdict | {"passed": True}, indent=2, sort_keys=True) + "\n")


def tree_digest(folder: Path) -> str:
    """Of the names and bytes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def environment(root: Path) -> dict[str, str]:
    """This environment's tools, the folder's own code, and the mark of a run in it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(root / "src"), MARK: str(root)}


def summary(trials: list[Trial]) -> dict[str, object]:
    """Kills, recoveries and every trial."""
    recovered = sum(not trial.fault for trial in trials)
    return {"kills": len(trials), "recovered": recovered, "trials": [asdict(trial) for trial in trials]}


if __name__ == "__main__":
    sys.exit(main())
