"""Time in tests: a test tells a hang from an answer, never a slow machine from a fast one."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.explore.campaigns.killing import children

# seconds: what takes a fraction of a second on an idle machine takes some seconds on one that does other things too,
# and what hangs takes minutes, or for ever
HANG = 20.0


@contextmanager
def no_hang() -> Iterator[None]:
    """Fail where the body takes more than HANG seconds of this process's processor time."""
    began = time.process_time()
    yield
    assert time.process_time() - began < HANG


def worked(pid: int) -> float:
    """Return the seconds of processor time that a process and its children have used; 0 once it has ended."""
    ticks = 0
    for process in (pid, *children(pid)):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # utime and stime, fields 14 and 15 of proc(5): the first two were cut off
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_until_worked(pid: int, seconds: float) -> None:
    """Wait until a process has used that much processor time: it is past its start then, on any machine."""
    until = time.monotonic() + 60
    while worked(pid) < seconds:
        assert time.monotonic() < until
        time.sleep(0.02)


def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tenth of a second pass between any two looks of a search at the clock, on any machine."""
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(looks) / 10)
    for module in ("limits", "verdict"):
        monkeypatch.setattr(f"fuzzvm.explore.exhaustive.{module}.time", clock)
