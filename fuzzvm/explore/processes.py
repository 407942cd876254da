"""Calls that do not depend on each other, in several processes of this machine."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Protocol, TypeVar

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
    function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int
) -> Generator[tuple[int, T], None, None]:
    """Call a function with each of the arguments in up to `jobs` processes, the first ones first.

    Yields the index of each and what it returned, when it is done. Closing the iterator, or an exception in it, ends
    the processes. Raises what the function raises. With one job, or one call, it is called in this process.
    """
    if jobs < 2 or len(arguments) < 2:
        for index, values in enumerate(arguments):
            yield index, function(*values)
        return
    # forking starts a worker in milliseconds, with all that is loaded and compiled; nothing here has threads yet
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(min(jobs, len(arguments)), mp_context=context, initializer=_begin)
    done = False
    try:
        futures = {pool.submit(function, *values): index for index, values in enumerate(arguments)}
        for future in as_completed(futures):
            yield futures[future], future.result()
        done = True
    finally:
        pool.shutdown(wait=done, cancel_futures=True)
        if not done:
            for process in multiprocessing.active_children():
                process.terminate()


def _begin() -> None:
    """Let Ctrl-C end a worker at once and without a word: the parent has the last one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # what was there before the fork is no garbage, and looking through it for some takes as long as a small search
    gc.freeze()
