"""How a function becomes a subcommand: its name, its docstring as the help, examples below."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Protocol

Command = Callable[[argparse.Namespace], int]
Commands = argparse._SubParsersAction  # argparse has no public name for it


class Adder(Protocol):
    """Adds a command with a summary for the list of commands, and examples."""

    def __call__(self, command: Command, summary: str, *examples: str) -> argparse.ArgumentParser: ...


def adder(commands: Commands[argparse.ArgumentParser], prefix: str = "") -> Adder:
    """Return a function that adds commands, each named after its function less `prefix`."""

    def add(command: Command, summary: str, *examples: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            command.__name__.removeprefix(prefix).rstrip("_"),  # `import_`: `import` is no name in Python
            help=summary,
            description=command.__doc__,
            epilog=f"example{'s' * (len(examples) > 1)}: {'; '.join(examples)}",
        )
        parser.set_defaults(command=command)
        return parser

    return add
