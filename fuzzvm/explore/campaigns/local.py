"""Tasks in processes of this machine, each of which may die at any moment without harm to the others.

A worker has one pipe of its own, so that one that is killed in the middle of a message damages nobody else's. It ends
by itself when the parent is gone: a second pipe, whose other end the parent alone has open, closes then, whatever the
parent died of.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from io import TextIOWrapper
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from fuzzvm.explore.campaigns.executor import Died, Done
from fuzzvm.explore.campaigns.watchdog import Watchdog, place

Task = TypeVar("Task")
Result = TypeVar("Result")

DEPTH = 2
"""Tasks that a worker has at once: it runs one, and need not wait for the parent to send the next."""

# forking starts a worker in milliseconds, with all that is loaded and compiled; the parent has no threads
_CONTEXT = multiprocessing.get_context("fork")


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    stack: TextIOWrapper
    """Where the worker stood when its watchdog ended it; empty otherwise."""
    tasks: deque[tuple[int, Any]] = field(default_factory=deque)
    """What it has been sent and not reported. It runs them in order, so the first one is under way."""


class LocalExecutor(Generic[Task, Result]):
    """Calls a function with each task, in `jobs` processes. `hook_seconds` goes to their watchdogs.

    The function gets the task and the watchdog of its process.
    """

    def __init__(self, function: Callable[[Task, Watchdog], Result], jobs: int, hook_seconds: float) -> None:
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
        return [worker.process.pid or 0 for worker in self._workers]

    def submit(self, key: int, task: Task) -> None:
        worker = min(self._workers, key=lambda one: len(one.tasks))
        worker.tasks.append((key, task))
        # one that has just died says so when it is waited for
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send((key, task))

    def wait(self, seconds: float) -> list[Done[Result] | Died]:
        while self._left_over and any(len(worker.tasks) < DEPTH for worker in self._workers):
            self.submit(*self._left_over.popleft())
        ready = set(wait([worker.pipe for worker in self._workers], seconds))
        reports: list[Done[Result] | Died] = []
        for worker in [worker for worker in self._workers if worker.pipe in ready]:
            try:
                key, result = worker.pipe.recv()
            except (EOFError, OSError):
                # the latter where it was killed in the middle of a message
                reports += self._bury(worker)
                if not self._stop.value:
                    self._start()
            else:
                worker.tasks.popleft()
                reports.append(Done(key, result))
        return reports

    def close(self, seconds: float) -> list[Done[Result] | Died]:
        self._stop.value = 1
        until = time.monotonic() + seconds
        reports: list[Done[Result] | Died] = []
        while any(worker.tasks for worker in self._workers) and (left := until - time.monotonic()) > 0:
            reports += self.wait(left)
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

    def _start(self) -> None:
        ours, theirs = _CONTEXT.Pipe()
        stack = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - it lives as long as the worker
        process = _CONTEXT.Process(
            target=_work,
            args=(
                theirs,
                [ours, *(worker.pipe for worker in self._workers)],
                self._life,
                self._stop,
                self._function,
                Watchdog(self._hook_seconds, stack),
            ),
            daemon=True,
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours, stack))

    def _bury(self, worker: _Worker) -> list[Died]:
        """Forget a worker that has died; return the task that died with it. Those that it had not begun stay."""
        self._workers.remove(worker)
        worker.process.join()
        worker.pipe.close()
        code = worker.process.exitcode or 0
        with worker.stack as stack:
            stack.seek(0)
            stood = place(stack.read())
        if stood:
            how = f"{stood} has neither yielded nor returned"
        elif code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        else:
            how = f"exit status {code}"
        if self._stop.value or not worker.tasks:
            return []
        key, _ = worker.tasks.popleft()
        self._left_over.extend(worker.tasks)
        return [Died(key, how, by_others=code == -signal.SIGKILL)]


def _work(
    pipe: Connection,
    others: list[Connection],
    life: tuple[int, int],
    stop: Any,
    function: Callable[[Any, Watchdog], Any],
    watchdog: Watchdog,
) -> None:
    # a terminal sends Ctrl-C, and a system that shuts down SIGTERM, to all processes: the parent has the last word
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for inherited in others:
        inherited.close()
    read, write = life
    os.close(write)
    threading.Thread(target=_end_with_the_parent, args=(read,), daemon=True).start()
    # what was there before the fork is no garbage, and looking through it takes time
    gc.freeze()
    try:
        while not stop.value:
            key, task = pipe.recv()
            if stop.value:
                break
            pipe.send((key, function(task, watchdog)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # the parent is gone
        pass
    # the parent's objects are not this process' to tear down
    os._exit(0)


def _end_with_the_parent(life: int) -> None:
    os.read(life, 1)
    os._exit(0)
