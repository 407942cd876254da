"""`fuzzvm new-mitigation`: the file that a mitigation of one's own starts from."""

from __future__ import annotations

from pathlib import Path

import click

from fuzzvm.cli.common import shell_path
from fuzzvm.cli.output import say
from fuzzvm.cli.starting_file import starting_file
from fuzzvm.files.writing import create


@click.command()
@click.argument("name")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write. Default: the name, with .py, in this folder.",
)
def new_mitigation(name: str, output: Path | None) -> int:
    """Write a file with every hook of a mitigation, each told and commented out, to start from.

    \b
    fuzzvm new-mitigation sample-early
    fuzzvm verify --mitigation ./sample_early.py:SampleEarly
    """
    try:
        module, cls, text = starting_file(name, None if output is None else _shown(output))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    path = output or Path(f"{module}.py")
    # what somebody has written is never overwritten
    create(path, text)
    say(f"{path} is written. Try it: fuzzvm verify --mitigation {_shown(path)}:{cls}")
    return 0


def _shown(path: Path) -> str:
    """Return a path as the start of a mitigation's name on a command line: `./` says that it is a file."""
    return shell_path(path) if path.is_absolute() else f"./{shell_path(path)}"
