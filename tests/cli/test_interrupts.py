"""Ctrl-C where Python would drop it."""

from __future__ import annotations

import subprocess
import sys

from tests.clock import PATIENCE

IN_A_DESTRUCTOR = """
import signal, time
from fuzzvm.cli.interrupts import raise_dropped_interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
raise_dropped_interrupts()
class Dies:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
try:
    Dies()
    time.sleep(1_000_000)
except KeyboardInterrupt:
    print("heard")
class Fails:
    def __del__(self):
        raise ValueError(3)
Fails()
"""


def test_an_interrupt_that_a_destructor_drops_is_raised_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_DESTRUCTOR], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "heard\n")
    # and nothing else is kept back
    assert "ValueError: 3" in done.stderr and "KeyboardInterrupt" not in done.stderr
