"""The commands of the package `commands`: listed from their sources, and imported when they are used.

All of them import all of fuzzvm, which takes a second; help and completion need their names and first sentences.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil

import click
from click.shell_completion import CompletionItem

from fuzzvm.cli import commands

COMPLETION_WIDTH = 45
"""Characters of a command's sentence in a completion, click's own default."""


class Commands(click.Group):
    """One command a module, of the module's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"{commands.__name__}.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        # as click does it
        limit = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name, limit)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        found = [CompletionItem(name, help=summary(name, COMPLETION_WIDTH)) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def summary(command: str, limit: int) -> str:
    """Return the first sentence of what a command says it does, cut to that many characters."""
    name = command.replace("-", "_")
    source = pkgutil.get_data(commands.__name__, f"{name}.py")
    assert source is not None
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    return click.Command(command, help=ast.get_docstring(next(functions))).get_short_help_str(limit)
