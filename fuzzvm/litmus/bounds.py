"""Bounds of one exploration: on timelines, and on time."""

from __future__ import annotations

import time

TICKS = 64
"""Calls of `tick` between two looks at the clock; a look takes longer than what is done between two calls."""


class BoundReachedError(Exception):
    """A bound was reached; the message names it."""


class Bounds:
    """Watches the bounds of one exploration; None is no bound. Time counts from when this is made."""

    def __init__(self, max_states: int | None = None, max_seconds: float | None = None) -> None:
        self._max_states = max_states
        self._max_seconds = max_seconds
        self._began = time.monotonic()
        self._ticks = 0

    def state(self, count: int) -> None:
        """Raise BoundReachedError if so many timelines are too many."""
        if self._max_states is not None and count > self._max_states:
            raise BoundReachedError(f"--max-states {self._max_states} reached")

    def tick(self) -> None:
        """Raise BoundReachedError if the time is up; call it in every loop that may take long."""
        self._ticks += 1
        if self._max_seconds is not None and not self._ticks % TICKS:
            self.look()

    def look(self) -> None:
        """Raise BoundReachedError if the time is up."""
        if self._max_seconds is not None and time.monotonic() - self._began >= self._max_seconds:
            raise BoundReachedError(f"--max-seconds {self._max_seconds:g} reached")
