"""What is left of the limits of a verdict, which several searches share."""

from __future__ import annotations

import time
from dataclasses import replace

from fuzzvm.exhaustive.limits import Limits


class Deadline:
    """The limits of one verdict. Its seconds count from when this is made; every other bound is for each search.

    `spent` are seconds that were used up before.
    """

    def __init__(self, limits: Limits | None, spent: float = 0.0) -> None:
        self.limits = limits or Limits()
        self._began = time.monotonic() - spent

    @property
    def seconds(self) -> float:
        """Seconds since it was made, and those spent before."""
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether no seconds are left."""
        return self.limits.max_seconds is not None and self.seconds >= self.limits.max_seconds

    def left(self, share: float = 1.0, max_states: int | None = None) -> Limits:
        """Return the limits with that share of the seconds that are left, and with `max_states` where it is given."""
        limits = self.limits if max_states is None else replace(self.limits, max_states=max_states)
        if limits.max_seconds is None:
            return limits
        left = share * max(0.0, limits.max_seconds - self.seconds)
        return replace(limits, max_seconds=left, asked_seconds=limits.asked_seconds or limits.max_seconds)
