"""Runs a program of a build so that it ends when this process does, with its output in a log."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from fuzzvm.kbuild.children import dies_with_parent
from fuzzvm.kbuild.errors import CommandError, KbuildError

_END_SECONDS = 5.0
_GONE_SECONDS = 0.5
_POLL_SECONDS = 0.2
# what a compiler says (gcc, clang, as: "file:line: error:"), before what make says of it ("*** ... Error 1")
_ERRORS = (re.compile(r"\b(?:fatal )?error: |No rule to make target"), re.compile(r"rror"))


def run(
    command: Sequence[str],
    log: Path,
    seconds: float,
    cwd: Path | None = None,
    heard: Callable[[str], None] | None = None,
) -> None:
    """Run a command with low priority, its output appended to a log; `heard` is called with each whole line of it.

    Raises CommandError where it fails, with the first line of the log that names an error, and KbuildError where it is
    killed or takes longer than `seconds`. The command and its children are killed when the wait for it ends in any
    other way, Ctrl-C among them. Their temporary files are in a folder beside the log, since the kernel's scripts do
    not remove theirs when they are ended.
    """
    temporary = log.resolve().parent / "tmp"
    temporary.mkdir(exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        begin = output.tell()
        process = subprocess.Popen(
            ["nice", "-n", "10", *command],
            cwd=cwd,
            env=_environment(temporary),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # make then ends what it has started
            preexec_fn=dies_with_parent(signal.SIGTERM),
        )
        try:
            status = _wait(process, seconds, log, begin, heard)
        except subprocess.TimeoutExpired as error:
            raise KbuildError(f"{command[0]} has not ended within {seconds:g} s; its output is in {log}") from error
        finally:
            if process.poll() is None:
                _end(process)
            shutil.rmtree(temporary, ignore_errors=True)
    if status:
        kind = CommandError if status > 0 else KbuildError
        raise kind(f"{command[0]} fails: {_first_error(log, begin)} (all of it: {log})")


def _environment(temporary: Path) -> dict[str, str]:
    """Return the environment of a command, without what a make that has called this process would tell another."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    # messages are read here; and the scripts of a kernel tree would leave __pycache__ in the user's tree
    return kept | {"TMPDIR": str(temporary), "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}


def _wait(
    process: subprocess.Popen[bytes], seconds: float, log: Path, begin: int, heard: Callable[[str], None] | None
) -> int:
    """Wait for a command, and pass on the lines that it writes meanwhile."""
    if heard is None:
        return process.wait(seconds)
    until = time.monotonic() + seconds
    with log.open("rb") as written:
        written.seek(begin)
        rest = b""
        while True:
            try:
                status: int | None = process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                status = None
                if time.monotonic() >= until:
                    raise
            *lines, rest = (rest + written.read()).split(b"\n")
            for line in lines:
                heard(line.decode(errors="replace"))
            if status is not None:
                return status


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and its children: asked first, since make and gcc then remove what is half written."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        # what has not ended by then is killed, as is what a process that has ended has left
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    finally:
        # what is killed is there for a moment more; no such group: all of it has ended
        until = time.monotonic() + _GONE_SECONDS
        with suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(process.pid, signal.SIGKILL)
                process.poll()
                time.sleep(0.01)
        process.wait()


def _first_error(log: Path, begin: int) -> str:
    lines = log.read_bytes()[begin:].decode(errors="replace").splitlines()
    for pattern in _ERRORS:
        for line in lines:
            if pattern.search(line):
                return line.strip()
    return (lines or ["no output"])[0].strip()
