"""Calls in processes that stay for the calls after them: what they have worked out is there for the next."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, TypeVar

from fuzzvm.explore.processes import begin_worker

T = TypeVar("T")

ATTEMPTS = 3
"""Times that a call is made whose process dies: for want of memory it dies each time, by accident once."""


class SameProcesses:
    """Calls as `call_all` does, in processes that are started by the first call and end with the `with` statement.

    Arguments that stand side by side go to the same process where that keeps all of them at work: what it has worked
    out for the one may serve for the other.
    """

    def __init__(self) -> None:
        self._workers: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> SameProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __call__(
        self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
    ) -> Generator[tuple[int, T], None, None]:
        """Call a function with each of the arguments in up to `jobs` processes, `jobs` being the same in every call.

        Yields the index of each and what it returned, when it is done. Closing the iterator early, or an exception in
        it, ends the processes. A call whose process is ended from outside is made again, in a new one: it is to return
        the same. Raises what the function raises, and BrokenProcessPool where one call has lost ATTEMPTS processes.
        With one job it is called in this process.
        """
        if jobs < 2:
            for index, values in enumerate(arguments):
                yield index, function(*values)
            return
        if not self._workers:
            # all at once, as long as nothing here has threads
            self._workers = [_started() for _ in range(jobs)]
        done = False
        try:
            yield from self._calls(function, arguments)
            done = True
        finally:
            if not done:
                self._end()

    def _calls(
        self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]
    ) -> Generator[tuple[int, T], None, None]:
        count, workers = len(arguments), len(self._workers)
        waiting = [deque(range(count * n // workers, count * (n + 1) // workers)) for n in range(workers)]
        running: dict[Any, tuple[int, int]] = {}
        idle = list(range(workers))
        deaths: Counter[int] = Counter()
        while running or any(waiting):
            while idle and any(waiting):
                number = idle.pop(0)
                # who has done his own goes on at the far end of whoever has most left
                longest = max(waiting, key=len)
                index = waiting[number].popleft() if waiting[number] else longest.pop()
                connection = self._workers[number][1]
                # a process that is gone already is noticed below: it has no answer
                with contextlib.suppress(ConnectionError):
                    connection.send((function, arguments[index]))
                running[connection] = (number, index)
            for ready in wait(list(running)):
                number, index = running.pop(ready)
                try:
                    result, error = self._workers[number][1].recv()
                except (EOFError, ConnectionError) as gone:
                    deaths[index] += 1
                    if deaths[index] == ATTEMPTS:
                        raise BrokenProcessPool(f"{ATTEMPTS} processes were ended from outside in one call") from gone
                    self._replace(number)
                    waiting[number].appendleft(index)
                    idle.append(number)
                    continue
                idle.append(number)
                if error is not None:
                    raise error
                yield index, result

    def _replace(self, number: int) -> None:
        process, connection = self._workers[number]
        connection.close()
        # it may have closed its end and not have ended
        process.kill()
        process.join()
        self._workers[number] = _started()

    def _end(self) -> None:
        workers, self._workers = self._workers, []
        for process, _ in workers:
            process.terminate()
        for process, connection in workers:
            process.join()
            connection.close()


def _started() -> tuple[BaseProcess, Connection]:
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,), daemon=True)
    process.start()
    # only the process itself holds that end then, so that the pipe tells when it is gone
    there.close()
    return process, here


def _work(connection: Connection) -> None:
    """Answer calls until the process is ended."""
    begin_worker()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        function, values = connection.recv()
        answer: tuple[Any, Exception | None]
        try:
            answer = (function(*values), None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised by who asked
            error.add_note(traceback.format_exc())
            answer = (None, error)
        connection.send(answer)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, which may have had no time to end it.

    The pipe of calls would not tell: a process that is forked has both of its ends.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
