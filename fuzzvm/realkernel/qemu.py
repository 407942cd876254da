"""A QEMU that boots a kernel: its console, its gdb stub, and its end, which is certain.

It leaves nothing behind, not even where it and this process are killed, since nothing of it has a name in a file system
while it runs: the initramfs is a memfd, and the path of the gdb stub's socket is gone before QEMU starts.

KVM is not used: every vCPU is a thread of TCG, and breakpoints and watchpoints are as many as one likes.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from fuzzvm.kbuild.children import dies_with_parent
from fuzzvm.realkernel.arch import PACKAGES, Arch
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.gdb import Gdb

MEMORY = "1G"
_APPEND = "nokaslr rcupdate.rcu_cpu_stall_suppress=1 panic=-1 kasan_multi_shot"
"""The addresses of System.map; a parked CPU is no stall; a panic ends QEMU; no report hides a later one."""


class Qemu:
    """A running guest, as a context: leaving it kills QEMU.

    QEMU dies with this process in any case: with an exception, at exit, and where this process is killed, since the
    kernel then sends it SIGKILL.
    """

    def __init__(
        self,
        arch: Arch,
        image: Path,
        initramfs: bytes,
        cpus: int,
        *,
        memory: str = MEMORY,
        append: str = "",
        binary: str | None = None,
    ) -> None:
        program = shutil.which(binary or arch.machine)
        if program is None:
            raise RealKernelError(f"{arch.machine} is not installed: apt-get install {PACKAGES[arch.machine]}")
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._gdb: Gdb | None = None
        listening, self._stub = _listen()
        try:
            self._process = self._start(program, arch, image, initramfs, cpus, listening, memory, append)
        except BaseException:
            os.close(self._stub)
            raise
        finally:
            listening.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        atexit.register(self.close)
        self._reader.start()

    def __enter__(self) -> Qemu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _start(
        program: str,
        arch: Arch,
        image: Path,
        initramfs: bytes,
        cpus: int,
        listening: socket.socket,
        memory: str,
        append: str,
    ) -> subprocess.Popen[bytes]:
        with os.fdopen(os.memfd_create("initramfs"), "wb") as ramfs:
            ramfs.write(initramfs)
            ramfs.flush()
            inherited = (listening.fileno(), ramfs.fileno())
            command = [
                program,
                *arch.qemu,
                # the firmware's MP table has the first CPU of each socket
                *("-accel", "tcg,thread=multi", "-smp", f"{cpus},sockets={cpus},cores=1,threads=1", "-m", memory),
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
                *("-chardev", f"socket,id=gdb,fd={inherited[0]},server=on,wait=off", "-gdb", "chardev:gdb"),
                *("-kernel", str(image), "-initrd", f"/proc/self/fd/{inherited[1]}"),
                *("-append", f"console={arch.console} {arch.append} {_APPEND} {append}".strip()),
            ]
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Ctrl-C is for this process, which ends QEMU in good order
                start_new_session=True,
                pass_fds=inherited,
                preexec_fn=dies_with_parent(signal.SIGKILL),
            )

    @property
    def pid(self) -> int:
        """Return the number of QEMU's process."""
        return self._process.pid

    def close(self) -> None:
        """Kill QEMU and wait for its end; nothing where that was done."""
        atexit.unregister(self.close)
        if self._gdb is not None:
            self._gdb.close()
            self._gdb = None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        # a Ctrl-C may have come before it was started
        if self._reader.is_alive():
            self._reader.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if self._stub >= 0:
            os.close(self._stub)
            self._stub = -1

    def gdb(self) -> Gdb:
        """Connect to the gdb stub, which stops the guest; return the connection."""
        if self._gdb is None:
            self._gdb = Gdb(Path(f"/proc/self/fd/{self._stub}"))
        return self._gdb

    def lines(self) -> list[str]:
        """Return what the console has printed until now, without the time stamps of the kernel."""
        with self._changed:
            return list(self._lines)

    def alive(self) -> None:
        """Raise RealKernelError where QEMU has ended."""
        with self._changed:
            if self._ended:
                raise RealKernelError(f"QEMU has ended: {self._last_words()}")

    def wait_for(self, found: Callable[[str], bool], seconds: float, start: int = 0) -> str:
        """Return the first line from number `start` on that `found` says yes to.

        Raises RealKernelError where QEMU ends first, the guest panics, or none comes in that time.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for line in self._lines[start:]:
                    if found(line):
                        return line
                    if "Kernel panic" in line:
                        raise RealKernelError(f"the kernel does not come up: {line}")
                start = len(self._lines)
                left = deadline - time.monotonic()
                if self._ended:
                    raise RealKernelError(f"QEMU has ended: {self._last_words()}")
                if left <= 0 or not self._changed.wait(left):
                    last = self._lines[-1] if self._lines else "nothing printed"
                    raise RealKernelError(f"the guest does not go on within {seconds:g} s; its last line: {last}")

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        words = self._process.stderr.read().decode(errors="replace").split("\n")
        return " ".join(filter(None, words[-3:])) or (self._lines[-1] if self._lines else "nothing printed")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = _without_stamp(raw.decode(errors="replace").rstrip("\r\n"))
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _listen() -> tuple[socket.socket, int]:
    """Return a socket that listens, and an open file through which this process alone can connect to it.

    The path that it is bound to is gone again: an abstract address would be open to every user of the machine, and the
    stub's monitor commands start programs.
    """
    with tempfile.TemporaryDirectory(prefix="fuzzvm-qemu-") as folder:
        path = Path(folder) / "gdb"
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(path))
            listening.listen(1)
            return listening, os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            listening.close()
            raise RealKernelError(f"no socket for QEMU's gdb stub at {path}: {error}") from error


def _without_stamp(line: str) -> str:
    """Return a console line without `[    1.234567] ` before it."""
    if line.startswith("["):
        stamp, bracket, rest = line.partition("] ")
        if bracket and stamp[1:].strip().replace(".", "").isdigit():
            return rest
    return line
