"""Calls in processes that stay for the calls after them: what they have worked out is there for the next."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from types import TracebackType
from typing import Any, TypeVar

from fuzzvm.explore.processes import new_pool

T = TypeVar("T")


class SameProcesses:
    """Calls as `call_all` does, in processes that are started by the first call and end with the `with` statement."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> SameProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(at_once=error is not None)

    def __call__(
        self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
    ) -> Generator[tuple[int, T], None, None]:
        """Call a function with each of the arguments in up to `jobs` processes, `jobs` being the same in every call.

        Yields the index of each and what it returned, when it is done. Closing the iterator early, or an exception in
        it, ends the processes. Raises what the function raises. With one job it is called in this process.
        """
        if jobs < 2:
            for index, values in enumerate(arguments):
                yield index, function(*values)
            return
        if self._pool is None:
            self._pool = new_pool(jobs)
        done = False
        try:
            futures = {self._pool.submit(function, *values): index for index, values in enumerate(arguments)}
            for future in as_completed(futures):
                yield futures[future], future.result()
            done = True
        finally:
            if not done:
                self._end(at_once=True)

    def _end(self, *, at_once: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        # those of this pool alone: others may have processes of their own in this one
        processes = list(pool._processes.values()) if at_once else []
        pool.shutdown(wait=not at_once, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
