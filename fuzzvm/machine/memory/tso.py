"""x86-TSO (Owens, Sarkar, Sewell, "A better x86 memory model: x86-TSO", TPHOLs 2009).

Each CPU has a FIFO store buffer. A load reads the CPU's own newest buffered store to the location, else memory; a
locked instruction and MFENCE wait until the buffer is empty. Acquire and release are what plain loads and stores do
anyway (Linux's smp_load_acquire and smp_store_release are MOVs on x86). A store drains at once (way 0) or is buffered
(way 1) until the agent of its CPU drains it.

Instruction fetch is coherent (Intel SDM vol. 3A 8.1.3 asks patching code to serialise all the same); DC and IC do
nothing. An interrupt of all CPUs drains every buffer, since taking one is a serialising event.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fuzzvm.machine.memory import Choose, MemoryModel, Unfinished
from fuzzvm.machine.ops import (
    Address,
    Await,
    Barrier,
    CacheMaintenance,
    Fence,
    Fetch,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Store,
    Tlbi,
    Value,
)
from fuzzvm.machine.remarks import BecameVisible, Buffered, Forwarded

DRAINING = frozenset({Barrier.DMB_ISH, Barrier.DSB_ISH, Barrier.DSB_ISHST, Barrier.ISB})
"""Barriers that wait for the buffer: MFENCE, and the serialising instructions. The others are no-ops on x86."""


class TotalStoreOrder(MemoryModel):
    """Memory and one store buffer a CPU."""

    name = "tso"
    reducible = True

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self._cells: dict[Address, Value] = {}
        self._buffers: list[tuple[tuple[Address, Value], ...]] = [()] * cpus

    def copy(self) -> TotalStoreOrder:
        other = TotalStoreOrder(self.cpus)
        other.key_of = self.key_of
        other._cells = dict(self._cells)
        other._buffers = list(self._buffers)
        return other

    def state(self) -> Hashable:
        # a location that holds 0 again is as good as one never written
        key_of = self.key_of
        return (
            frozenset([(address, key_of(value)) for address, value in self._cells.items() if value != 0]),
            tuple([tuple([(address, key_of(value)) for address, value in buffer]) for buffer in self._buffers]),
        )

    def peek(self, address: Address) -> Value:
        return self._cells.get(address, 0)

    def visible(self, cpu: int, address: Address) -> Value:
        for buffered, value in reversed(self._buffers[cpu]):
            if buffered == address:
                return value
        return self._cells.get(address, 0)

    def unfinished(self, cpu: int) -> Unfinished:
        return Unfinished(frozenset(address for address, _ in self._buffers[cpu]))

    @classmethod
    def settles(cls, op: Operation, earlier: Operation) -> bool:
        return isinstance(op, Rmw | InterruptAll) or (isinstance(op, Fence) and op.kind in DRAINING)

    def load(self, cpu: int, op: Load | Await, choose: Choose) -> Value:
        if any(buffered == op.address for buffered, _ in self._buffers[cpu]):
            self.remark = Forwarded()
        return self.visible(cpu, op.address)

    def store(self, cpu: int, op: Store, choose: Choose) -> None:
        self._buffers[cpu] = (*self._buffers[cpu], (op.address, op.value))
        if choose(2) == 0:
            self._drain(cpu)
        else:
            self.remark = Buffered()

    def rmw(self, cpu: int, op: Rmw, choose: Choose) -> Value:
        self._drain(cpu)
        old = self._cells.get(op.address, 0)
        self._cells[op.address] = op.update(old)
        return old

    def fence(self, cpu: int, op: Fence, choose: Choose) -> None:
        if op.kind in DRAINING:
            self._drain(cpu)

    def fetch(self, cpu: int, op: Fetch, choose: Choose) -> Value:
        return self._cells.get(op.address, 0)

    def maintain(self, cpu: int, op: CacheMaintenance | Tlbi | InterruptAll, choose: Choose) -> None:
        if isinstance(op, InterruptAll):
            self.synchronise()

    def agents(self) -> Sequence[int]:
        return [self.cpus + cpu for cpu, buffer in enumerate(self._buffers) if buffer]

    def step(self, agent: int, choose: Choose) -> None:
        address, value = self._buffers[agent - self.cpus][0]
        self._drain_oldest(agent - self.cpus)
        self.remark = BecameVisible("store", address, value)

    def owner(self, agent: int) -> int:
        return agent - self.cpus

    def synchronise(self) -> None:
        for cpu in range(self.cpus):
            self._drain(cpu)

    def _drain_oldest(self, cpu: int) -> None:
        (address, value), *rest = self._buffers[cpu]
        self._cells[address] = value
        self._buffers[cpu] = tuple(rest)

    def _drain(self, cpu: int) -> None:
        while self._buffers[cpu]:
            self._drain_oldest(cpu)


MODEL = TotalStoreOrder
