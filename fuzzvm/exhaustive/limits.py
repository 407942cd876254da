"""Where a search stops although there is more: states, time, memory. Each stop is said, never silent."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fuzzvm.exhaustive.memory_use import resident, resident_beside
from fuzzvm.machine.errors import StoppedError
from fuzzvm.supervision import inside

__all__ = ["CHECK_EVERY", "Keeper", "Limits", "StoppedError", "Watch", "bounded_by", "limit_process"]

CHECK_EVERY = 4096
"""States between two looks at the clock and at the memory used, at most."""
FIRST_LOOK = 64
LOOK_SECONDS = 0.1
"""Seconds between two looks, about: where states are slow, there are fewer of them between two."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a search; None is no bound. `max_memory` is in bytes of resident memory of the whole process.

    A process may have more than that as long as it has, with its parent and all children of that, less than
    `pooled_memory`. `asked_seconds` is what a message calls the bound on time, where `max_seconds` is a part of it.
    """

    max_states: int | None = None
    max_seconds: float | None = None
    max_memory: int | None = None
    pooled_memory: int | None = None
    asked_seconds: float | None = None


_of_this_process: list[int | None] = [None]


def limit_process(max_memory: int | None) -> None:
    """Bound each search of this process to so many bytes that comes with no bound of memory of its own.

    For a process that searches for another machine, which cannot know how much memory there is here.
    """
    _of_this_process[0] = max_memory


def bounded_by(limits: Limits, lag: float = inside.LAG_SECONDS) -> AbstractContextManager[object]:
    """Bound the body by time and memory where this process is guarded: it raises StoppedError wherever it stands.

    For `lag` seconds after the end of its time it may finish what it is at.
    """
    watch = Watch(limits)
    seconds = limits.max_seconds
    return inside.bounded(
        StoppedError,
        name="" if seconds is None else f"--max-seconds {limits.asked_seconds or seconds:g} reached",
        seconds=seconds,
        lag=lag,
        passed=lambda: f"{passed} reached" if (passed := watch.passed()) else "",
        memory=limits.pooled_memory or limits.max_memory or 0,
    )


class Keeper(Protocol):
    """Keeps a search on disk from time to time (`checkpoint`)."""

    def looked(self, search: Any) -> None:
        """Be told of a look of a search, at which it stands between two states. Raises KeyboardInterrupt."""

    def keep(self, search: Any) -> None:
        """Keep a search that a bound is about to end."""


class Watch:
    """Watches the limits of one search, and has it kept on disk where there is a `keeper`.

    A search looks between two states: all that it has seen of the one is in its sets, and nothing of the next.
    """

    def __init__(self, limits: Limits, keeper: Keeper | None = None, search: Any = None) -> None:
        self.keeper = keeper
        self.search = search
        """What the keeper is to keep."""
        self.transitions = 0
        """Steps that the loop which looks has taken so far."""
        if limits.max_memory is None:
            limits = replace(limits, max_memory=_of_this_process[0])
        self._limits = limits
        self._began = self._looked = time.monotonic()
        self._interval = FIRST_LOOK
        self.next_look = FIRST_LOOK if limits.max_states is None else min(FIRST_LOOK, limits.max_states)

    def look(self, states: int) -> None:
        """Raise StoppedError if a limit is reached; call it when there are `next_look` states."""
        try:
            now = self.check(states)
        except StoppedError:
            if self.keeper is not None:
                self.keeper.keep(self.search)
            raise
        if self.keeper is not None:
            self.keeper.looked(self.search)
        if now - self._looked < LOOK_SECONDS / 2:
            self._interval = min(CHECK_EVERY, self._interval * 2)
        elif now - self._looked > LOOK_SECONDS * 2:
            self._interval = max(1, self._interval // 2)
        self._looked = now
        self.next_look = states + self._interval
        if self._limits.max_states is not None:
            self.next_look = min(self.next_look, self._limits.max_states)

    def check(self, states: int) -> float:
        """Raise StoppedError if a limit is reached, at any time; return the time."""
        limits = self._limits
        now = time.monotonic()
        if limits.max_states is not None and states >= limits.max_states:
            raise StoppedError(f"--max-states {limits.max_states} reached")
        if limits.max_seconds is not None and now - self._began >= limits.max_seconds:
            asked = limits.asked_seconds or limits.max_seconds
            raise StoppedError(f"--max-seconds {asked:g} reached after {states} states{inside.slow_code()}")
        if passed := self.passed():
            raise StoppedError(f"{passed} reached after {states} states")
        return now

    def room(self, size: int) -> None:
        """Raise StoppedError if that many bytes more, about to be taken at once, would be past the limit."""
        if passed := self.passed(size):
            raise StoppedError(f"{passed} reached")

    def passed(self, more: int = 0) -> str:
        """Return which limit of memory is passed with that many bytes more; '' if none."""
        share, pool = self._limits.max_memory, self._limits.pooled_memory
        if share is None or (mine := resident() + more) < share:
            return ""
        if pool is None:
            return f"memory limit of {share >> 20} MiB"
        return f"memory limit of {pool >> 20} MiB for all processes" if mine + resident_beside() >= pool else ""
