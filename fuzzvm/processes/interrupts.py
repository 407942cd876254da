"""Ctrl-C while processes are started."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Deliver a Ctrl-C that comes in the block at its end. For blocks that start processes.

    An exception in the middle of a fork is dropped by Python, or leaves a process that nobody knows of.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        # not Python's, or not for this thread to decide
        yield
        return
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)
