"""Calls that do not depend on each other, in several processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

from fuzzvm.processes.same_processes import SameProcesses
from fuzzvm.supervision import inside

T = TypeVar("T")


class Caller(Protocol):
    """What `call_all` is: something that makes calls somewhere."""

    def __call__(
        self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
    ) -> Generator[tuple[int, T], None, None]:
        """Call a function with each of the arguments, up to `jobs` at a time; function and arguments can be pickled."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call_all(
    function: Callable[..., T],
    arguments: Sequence[tuple[Any, ...]],
    jobs: int,
    *,
    ended: Callable[..., T] | None = None,
    named: Callable[..., str] = lambda *arguments: "",
    large: int | None = None,
) -> Generator[tuple[int, T], None, None]:
    """Call a function with each of the arguments in up to `jobs` processes, the first ones first.

    Yields the index of each and what it returned, when it is done. Closing the iterator, or an exception in it, ends
    the processes. Raises what the function raises. With one job, or one call, it is called in this process, unless that
    is guarded: then user code does not run where its end would be that of all. `ended`, `named` and `large` are as for
    SameProcesses, which says what is raised where a process has an end of its own.
    """
    jobs = min(jobs, len(arguments))
    if jobs < 2 and not inside.hook_seconds():
        for index, values in enumerate(arguments):
            yield index, function(*values)
        return
    with SameProcesses(in_turn=True, attempts=1, ended=ended, named=named, large=large) as call:
        yield from call(function, arguments, jobs)
