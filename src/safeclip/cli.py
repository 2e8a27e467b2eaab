"""The `safeclip` command. Heavy parts (DVC, Prefect, BentoML) are imported where they are used."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from safeclip.commands import data, export
from safeclip.commands import registry as releases
from safeclip.commands import review as reviews
from safeclip.commands.gate import gate
from safeclip.errors import PipelineError, SafeclipError
from safeclip.storage import storage_fault

Command = Callable[[argparse.Namespace], int]
Adder = Callable[[Command, str, str], argparse.ArgumentParser]


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
    from safeclip.settings.project import load_settings

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
    from safeclip.settings.project import load_settings

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


def report(options: argparse.Namespace) -> int:
    """Where the reviewer's page is; opened in a browser if asked."""
    from safeclip.pipeline.graph import project_root

    page = project_root() / "results/report/index.html"
    if not page.is_file():
        raise PipelineError("there is no report yet; `safeclip run` makes one")
    print(page)
    if options.open:
        import webbrowser

        webbrowser.open(page.as_uri())
    return 0


def serve(options: argparse.Namespace) -> int:
    """The packaged Bento over HTTP."""
    from safeclip.serving.run import serve as serve_bento

    return serve_bento(options.bento, host=options.host, port=options.port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="safeclip",
        description="Retrain, check and ship a CLIP whose unsafe inputs land on their safe counterparts.",
        epilog="example: safeclip run",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add = _adder(commands)
    add(run, "run the chain: what is stale reruns, the rest is Cached", "safeclip run")
    one = add(stage, "run one stage through DVC", "safeclip stage gate")
    one.add_argument("name", metavar="NAME", help="a stage of dvc.yaml (`safeclip status` lists them)")
    one.add_argument("--force", action="store_true", help="run it even if it is up to date")
    add(status, "which stages are stale, and why", "safeclip status")
    verdict = add(gate, "compute the verdict again, from the outcomes", "safeclip gate --explain")
    verdict.add_argument("--explain", action="store_true", help="what each failed rule would need to pass")
    page = add(report, "print the path of the reviewer's page", "safeclip report --open")
    page.add_argument("--open", action="store_true", help="open it in a browser")
    export.add_arguments(
        add(
            export.export,
            "write an encoder for transformers or diffusers",
            "safeclip export clip-for-transformers",
        )
    )
    _add_review(add)
    _add_registry(add)
    bento = add(serve, "serve the packaged Bento over HTTP", "safeclip serve --port 3000")
    bento.add_argument(
        "bento",
        nargs="?",
        type=Path,
        default=Path("results/package/safeclip-embedder.tar"),
        help="an exported Bento (default: %(default)s)",
    )
    bento.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    bento.add_argument("--port", type=int, default=3000, help="port to listen on (default: %(default)s)")
    data.register(commands)
    return parser


def _add_review(add: Adder) -> None:
    group = add(reviews.review, "approve or reject what passed the gate", "safeclip review")
    sub = _adder(group.add_subparsers(metavar="ACTION"), "review_")
    sub(reviews.review_ask, "freeze the last run's candidate and ask", "safeclip review ask")
    for command, summary, example in (
        (reviews.review_show, "what a decision is about", "safeclip review show 1a2b3c"),
        (
            reviews.review_approve,
            "approve; with a key also promote",
            "safeclip review approve 1a2b3c --reason ok",
        ),
        (reviews.review_reject, "reject", "safeclip review reject 1a2b3c --reason 'zero-shot is too low'"),
        (
            reviews.review_sign,
            "promote what was approved",
            "safeclip review sign 1a2b3c --key ~/.ssh/id_ed25519",
        ),
    ):
        one = sub(command, summary, example)
        one.add_argument("candidate", metavar="CANDIDATE", help="the first digits of its id")
        if command is reviews.review_show:
            continue
        one.add_argument("--reason", default="", help="kept with the release")
        one.add_argument("--as", dest="reviewer", metavar="NAME", help="who answers (without a key)")
        if command is reviews.review_reject:
            continue
        one.add_argument(
            "--key", type=Path, help="the reviewer's private SSH key (default: git's signing key)"
        )
        one.add_argument("--bump", choices=("major", "minor", "patch"), default="minor", help="%(default)s")
        one.add_argument(
            "--accept-loosened", action="store_true", help="yes to rules looser than production's"
        )


def _add_registry(add: Adder) -> None:
    group = add(
        releases.registry, "what is and was in production; pull, verify, roll back", "safeclip registry"
    )
    sub = _adder(group.add_subparsers(metavar="ACTION"), "registry_")
    sub(releases.registry_list, "the history of production", "safeclip registry list")
    sub(releases.registry_sync, "complete what a kill left open", "safeclip registry sync")
    show = sub(releases.registry_show, "a version's commit and digests", "safeclip registry show v0.1.0")
    pull = sub(
        releases.registry_pull, "download a version's Bento", "safeclip registry pull prod --out bentos"
    )
    verify = sub(releases.registry_verify, "check all a version stands on", "safeclip registry verify prod")
    for one in (show, pull, verify):
        one.add_argument("version", metavar="VERSION", nargs="?", default="prod", help="v1.2.0, or prod")
    pull.add_argument("--out", type=Path, default=Path("bentos"), help="folder (default: %(default)s)")
    pull.add_argument("--import", dest="into_store", action="store_true", help="also into BentoML's store")
    example = "safeclip registry rollback v0.1.0 --reason 'complaints about v0.2.0' --key ~/.ssh/id_ed25519"
    back = sub(releases.registry_rollback, "put a former version back", example)
    back.add_argument("version", metavar="VERSION", help="a version that was in production")
    back.add_argument("--reason", required=True, help="kept with the release")
    back.add_argument("--key", type=Path, help="the reviewer's private SSH key (default: git's signing key)")


def _adder(commands: argparse._SubParsersAction[argparse.ArgumentParser], prefix: str = "") -> Adder:
    def add(command: Command, summary: str, example: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            command.__name__.removeprefix(prefix),
            help=summary,
            description=command.__doc__,
            epilog=f"example: {example}",
        )
        parser.set_defaults(command=command)
        return parser

    return add


if __name__ == "__main__":
    sys.exit(main())
