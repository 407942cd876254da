"""Sees which locks a CPU fails to get while it is driven: breakpoints on the functions that try, and that wait."""

from __future__ import annotations

from collections.abc import Callable

from fuzzvm.realkernel.cpus import Cpus
from fuzzvm.realkernel.outcome import FailedLock
from fuzzvm.realkernel.symbols import Symbols

_TRYLOCKS = ("down_read_trylock", "down_write_trylock", "mutex_trylock")
_WAITS = ("rwsem_down_read_slowpath", "rwsem_down_write_slowpath", "__mutex_lock_slowpath", "percpu_rwsem_wait")
_OWN = ("down_", "rwsem_", "mutex_", "__mutex", "percpu_", "__percpu")
"""How the names of the locks' own functions begin."""
_MMS = ("init_mm",)

Handler = Callable[[int], None]
"""Called with the CPU that has come to a breakpoint."""


class Locks:
    """The locks that one CPU did not get. `breakpoints` is what to stop at, and what to call then.

    An entry for the return of a trylock comes and goes; `changed` is called with its address and whether it is new.
    """

    def __init__(self, cpus: Cpus, symbols: Symbols, changed: Callable[[int, Handler | None], None]) -> None:
        self._cpus = cpus
        self._symbols = symbols
        self._changed = changed
        self._driven = -1
        self.failed: list[FailedLock] = []
        """What the CPU that is driven did not get since it was started."""

    def start(self, cpu: int) -> None:
        """Set the breakpoints, on those of the functions that this kernel has; only this CPU's locks count."""
        self._driven = cpu
        self.failed = []
        for name in _TRYLOCKS:
            if name in self._symbols:
                self._changed(self._symbols.address(name), self._tries)
        for name in _WAITS:
            if name in self._symbols:
                self._changed(self._symbols.address(name), self._waits)

    def _tries(self, cpu: int) -> None:
        if cpu != self._driven:
            return
        function = self._symbols.function(self._cpus.pc(cpu))
        lock = self.lock_name(self._cpus.argument(cpu))
        back = self._cpus.return_address(cpu)

        def returned(on: int) -> None:
            if on == cpu:
                self._changed(back, None)
                if self._cpus.result(cpu) == 0:
                    self.failed.append(FailedLock(function, lock, self._symbols.function(back), waits=False))

        self._changed(back, returned)

    def _waits(self, cpu: int) -> None:
        if cpu != self._driven:
            return
        function = self._symbols.function(self._cpus.pc(cpu))
        lock = self.lock_name(self._cpus.argument(cpu))
        trace = self._cpus.backtrace(cpu, self._symbols)
        names = [line.partition("+")[0] for line in trace[1:]]
        # who asked for the lock, past the lock's own functions
        caller = next((name for name in names if not name.startswith(_OWN)), "?")
        self.failed.append(FailedLock(function, lock, caller, waits=True))

    def lock_name(self, address: int) -> str:
        """Return what a lock is called: the variable it is in, and where in it."""
        found = self._symbols.name(address)
        if found is None:
            return f"{address:#x}"
        name, offset = found
        if name in _MMS:
            # the one rwsem of an mm_struct that is taken by these functions
            return f"{name}.mmap_lock"
        return f"{name}+{offset:#x}" if offset else name
