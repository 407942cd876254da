"""Tasks in processes of this machine, each of which may die at any moment without harm to the others.

A worker has one pipe of its own, so that one that is killed in the middle of a message damages nobody else's. It ends
by itself when the parent is gone: a second pipe, whose other end the parent alone has open, closes then, whatever the
parent died of.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from fuzzvm.campaigns.executor import Died, Done
from fuzzvm.processes.interrupts import interrupts_deferred
from fuzzvm.processes.worker_process import WorkerProcess
from fuzzvm.supervision.channel import LOOK_SECONDS
from fuzzvm.supervision.outside import Trouble

Task = TypeVar("Task")
Result = TypeVar("Result")

DEPTH = 2
"""Tasks that a worker has at once: it runs one, and need not wait for the parent to send the next."""

# the parent has no threads
_CONTEXT = multiprocessing.get_context("fork")


@dataclass
class _Worker:
    process: WorkerProcess
    tasks: deque[tuple[int, Any]] = field(default_factory=deque)
    """What it has been sent and not reported. It runs them in order, so the first one is under way."""


class LocalExecutor(Generic[Task, Result]):
    """Calls a function with each task, in `jobs` processes. `hook_seconds` is what a call of user code may take."""

    def __init__(self, function: Callable[[Task], Result], jobs: int, hook_seconds: float) -> None:
        self._function = function
        self._hook_seconds = hook_seconds
        self._life = os.pipe()
        # no Event: that has a lock, and a worker that is killed while it holds it would lock out everybody
        self._stop = _CONTEXT.RawValue("b", 0)
        self._workers: list[_Worker] = []
        self._left_over: deque[tuple[int, Any]] = deque()
        """Tasks that a worker had been sent and not begun when it died."""
        for _ in range(jobs):
            self._start()

    @property
    def room(self) -> int:
        return sum(DEPTH - len(worker.tasks) for worker in self._workers) - len(self._left_over)

    @property
    def pids(self) -> list[int]:
        """The processes, for whoever wants to know what to look at."""
        return [worker.process.pid for worker in self._workers]

    def submit(self, key: int, task: Task) -> None:
        worker = min(self._workers, key=lambda one: len(one.tasks))
        worker.tasks.append((key, task))
        # one that has just died says so when it is waited for
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.process.connection.send((key, task))

    def wait(self, seconds: float) -> list[Done[Result] | Died]:
        until = time.monotonic() + seconds
        reports: list[Done[Result] | Died] = []
        while not reports and (left := until - time.monotonic()) > 0:
            reports = self._look(min(left, LOOK_SECONDS))
        return reports

    def close(self, seconds: float) -> list[Done[Result] | Died]:
        self._stop.value = 1
        until = time.monotonic() + seconds
        reports: list[Done[Result] | Died] = []
        while any(worker.tasks for worker in self._workers) and (left := until - time.monotonic()) > 0:
            # a look and not a wait: the last worker may go without a report
            reports += self._look(min(left, LOOK_SECONDS))
        self.kill()
        return reports

    def kill(self) -> None:
        """End all processes at once."""
        self._stop.value = 1
        for worker in self._workers:
            worker.process.kill()
        for worker in list(self._workers):
            self._bury(worker)
        for end in self._life:
            with contextlib.suppress(OSError):
                os.close(end)
        self._life = (-1, -1)

    def _look(self, seconds: float) -> list[Done[Result] | Died]:
        """Return what has come of which; wait up to that long for the first."""
        while self._left_over and any(len(worker.tasks) < DEPTH for worker in self._workers):
            self.submit(*self._left_over.popleft())
        ready = set(wait([worker.process.connection for worker in self._workers], seconds))
        reports: list[Done[Result] | Died] = []
        for worker in list(self._workers):
            if worker.process.connection not in ready:
                if (trouble := worker.process.trouble()) is None:
                    continue
                worker.process.kill()
                reports += self._bury(worker, trouble)
            else:
                try:
                    key, result = worker.process.connection.recv()
                except (EOFError, OSError):
                    # the latter where it was killed in the middle of a message
                    reports += self._bury(worker)
                else:
                    worker.tasks.popleft()
                    reports.append(Done(key, result))
                    continue
            if not self._stop.value:
                self._start()
        return reports

    def _start(self) -> None:
        with interrupts_deferred():
            process = WorkerProcess(_work, self._life, self._stop, self._function, hook_seconds=self._hook_seconds)
            self._workers.append(_Worker(process))

    def _bury(self, worker: _Worker, known: Trouble | None = None) -> list[Died]:
        """Forget a worker that has died; return the task that died with it. Those that it had not begun stay."""
        self._workers.remove(worker)
        died = worker.process.bury()
        trouble = known or died
        if self._stop.value or not worker.tasks:
            return []
        key, _ = worker.tasks.popleft()
        self._left_over.extend(worker.tasks)
        return [Died(key, trouble.sentence, by_others=trouble.by_others, by_user_code=trouble.blames)]


def _work(pipe: Connection, life: tuple[int, int], stop: Any, function: Callable[[Any], Any]) -> None:
    # a terminal sends Ctrl-C, and a system that shuts down SIGTERM, to all processes: the parent has the last word
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    read, write = life
    os.close(write)
    threading.Thread(target=_end_with_the_parent, args=(read,), daemon=True).start()
    try:
        while not stop.value:
            key, task = pipe.recv()
            if stop.value:
                break
            pipe.send((key, function(task)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # the parent is gone
        pass
    # the parent's objects are not this process' to tear down
    os._exit(0)


def _end_with_the_parent(life: int) -> None:
    os.read(life, 1)
    os._exit(0)
