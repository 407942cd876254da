"""A scheme that does the same every time, in a file that makes no set."""

from __future__ import annotations

import sys

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Steps


class Locked(Mitigation):
    """Does the same every time, and is safe."""

    name = "locked"
    one_walker = "safe"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)

    def after_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)


CALLS = 0


class CountsForItself(Locked):
    """Keeps something that nothing goes by."""

    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        global CALLS
        CALLS += 1
        yield from ()


class EndsHere(Locked):
    """Comes to no end in a second process."""

    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        while sys.argv[0].endswith("second.py"):
            pass
        yield from ()
