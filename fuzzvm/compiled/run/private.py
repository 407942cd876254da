"""What one CPU alone uses: its stack, its task, and what the scenario gives its calls by address."""

from __future__ import annotations

from collections.abc import Callable
from operator import or_

from fuzzvm.compiled.isa.private import TrackedMemory, UnwrittenMemoryError

BASE = 0xFFFF_C000_0000_0000
SIZE = 1 << 17
TASK = 0
"""Offset of the task, `current`."""
STACK_LOW, STACK_HIGH = 1 << 15, 1 << 16
"""Offsets of the stack (THREAD_SIZE is more; a call needs little)."""
ARGUMENTS = 1 << 16
"""Offset of what calls are given by address."""


def base_of(cpu: int, size: int) -> int:
    """Return where the memory of a CPU begins, that of each being of one size."""
    return BASE + cpu * size


Constants = Callable[[int, int], int | None]
"""Returns so many bytes at an address that are the same in every run, None where they may change."""


Initial = Callable[[int], int]
"""Returns a byte as it is before it is written, by its offset from the begin of a CPU's memory."""


class CpuMemory(TrackedMemory):
    """The memory of one CPU. What has not been written is `initial`, but for the stack, of which it cannot be read.

    `size` is that of all of it; what comes after the first `SIZE` bytes is the architecture's. `constants` are the
    bytes that are nobody's own, and that the CPU reads all the same without anybody noticing. Locations that no other
    CPU accesses can be taken over.
    """

    def __init__(self, cpu: int, constants: Constants, size: int, initial: Initial) -> None:
        self._constants = constants
        self._initial = initial
        self.base = base_of(cpu, size)
        super().__init__(self.base, self.base + size, or_)

    @property
    def task(self) -> int:
        """The address of the task."""
        return self.base + TASK

    @property
    def stack_top(self) -> int:
        """The address after the stack."""
        return self.base + STACK_HIGH

    @property
    def arguments(self) -> int:
        """The address of what calls are given by address."""
        return self.base + ARGUMENTS

    def copy(self) -> CpuMemory:
        other = CpuMemory.__new__(CpuMemory)
        other.base, other.low, other.high, other._join = self.base, self.low, self.high, self._join
        other._constants, other._initial = self._constants, self._initial
        other.cells = self.cells.copy()
        return other

    def load(self, address: int, size: int) -> tuple[int, int, int] | None:
        cell = self.cells.get(address)
        if cell is not None and cell[0] == size:
            return cell[1:]
        if not self.low <= address < self.high:
            constant = self._constants(address, size)
            return None if constant is None else (constant, 0, 0)
        try:
            return super().load(address, size)
        except UnwrittenMemoryError:
            if STACK_LOW <= address - self.base < STACK_HIGH:
                raise
            # a struct of which some members were written
            for at in range(address, address + size):
                if not any(cell <= at < cell + self.cells[cell][0] for cell in self.cells):
                    self.cells[at] = 1, self._initial(at - self.base), 0, 0
            return super().load(address, size)

    def store(self, address: int, size: int, value: int, view: int, pick: int) -> bool:
        cell = self.cells.get(address)
        if cell is not None and cell[0] == size:
            self.cells[address] = size, value, view, pick
            return True
        return self.low <= address < self.high and super().store(address, size, value, view, pick)

    def take(self, address: int, size: int, value: int) -> None:
        """Make a location of memory that CPUs share the CPU's own: nobody else accesses it."""
        self.cells[address] = size, value, 0, 0

    def left(self, sp: int) -> None:
        """Forget the part of the stack that functions have left: nobody reads it before it is written again."""
        low = self.base + STACK_LOW
        for address in [address for address in self.cells if low <= address < sp]:
            del self.cells[address]
