"""Sequential consistency (Lamport 1979): one memory, each operation takes effect at once and everywhere.

Machines run on this. The exhaustive search does the same on numbers of values: `fuzzvm/exhaustive/flat.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from fuzzvm.machine.memory import Choose, MemoryModel
from fuzzvm.machine.ops import (
    Address,
    Await,
    CacheMaintenance,
    Fence,
    Fetch,
    InterruptAll,
    Load,
    Rmw,
    Store,
    Tlbi,
    Value,
    succeeds,
)


class SequentialConsistency(MemoryModel):
    """Interleaving and nothing else: orderings, barriers and maintenance have no effect of their own."""

    name = "sc"
    no_effect = frozenset({Fence, CacheMaintenance})
    cells: dict[Address, Value]

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self.cells: dict[Address, Value] = {}

    def copy(self) -> SequentialConsistency:
        other = SequentialConsistency(self.cpus)
        other.key_of = self.key_of
        other.cells = dict(self.cells)
        return other

    def state(self) -> tuple[tuple[Address, Hashable], ...]:
        # a location that holds 0 again is as good as one never written
        cells, key_of = self.cells, self.key_of
        return tuple([(address, key_of(cells[address])) for address in sorted(cells) if cells[address] != 0])

    def contents(self) -> Mapping[Address, Value]:
        return self.cells

    def peek(self, address: Address) -> Value:
        return self.cells.get(address, 0)

    def load(self, cpu: int, op: Load | Await, choose: Choose) -> Value:
        return self.cells.get(op.address, 0)

    def store(self, cpu: int, op: Store, choose: Choose) -> None:
        self.cells[op.address] = op.value

    def rmw(self, cpu: int, op: Rmw, choose: Choose) -> Value:
        old = self.cells.get(op.address, 0)
        if succeeds(op, old):
            self.cells[op.address] = op.update(old)
        return old

    def fence(self, cpu: int, op: Fence, choose: Choose) -> None:
        pass

    def fetch(self, cpu: int, op: Fetch, choose: Choose) -> Value:
        return self.cells.get(op.address, 0)

    def maintain(self, cpu: int, op: CacheMaintenance | Tlbi | InterruptAll, choose: Choose) -> None:
        pass

    def forget(self, address: Address, size: int) -> None:
        for location in range(address, address + size):
            self.cells.pop(location, None)


MODEL = SequentialConsistency
