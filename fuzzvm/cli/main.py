"""The `fuzzvm` command: finds its commands, and turns what is wrong into one line and an exit status.

0: no bug, or all as expected. 1: a bug, or not as expected. 2: usage or bad input. 130: ended by Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

import click

import fuzzvm
from fuzzvm.cli import commands


class Commands(click.Group):
    """The commands of the package `commands`, imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"{commands.__name__}.{name}"), name)
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 no bug or all as expected, 1 a bug or not as expected, 2 usage or bad input.",
)
@click.version_option(fuzzvm.__version__, prog_name="fuzzvm")
def cli() -> None:
    """Is there a schedule of these CPUs that makes ptdump touch a page table that has been freed?

    \b
    fuzzvm mitigations                                   what there is to test
    fuzzvm fuzz --mitigation static-key --seconds 20     look for such a schedule
    fuzzvm replay corpus/                                repeat every one that was found
    fuzzvm explain FILE                                  tell its story
    """


def _one_line(message: str) -> str:
    """Return a message with its line breaks folded."""
    return " ".join(message.split())


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        status = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else "fuzzvm"
        click.echo(f"{name}: {_one_line(error.format_message())}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("fuzzvm: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # the reader has seen enough; python must not complain at exit that it cannot flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        # imported here: it brings in all layers, and `fuzzvm litmus` needs none but machine
        from fuzzvm.cli.input_errors import INPUT_ERRORS

        if not isinstance(error, INPUT_ERRORS):
            raise
        click.echo(f"fuzzvm: {_one_line(str(error))}", err=True)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)
