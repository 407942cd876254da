"""How much memory processes have, and the machine has left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path


def resident() -> int:
    """Return the bytes of memory that this process has now; its peak, where the system does not say."""
    if (now := _resident("self")) is not None:
        return now
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_beside() -> int:
    """Return the bytes of memory that the parent of this process and its other children have now; 0 if nobody knows.

    What processes share after a fork is counted for each of them.
    """
    parent = os.getppid()
    beside = {parent}
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{parent}/task").iterdir():
            beside.update(map(int, (thread / "children").read_text(encoding="ascii").split()))
    return sum(_resident(pid) or 0 for pid in beside - {os.getpid()})


def _resident(process: int | str) -> int | None:
    """Return the bytes of memory that a process has now, None where the system does not say or it has ended."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def available_memory() -> int | None:
    """Return the bytes of memory that this machine could still give, or None where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def release_memory() -> None:
    """Give memory that is free in this process back to the system, so that the next search is not charged for it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # glibc's own; elsewhere freed memory stays with the process, and limits are reached a little early
        ctypes.CDLL(None).malloc_trim(0)


class LeftBehind:
    """Measures how much more memory this process has than when the object was made, or released something last."""

    def __init__(self) -> None:
        self._before = resident()

    def release(self, large: int) -> bool:
        """Give free memory back if that is more than so many bytes; return whether it was."""
        if resident() <= self._before + large:
            return False
        release_memory()
        self._before = resident()
        return True
