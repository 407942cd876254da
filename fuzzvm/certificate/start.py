"""Where `fuzzvm-check` begins: the check runs in a process of its own, as every command of fuzzvm does."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Check the certificate that the command line names, and exit with its status."""
    # nothing is imported before that takes time
    held_back = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if held_back else ()
    from fuzzvm.supervision import supervisor

    if supervisor.available():
        sys.exit(supervisor.run(_command, "fuzzvm-check", mask))
    if held_back:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    sys.exit(_command())


def _command() -> int:
    from fuzzvm.certificate.program import run

    return run()
