"""Calls in processes that stay for the calls after them: what they have worked out is there for the next."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, TypeVar

from fuzzvm.machine.blame import blamed
from fuzzvm.processes.interrupts import interrupts_deferred
from fuzzvm.processes.worker_process import WorkerProcess
from fuzzvm.supervision.channel import LOOK_SECONDS, resident_of
from fuzzvm.supervision.errors import UserCodeError, pack, unpack
from fuzzvm.supervision.outside import Trouble

T = TypeVar("T")

ATTEMPTS = 3
"""Times that a call is made whose process is killed: for want of memory it is each time, by accident once."""


class SameProcesses:
    """Calls as `call_all` does, in processes that are started by the first call and end with the `with` statement.

    Arguments that stand side by side go to the same process where that keeps all of them at work: what it has worked
    out for the one may serve for the other. With `in_turn` they are taken in their order instead, by whoever is free.

    A call that a bound has not stopped is ended with its process, and comes to what `ended` returns of its arguments
    and of the reason. `named` returns of the arguments what a message calls the call. A process that has more than
    `large` bytes when it has made a call is replaced: what it does not give back would count as that of the next.
    """

    def __init__(
        self,
        *,
        in_turn: bool = False,
        attempts: int = ATTEMPTS,
        ended: Callable[..., Any] | None = None,
        named: Callable[..., str] = lambda *arguments: "",
        large: int | None = None,
    ) -> None:
        self._workers: list[WorkerProcess] = []
        self._in_turn = in_turn
        self._attempts = attempts
        self._ended = ended
        self._named = named
        self._large = large

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
        it, ends the processes. A call whose process is killed from outside is made again, in a new one: it is to return
        the same. Raises what the function raises, UserCodeError where user code does not end or has ended a process,
        and BrokenProcessPool where one call has lost too many processes.
        """
        if not self._workers:
            # all at once, as long as nothing here has threads
            with interrupts_deferred():
                self._workers = [WorkerProcess(_work) for _ in range(jobs)]
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
        waiting: list[deque[int]] = (
            [deque(range(count))] * workers
            if self._in_turn
            else [deque(range(count * n // workers, count * (n + 1) // workers)) for n in range(workers)]
        )
        running: dict[Any, tuple[int, int]] = {}
        idle = list(range(workers))
        deaths: Counter[int] = Counter()
        while running or any(waiting):
            while idle and any(waiting):
                number = idle.pop(0)
                # who has done his own goes on at the far end of whoever has most left
                longest = max(waiting, key=len)
                index = waiting[number].popleft() if waiting[number] else longest.pop()
                connection = self._workers[number].connection
                # a process that is gone already is noticed below: it has no answer
                with contextlib.suppress(ConnectionError):
                    connection.send((function, arguments[index]))
                running[connection] = (number, index)
            for ready in wait(list(running), LOOK_SECONDS):
                number, index = running.pop(ready)
                try:
                    result, packed = self._workers[number].connection.recv()
                except (EOFError, ConnectionError) as gone:
                    trouble = self._replace(number)
                    deaths[index] += 1
                    if trouble.blames:
                        raise self._blame(trouble, arguments[index]) from gone
                    if not trouble.by_others and self._ended is not None:
                        # its own guard has ended it, at the end of its time
                        idle.append(number)
                        yield index, self._ended(*arguments[index], trouble.sentence)
                        continue
                    if deaths[index] == self._attempts:
                        raise BrokenProcessPool(
                            f"a process was ended from outside, {trouble.sentence}, for want of memory perhaps; "
                            "try --max-memory or fewer --jobs"
                        ) from gone
                    waiting[number].appendleft(index)
                    idle.append(number)
                    continue
                idle.append(number)
                if packed is not None:
                    raise unpack(packed)
                if (trouble_now := self._workers[number].trouble()) is not None and trouble_now.blames:
                    # a copy of the process has said so, that user code has made
                    raise self._blame(trouble_now, arguments[index])
                if self._large is not None and resident_of(self._workers[number].pid) > self._large:
                    self._workers[number].kill()
                    self._replace(number)
                yield index, result
            for connection, (number, index) in list(running.items()):
                trouble_now = self._workers[number].trouble()
                # what it has answered meanwhile counts
                if trouble_now is None or connection.poll():
                    continue
                if trouble_now.blames or self._ended is None:
                    raise self._blame(trouble_now, arguments[index])
                del running[connection]
                self._replace(number)
                idle.append(number)
                yield index, self._ended(*arguments[index], trouble_now.sentence)

    def _blame(self, trouble: Trouble, arguments: tuple[Any, ...]) -> UserCodeError:
        name = self._named(*arguments)
        return UserCodeError(f"{name}: {trouble.sentence}" if trouble.nowhere and name else trouble.sentence)

    def _replace(self, number: int) -> Trouble:
        """Start a process in the place of one; return what that died of."""
        trouble = self._workers[number].bury()
        with interrupts_deferred():
            self._workers[number] = WorkerProcess(_work)
        return trouble

    def _end(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.bury()


def _work(connection: Connection) -> None:
    """Answer calls until the process is ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        function, values = connection.recv()
        answer: tuple[Any, bytes | None]
        try:
            answer = (function(*values), None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised by who asked
            answer = (None, pack(blamed(error)))
        connection.send(answer)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, which may have had no time to end it.

    The pipe of calls would not tell: a process that is forked has both of its ends.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
