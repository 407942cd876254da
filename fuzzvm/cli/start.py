"""Where `fuzzvm` begins: the command runs in a process of its own, and what becomes of that is seen.

Nothing is imported here that takes time, and Ctrl-C is held back from the first line on until somebody heeds it.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    held_back = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if held_back else ()
    from fuzzvm.supervision import supervisor

    if supervisor.available():
        sys.exit(supervisor.run(_command, "fuzzvm", mask))
    if held_back:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    sys.exit(_command())


def _command() -> int:
    from fuzzvm.cli.main import run

    return run()
