"""Programs that do not outlive the thread that started them, whatever ends it."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# looked up here: the child, between fork and exec, is to import nothing
_PRCTL = ctypes.CDLL(None).prctl


def dies_with_parent(sent: signal.Signals) -> Callable[[], None]:
    """Return a preexec_fn: the kernel sends the child this signal when its parent is gone (prctl(2), PR_SET_PDEATHSIG).

    "Parent" is the thread that forks. A program that changes its user by exec would lose it; those here do not.
    """
    parent = os.getpid()

    def before_exec() -> None:
        _PRCTL(_PR_SET_PDEATHSIG, int(sent))
        if os.getppid() != parent:
            # it was gone before that
            os._exit(1)

    return before_exec
