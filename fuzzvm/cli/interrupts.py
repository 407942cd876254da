"""Raises Ctrl-C again where Python has dropped it.

Python drops an exception that a signal handler raises while a destructor, the callback of a weak reference or a
callback of `os.fork` runs: it calls `sys.unraisablehook` and goes on.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

from fuzzvm.supervision import user_code

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

DELAY = 0.01
"""Seconds until it is raised again: more than it takes to leave the hook."""


def raise_dropped_interrupts() -> None:
    """Have each KeyboardInterrupt that is dropped in this process raised again, in its main thread."""
    report = sys.unraisablehook

    def hook(dropped: UnraisableHookArgs) -> None:
        error = dropped.exc_value
        # code of the user may raise one as well
        if not issubclass(dropped.exc_type, KeyboardInterrupt) or (error and not user_code.is_interrupt(error)):
            report(dropped)
            return
        # later, as what is raised in here would not be heard either; and by a thread, as timers may be somebody's
        main = threading.main_thread().ident
        assert main is not None
        again = threading.Timer(DELAY, signal.pthread_kill, (main, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
