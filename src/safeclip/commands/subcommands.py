"""How a function becomes a subcommand: its name, its docstring as the help, an example below."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Command = Callable[[argparse.Namespace], int]
Adder = Callable[[Command, str, str], argparse.ArgumentParser]


def adder(commands: argparse._SubParsersAction[argparse.ArgumentParser], prefix: str = "") -> Adder:
    """A function that adds (command, summary, example), named after the function less `prefix`."""

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
