"""Time in tests. A test waits for an event; time decides only that something that never comes is not waited for.

So that a wait can be generous and still tell, what a test ends early has no end of its own: `FOREVER`, not 60 seconds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

PATIENCE = 600.0
"""Seconds after which an event that is waited for will never come, however busy the machine is."""

FOREVER = 1_000_000
"""Seconds, or loops, that no test lives to see the end of."""

# seconds of processor time: what is tested takes a fraction of one, and what hangs takes minutes, or for ever
HANG = 60.0


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds. Raises AssertionError when it never will."""
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, "what is waited for has not come"
        time.sleep(0.02)


@contextmanager
def no_hang() -> Iterator[None]:
    """Fail where the body takes more than HANG seconds of this process's processor time."""
    began = time.process_time()
    yield
    assert time.process_time() - began < HANG


def slow_clock(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let a tenth of a second pass between any two looks of these modules at the clock, on any machine."""
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(looks) / 10)
    for module in modules:
        monkeypatch.setattr(f"{module}.time", clock)
