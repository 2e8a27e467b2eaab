"""The `safeclip` command. Heavy parts (DVC, Prefect, BentoML) are imported where they are used."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from safeclip.commands import data, encoders, evaluate, registry, review
from safeclip.commands.subcommands import Command, adder
from safeclip.core.artifacts import PAGE
from safeclip.core.errors import PipelineError, SafeclipError
from safeclip.core.files import storage_fault


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; 0: well, 1: an error told in one line, 2: the gate did not pass or wrong usage."""
    os.umask(0o077)
    options = _parser().parse_args(arguments)
    try:
        command: Command = options.command
        return command(options)
    except SafeclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if (fault := storage_fault(error)) is None:
            raise
        print(f"error: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; run again to go on where it stopped", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """The whole chain as the Prefect flow `retrain`, with a server of its own if none is configured."""
    from safeclip.pipeline.graph import load_graph, project_root
    from safeclip.pipeline.temporary_server import TemporaryServer, api_is_configured
    from safeclip.settings import load_settings

    root = project_root()
    load_settings(root / "params.yaml")
    if api_is_configured():
        return _flow(root)()
    server = TemporaryServer(root)
    atexit.register(server.stop)  # before Prefect registers its own: it sends its last log lines at exit
    os.environ["PREFECT_API_URL"] = server.api_url
    flow = _flow(root)  # imports Prefect and DVC while the server starts
    load_graph(root)
    server.ready()
    return flow()


def _flow(root: Path) -> Callable[[], int]:
    from importlib.util import module_from_spec, spec_from_file_location

    path = root / "flows" / "retrain.py"
    spec = spec_from_file_location("retrain", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PipelineError(f"{path}: no such file; run from a checkout of the project")
    module = module_from_spec(spec)
    sys.modules["retrain"] = module
    spec.loader.exec_module(module)
    main: Callable[[], int] = module.main
    return main


def stage(options: argparse.Namespace) -> int:
    """One stage alone, through DVC: nothing happens if it is up to date."""
    from safeclip.pipeline.graph import changes, check_name, load_graph, project_root
    from safeclip.pipeline.stage_process import run_stage, stop_all
    from safeclip.settings import load_settings

    root = project_root()
    load_settings(root / "params.yaml")
    check_name(options.name, load_graph(root))
    if not options.force and not changes(root, options.name):
        print(f"{options.name}: up to date")
        return 0
    try:
        run_stage(root, options.name, print, force=options.force)
    finally:
        stop_all()
    print(f"{options.name}: done")
    return 0


def status(options: argparse.Namespace) -> int:
    """Every stage with what makes it stale."""
    from safeclip.pipeline.graph import all_changes, project_root

    for name, reasons in all_changes(project_root()).items():
        more = f" and {len(reasons) - 4} more" if len(reasons) > 4 else ""
        print(f"{name:18} {'stale: ' + ', '.join(reasons[:4]) + more if reasons else 'up to date'}")
    return 0


def profile(options: argparse.Namespace) -> int:
    """Write the values of params/NAME.yaml into params.yaml, checked first; comments and the rest stay."""
    from safeclip.pipeline.checkout import apply_profile
    from safeclip.pipeline.graph import project_root

    root = project_root()
    changed = apply_profile(root, options.name)
    print(
        f"params.yaml: {', '.join(changed) or 'nothing'} changed; `safeclip run` reruns what that makes stale"
    )
    return 0


def gate(options: argparse.Namespace) -> int:
    """The verdict, computed again from the outcomes; status 2 if it fails or is not the one recorded."""
    import json

    from safeclip.core.artifacts import VERDICT
    from safeclip.gate.explain import explain
    from safeclip.gate.verdict import decide, read_evidence, rule_lines
    from safeclip.pipeline.graph import project_root
    from safeclip.settings import load_settings

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


def report(options: argparse.Namespace) -> int:
    """Where the reviewer's page is; opened in a browser if asked."""
    from safeclip.pipeline.graph import project_root

    page = project_root() / PAGE
    if not page.is_file():
        raise PipelineError("there is no report yet; `safeclip run` makes one")
    print(page)
    if options.open:
        import webbrowser

        webbrowser.open(page.as_uri())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="safeclip",
        description="Retrain, check and ship a CLIP whose unsafe inputs land on their safe counterparts.",
        epilog="example: safeclip run",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add = adder(commands)
    add(run, "run the chain: what is stale reruns, the rest is Cached", "safeclip run")
    one = add(stage, "run one stage through DVC", "safeclip stage gate")
    one.add_argument("name", metavar="NAME", help="a stage of dvc.yaml (`safeclip status` lists them)")
    one.add_argument("--force", action="store_true", help="run it even if it is up to date")
    add(status, "which stages are stale, and why", "safeclip status")
    chosen = add(profile, "write the values of params/NAME.yaml into params.yaml", "safeclip profile full")
    chosen.add_argument(
        "name", metavar="NAME", help="a file of params/, such as `full`; `git checkout params.yaml` goes back"
    )
    verdict = add(gate, "compute the verdict again, from the outcomes", "safeclip gate --explain")
    verdict.add_argument("--explain", action="store_true", help="what each failed rule would need to pass")
    page = add(report, "print the path of the reviewer's page", "safeclip report --open")
    page.add_argument("--open", action="store_true", help="open it in a browser")
    for module in (encoders, data, evaluate, review, registry):
        module.register(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
