"""`fuzzvm-check FILE`: accepted (exit status 0), rejected (1), or not to be read (2)."""

from __future__ import annotations

import argparse
import os
import traceback
from collections.abc import Sequence
from pathlib import Path

from fuzzvm.certificate.check import check
from fuzzvm.certificate.errors import RejectedError
from fuzzvm.certificate.file import Safe, UnreadableError, read
from fuzzvm.files.errors import FileError
from fuzzvm.files.printable import printable
from fuzzvm.machine.errors import ProgramError, StoppedError
from fuzzvm.mitigations import registry
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.supervision import user_code
from fuzzvm.supervision.errors import UserCodeError
from fuzzvm.supervision.folder import same_folder


def run(arguments: Sequence[str] | None = None) -> int:
    """Check the certificate that arguments name, by default those of the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        "fuzzvm-check",
        description="Check a certificate of `fuzzvm certify` by plain steps of the machine, without any search.",
        epilog="Exit status: 0 accepted, 1 rejected, 2 cannot be read.",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument(
        "-m",
        "--mitigation",
        metavar="FILE.py:CLASS",
        help="where the scheme is, if it is one of your own: a certificate alone never makes code run",
    )
    try:
        options = parser.parse_args(arguments)
    except SystemExit as usage:
        return int(usage.code or 0)
    try:
        said, status = _accepted(options.file, options.mitigation), 0
    except RejectedError as error:
        said, status = f"rejected: {error}", 1
    except ProgramError as error:
        said, status = f"rejected: the scheme is broken: {error}", 1
    except (UnreadableError, FileError, registry.MitigationError, ScenarioError, StoppedError, UserCodeError) as error:
        said, status = f"cannot be checked: {error}", 2
    except MemoryError:
        said, status = "cannot be checked: out of memory", 2
    except Exception as error:  # noqa: BLE001 - user code may raise anything, and an exit status must come of it
        said, status = _unforeseen(error)
    line = printable(" ".join(f"{options.file}: {said}".split())) + "\n"
    try:
        os.write(2 if status else 1, line.encode(errors="backslashreplace"))
    except OSError as error:
        # who reads the status alone has closed it; a full disk is an error
        return status if isinstance(error, BrokenPipeError) else 2
    return status


def _accepted(file: Path, given: str | None) -> str:
    """Check a certificate; return what it shows. Raises as `check` does."""
    certificate = read(file)
    task = certificate.task
    if given is None and registry.is_path(task.mitigation):
        raise UnreadableError(f"its scheme is {task.mitigation}, which runs only where --mitigation names it")
    asked_for_by = given or task.mitigation
    with same_folder():
        check(certificate, registry.get(asked_for_by), asked_for_by)
    named = ", ".join((asked_for_by, task.scenario.name or "a scenario without a name", task.memory))
    if isinstance(certificate, Safe):
        return f"accepted: {named}: safe, {len(certificate.parents)} states"
    where = certificate.function or "the run as a whole"
    return f"accepted: {named}: {certificate.error} in {where}, {len(certificate.schedule)} steps"


def _unforeseen(error: Exception) -> tuple[str, int]:
    """Return what to say of an exception that nobody expected, and the exit status."""
    place = user_code.place_in(error)
    if place is not None:
        return f"rejected: the scheme is broken: {place[0]}:{place[1]}: {user_code.said_by(error)}", 1
    traceback.print_exception(error)
    return "cannot be checked: this is a defect of fuzzvm-check", 2
