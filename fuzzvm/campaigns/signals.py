"""What Ctrl-C, SIGTERM and SIGHUP do to a search: the first lets it end, the second ends the process at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Protocol


class Interruptible(Protocol):
    """A search that looks at `interrupted` between two steps of its own, and ends where it is set."""

    interrupted: bool


@contextlib.contextmanager
def first_signal_ends(
    search: Interruptible,
    *,
    first: Callable[[], object] = lambda: None,
    second: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """In the body, let the first signal set `interrupted`, and the second raise KeyboardInterrupt.

    `first` and `second` are called with them. An exception at the first one would not do: libraries swallow it in their
    own callbacks. Outside the main thread nothing is changed: whoever owns that decides what a signal does.
    """

    def end(number: int, frame: object) -> None:
        if search.interrupted:
            second()
            raise KeyboardInterrupt
        search.interrupted = True
        first()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # nohup and the like have said that it is not to end
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
