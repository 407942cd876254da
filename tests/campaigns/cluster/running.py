"""A cluster of dask on this machine: a scheduler and workers, each a process of its own, as on any other machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.campaigns.killing import alive, children
from tests.clock import wait_until

ROOT = Path(__file__).resolve().parents[3]


class Running:
    """A scheduler and its workers, of one thread each. Their folder is their own: no file of a test's lies there.

    `environment` is theirs beside what this process has. `of_scheduler` and `of_worker` are further arguments.
    """

    def __init__(
        self,
        folder: Path,
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
        of_scheduler: Sequence[str] = (),
        of_worker: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._of_worker = of_worker
        self._environment = environment or {}
        self.folder.mkdir(exist_ok=True)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", ROOT, "--host", "127.0.0.1", "--port", "0", *of_scheduler)
        wait_until(lambda: "Scheduler at:" in self.log("scheduler"))
        found = re.search(r"Scheduler at:\s+(\w+)://(\S+)", self.log("scheduler"))
        assert found is not None
        self.scheme, self.address = found.groups()
        self.restore(workers)

    @property
    def executor(self) -> tuple[str, str]:
        """The arguments with which a command uses it."""
        return "--executor", f"dask://{self.address}"

    def restore(self, workers: int = 2) -> None:
        """Have so many workers again, whatever a test has done to them; nothing is left of what it had them do."""
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.children())
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        started = [self.start_worker() for _ in range(workers - len(self.workers))]
        for name in started:
            wait_until(lambda name=name: "Starting established connection" in self.log(name))

    def start_worker(self, root: Path = ROOT) -> str:
        """Start a worker with the fuzzvm below that folder; return the name of its log."""
        name = f"worker-{len(self._processes)}"
        arguments = (
            f"{self.scheme}://{self.address}",
            "--nthreads",
            "1",
            "--no-nanny",
            "--local-directory",
            str(self.folder),
            *self._of_worker,
        )
        self.workers.append(self._start("worker", root, *arguments, log=name))
        return name

    def log(self, name: str) -> str:
        """Return what a process has said."""
        return (self.folder / f"{name}.log").read_text()

    def children(self) -> list[int]:
        """Return the processes in which workers have tasks run."""
        return [pid for worker in self.workers for pid in children(worker.pid) if alive(pid)]

    def end(self) -> None:
        """End all of it."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _start(self, kind: str, root: Path, *arguments: str, log: str = "") -> subprocess.Popen[bytes]:
        with (self.folder / f"{log or kind}.log").open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments, "--no-dashboard"],
                cwd=self.folder,
                stdout=file,
                stderr=file,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(ROOT)])} | self._environment,
            )
        self._processes.append(process)
        return process
