"""A toy project: real git, real DVC, the real flow, stages of a few lines. For tests of the flow itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout that the tests belong to."""

STAGES = """
stages:
  left:
    cmd: python stages/step.py left data/words.txt
    deps: [data/words.txt, stages/step.py]
    params: [{toy.json: [left]}]
    outs: [results/left]
  right:
    cmd: python stages/step.py right data/words.txt
    deps: [data/words.txt, stages/step.py]
    params: [{toy.json: [right]}]
    outs: [results/right]
  gate:
    cmd: python stages/step.py gate results/left/out.txt results/right/out.txt
    deps: [results/left/out.txt, results/right/out.txt, stages/step.py]
    params: [{toy.json: [gate]}]
    outs: [results/gate]
  report:
    cmd: python stages/step.py report results/gate/verdict.json
    deps: [results/gate/verdict.json, stages/step.py]
    outs: [results/report]
  package:
    cmd: python stages/step.py package results/gate/verdict.json
    deps: [results/gate/verdict.json, stages/step.py]
    outs: [results/package]
"""

STEP = '''
"""Concatenates its inputs; params say whether it fails, lasts, or (the gate) passes."""
import json, os, sys, time
from pathlib import Path

name, *inputs = sys.argv[1:]
params = json.loads(Path("toy.json").read_text()).get(name, {})
out = Path("results") / name
out.mkdir(parents=True, exist_ok=True)
print(f"{name} begins", flush=True)
for percent in range(0, 100, 10):
    print(f"progress {percent}%", end="\\r", file=sys.stderr)
print(file=sys.stderr)
began = time.time()
Path(f"{name}.pid").write_text(str(os.getpid()))
if params.get("seconds"):
    time.sleep(params["seconds"])
if params.get("fails"):
    print("error: input 7 is broken; mend it", file=sys.stderr)
    sys.exit(1)
text = "".join(Path(path).read_text() for path in inputs)
(out / "out.txt").write_text(text)
with open(f"{name}.runs", "a") as runs:
    runs.write(f"{began} {time.time()}\\n")
if name == "gate":
    rules = [{"id": "r", "metric": "m", "why": "n = 3 < 100; too few", "passed": params["passes"]}]
    (out / "verdict.json").write_text(json.dumps({"passed": params["passes"], "rules": rules}))
if name == "report":
    (out / "index.html").write_text("<p>report</p>")
'''


def make_toy(folder: Path) -> Path:
    """A git and DVC project in `folder` with the flows of this checkout; nothing has been run in it."""
    for name in ("data", "stages", "flows"):
        (folder / name).mkdir(parents=True)
    for flow in (PROJECT / "flows").glob("*.py"):
        shutil.copy(flow, folder / "flows")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "stages" / "step.py").write_text(STEP)
    (folder / "data" / "words.txt").write_text("words\n")
    (folder / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    set_params(folder)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "add", "-q", "data"]):
        run(folder, *command)
    return folder


def set_params(folder: Path, **sections: dict[str, object]) -> None:
    """Write toy.json, the params of the toy stages; a section that is not given has its quiet values."""
    quiet: dict[str, dict[str, object]] = {
        "left": {"fails": False, "seconds": 0},
        "right": {"fails": False, "seconds": 0},
        "gate": {"passes": True},
    }
    (folder / "toy.json").write_text(
        json.dumps({name: quiet[name] | sections.get(name, {}) for name in quiet})
    )


def run(
    folder: Path, *command: str, timeout: float = 300.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment in `folder`; never raises for its status."""
    return subprocess.run(
        [*command],
        cwd=folder,
        env=environment_for(folder) | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def environment_for(folder: Path) -> dict[str, str]:
    """This process's environment with the project's tools first and a home of its own in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DVC_"))}
    home = folder.parent / f"{folder.name}-home"
    home.mkdir(exist_ok=True)
    source = {"PYTHONPATH": str(folder / "src")} if (folder / "src").is_dir() else {}
    return (kept | source) | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
    }
