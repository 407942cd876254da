"""Prints results: every text that a command prints goes through here, made printable.

What is printed may come from a file that somebody else wrote, or be the name of one. The functions here leave
nothing in it that a terminal obeys. The linter forbids `click.echo` elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fuzzvm.files.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.text import Text


def say(*lines: str, err: bool = False) -> None:
    """Print lines, on stderr with `err`; each is one line, whatever is in it."""
    for line in lines or ("",):
        click.echo(printable(line), err=err)


def say_text(text: str, *, err: bool = False) -> None:
    """Print a text whose line ends and tabs are meant; it ends with a line end of its own, or gets one."""
    click.echo(printable_lines(text), err=err, nl=not text.endswith("\n"))


def plain(text: str, style: str = "") -> Text:
    """Return a text for rich, which would take square brackets in a string for markup."""
    # imported here, as below: only a terminal needs them, and a small matrix takes less than a second
    from rich.text import Text

    return Text(printable_lines(text), style)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; with lines on a terminal. Otherwise no line is broken and no character is drawn."""
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, header_style="bold")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*map(plain, row))
        Console(highlight=False).print(table)
        return
    shown = [[printable(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
