"""Runs `fuzzvm` commands quickly: each in a process of its own, forked from one that has imported fuzzvm already.

`Commands` starts `python -P -m tests.cli.forked`, which reads a command a line and answers with what came of it. What a
command sees is what it sees at a shell: arguments, folder, standard streams, exit status. It has the memory that
`LIMIT` leaves it, and is ended after `SECONDS`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
"""After which a command hangs: those that are run so take less than one."""
LIMIT = 4 << 30
"""Bytes of address space; what a command really uses is `Ended.peak`."""


class Ended(NamedTuple):
    """What came of a command. `status` is None where it had to be ended; `peak` is the bytes that it used at most."""

    status: int | None
    out: str
    err: str
    peak: int


class Commands:
    """A process that runs commands, one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.cli.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        # and not waited for by itself: a process that a failed test has left may still have the pipe open
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def run(self, *arguments: str | Path, cwd: Path) -> Ended:
        """Run `fuzzvm` with these arguments in a folder."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([[str(one) for one in arguments], str(cwd)]), file=self._process.stdin, flush=True)
        return Ended(*json.loads(self._process.stdout.readline()))


def main() -> None:
    """Answer the commands on standard input."""
    from fuzzvm.cli import commands

    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")
    for line in sys.stdin:
        arguments, folder = json.loads(line)
        print(json.dumps(run(arguments, folder)), flush=True)  # noqa: T201 - the answer


def run(arguments: list[str], folder: str) -> Ended:
    """Run a command in a process that is forked from this one."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            begin(arguments, folder, out, err)
        until = time.monotonic() + SECONDS
        ended, status, usage = os.wait4(child, os.WNOHANG)
        while not ended and time.monotonic() < until:
            time.sleep(0.005)
            ended, status, usage = os.wait4(child, os.WNOHANG)
        with contextlib.suppress(ProcessLookupError):
            # also what it has started and left behind
            os.killpg(child, signal.SIGKILL)
        if not ended:
            _, _, usage = os.wait4(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
        return Ended(os.waitstatus_to_exitcode(status) if ended else None, *texts, usage.ru_maxrss << 10)


def begin(arguments: list[str], folder: str, out: Any, err: Any) -> None:
    """Be the command; does not return."""
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, file in enumerate((nothing, out.fileno(), err.fileno())):
            os.dup2(file, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
        sys.argv = ["fuzzvm", *arguments]
        from fuzzvm.cli.main import main as fuzzvm

        try:
            fuzzvm()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 70
        except BaseException:  # noqa: BLE001 - as Python ends a program
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
