"""Programs that a build runs: which are missing, and running one so that it ends when this process does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from fuzzvm.realkernel.arch import ARCHES, PACKAGES
from fuzzvm.realkernel.children import dies_with_parent
from fuzzvm.realkernel.errors import RealKernelError

CROSS = "aarch64-linux-gnu-"
_END_SECONDS = 5.0
_GONE_SECONDS = 0.5
_PROGRAMS = {
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "gcc": "gcc",
    "ld": "binutils",
    "xz": "xz-utils",
}


def packages(arches: Iterable[str]) -> dict[str, bool]:
    """Return the Debian packages that building and driving kernels takes, each with whether it is here."""
    found: dict[str, bool] = {}
    for arch in arches:
        machine = ARCHES[arch].machine
        found |= _building(arch) | {PACKAGES[machine]: shutil.which(machine) is not None}
    return found


def missing_packages(arch: str) -> list[str]:
    """Return the Debian packages that building a kernel for an architecture lacks here."""
    return [package for package, there in _building(arch).items() if not there]


def _building(arch: str) -> dict[str, bool]:
    found = {package: shutil.which(program) is not None for program, package in _PROGRAMS.items()}
    if arch == "arm64":
        found["gcc-aarch64-linux-gnu"] = shutil.which(f"{CROSS}gcc") is not None
    else:
        # for objtool, which runs on the machine that builds
        found["libelf-dev"] = Path("/usr/include/gelf.h").exists()
    # the guest's program is linked statically
    found["libc6-dev-arm64-cross" if arch == "arm64" else "libc6-dev"] = _has_static_libc(compiler_of(arch))
    return found


def _has_static_libc(compiler: str) -> bool:
    if shutil.which(compiler) is None:
        return False
    asked = subprocess.run([compiler, "-print-file-name=libc.a"], capture_output=True, text=True, check=False)
    return Path(asked.stdout.strip()).is_absolute()


def compiler_of(arch: str) -> str:
    """Return the compiler for the guest's programs; a machine of that architecture needs no other."""
    return f"{CROSS}gcc" if arch == "arm64" else "gcc"


def run(command: Sequence[str], log: Path, seconds: float, cwd: Path | None = None) -> None:
    """Run a command with low priority, its output appended to a log.

    Raises RealKernelError where it fails or takes longer than `seconds`, with the first line of the log that names an
    error. The command and its children are killed when the wait for it ends in any other way, Ctrl-C among them. Their
    temporary files are in a folder beside the log, since the kernel's scripts do not remove theirs when they are ended.
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
            env=os.environ | {"TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # make then ends what it has started
            preexec_fn=dies_with_parent(signal.SIGTERM),
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise RealKernelError(f"{command[0]} has not ended within {seconds:g} s; its output is in {log}") from error
        finally:
            if process.poll() is None:
                _end(process)
            shutil.rmtree(temporary, ignore_errors=True)
    if status:
        raise RealKernelError(f"{command[0]} fails: {_first_error(log, begin)} (all of it: {log})")


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
    wrong = [line for line in lines if "rror" in line]
    return (wrong or lines or ["no output"])[0].strip()
