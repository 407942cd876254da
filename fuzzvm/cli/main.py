"""The `fuzzvm` command: finds its commands, and turns what is wrong into one line and an exit status.

0: no bug, or all as expected; a bug that a scheme is documented to have is expected. 1: any other bug, or none where
one is expected. 2: usage, bad input, or a failure of user code or of fuzzvm. 130: ended by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import traceback

import click

import fuzzvm
from fuzzvm.cli.commands_group import Commands
from fuzzvm.cli.interrupts import raise_dropped_interrupts
from fuzzvm.cli.output import say, say_text
from fuzzvm.supervision import inside, user_code


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 no bug or all as documented, 1 a bug or not as documented, 2 usage or bad input.",
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


_STDOUT = 1


def _one_line(message: str) -> str:
    """Return a message with its line breaks folded."""
    return " ".join(message.split())


def main() -> None:
    """Run the command line in this process, and exit with its status."""
    sys.exit(run())


def run() -> int:
    """Run the command line; return its exit status."""
    raise_dropped_interrupts()
    stdout, stderr = sys.stdout, sys.stderr
    try:
        status = cli.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        say_text(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else "fuzzvm"
        say(f"{name}: {_one_line(error.format_message())}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt) as error:
        raised = error if isinstance(error, KeyboardInterrupt) else error.__cause__
        if raised is None or user_code.is_interrupt(raised):
            say("fuzzvm: interrupted", err=True)
            return 130
        return _failed(raised)
    except BrokenPipeError:
        return _reader_is_gone()
    except BaseException as error:  # noqa: BLE001 - user code may raise anything, and an exit status must come of it
        # what click makes of a BrokenPipeError that a command raises: it ends, with another stdout
        if isinstance(error, SystemExit) and sys.stdout is not stdout:
            sys.stdout, sys.stderr = stdout, stderr
            return _reader_is_gone()
        return _failed(error)
    return status if isinstance(status, int) else 0


def _reader_is_gone() -> int:
    """Return the exit status where the reader of stdout has seen enough."""
    # python must not complain at exit that it cannot flush
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return 0


def _failed(error: BaseException) -> int:
    """Say what has failed, in one line where the user can do something about it; return the exit status."""
    # imported here: it brings in all layers, and `fuzzvm litmus` needs none but machine
    from concurrent.futures.process import BrokenProcessPool

    from fuzzvm.cli.input_errors import INPUT_ERRORS

    place = user_code.place_in(error)
    if isinstance(error, (*INPUT_ERRORS, BrokenProcessPool)):
        message = _one_line(str(error))
    elif place is not None:
        filename, line, _ = place
        message = f"{filename}:{line}: {user_code.said_by(error)}"
    else:
        traceback.print_exception(error)
        message = "this is a defect of fuzzvm"
    try:
        say(f"fuzzvm: {message}", err=True)
    except (OSError, ValueError):
        # user code has closed stderr: the supervisor still has it
        inside.report(message)
    return 2
