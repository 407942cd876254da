"""x86-TSO (Owens, Sarkar, Sewell, "A better x86 memory model: x86-TSO", TPHOLs 2009).

Each CPU has a FIFO store buffer. A load reads the CPU's own newest buffered store to the location, else memory; a
locked instruction and MFENCE wait until the buffer is empty. Acquire and release are what plain loads and stores do
anyway (Linux's smp_load_acquire and smp_store_release are MOVs on x86). A store drains at once (way 0) or is buffered
(way 1) until the agent of its CPU drains it.

Instruction fetch is not coherent: code that is changed by one CPU and executed by another asks that one to serialise
first (Intel SDM vol. 3A 8.1.3). Until it does, a CPU may fetch what a location held at any time since it last
serialised, and each byte from another time. That concerns the locations that the machine says are patched, and only
those patched since; an instruction's bytes are those of an integer, the low one first. DC and IC do nothing. An
interrupt of all CPUs drains every buffer and serialises every CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from fuzzvm.machine.memory import Choose, MemoryModel, Needs, Unfinished
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
    succeeds,
)
from fuzzvm.machine.remarks import BecameVisible, Buffered, Forwarded, StaleFetch

DRAINING = frozenset({Barrier.DMB_ISH, Barrier.DSB_ISH, Barrier.DSB_ISHST, Barrier.ISB})
"""Barriers that wait for the buffer: MFENCE, and the serialising instructions. The others are no-ops on x86."""


class TotalStoreOrder(MemoryModel):
    """Memory and one store buffer a CPU."""

    name = "tso"
    reducible = True
    delays_stores = True

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self._cells: dict[Address, Value] = {}
        self._own = True
        """Whether nobody else looks at the cells, so that they may change; others are copied first."""
        self._known: int | None = None
        """The number of the cells in `_numbered`, if they have one."""
        self._numbered: dict[Hashable, tuple[int, dict[Address, Value]]] = {}
        """The cells of all states of a search, equal ones once."""
        self._buffers: list[tuple[tuple[Address, Value], ...]] = [()] * cpus
        self._code: frozenset[Address] = frozenset()
        self._replaced: list[frozenset[tuple[Address, Value]]] = [frozenset()] * cpus
        """For each CPU, what code locations have held since it last serialised and hold no more."""

    def copy(self) -> TotalStoreOrder:
        other = TotalStoreOrder(self.cpus)
        other.key_of = self.key_of
        other._cells = self._cells
        self._own = other._own = False
        other._known = self._known
        other._numbered = self._numbered
        other._buffers = list(self._buffers)
        other._code = self._code
        other._replaced = list(self._replaced)
        return other

    def state(self) -> tuple[Hashable, ...]:
        return (self._cells_key(), *self._rest())

    def parts(self) -> tuple[Hashable, ...]:
        if self._known is None:
            found = self._numbered.setdefault(self._cells_key(), (len(self._numbered), self._cells))
            self._known, self._cells = found
            self._own = False
        return (self._known, *self._rest())

    def compared_by(self, key_of: Callable[[Value], Hashable]) -> None:
        super().compared_by(key_of)
        self._numbered = {}
        self._known = None

    def _cells_key(self) -> Hashable:
        # a location that holds 0 again is as good as one never written
        return frozenset([(address, self.key_of(value)) for address, value in self._cells.items() if value != 0])

    def _rest(self) -> tuple[Hashable, ...]:
        key_of = self.key_of
        return (
            tuple([tuple([(address, key_of(value)) for address, value in buffer]) for buffer in self._buffers]),
            tuple([frozenset([(address, key_of(value)) for address, value in gone]) for gone in self._replaced]),
        )

    def kept(self, share: Callable[[Any], int], number: Callable[[Value], int]) -> Any:
        def pairs(entries: Iterable[tuple[Address, Value]]) -> list[tuple[Address, int]]:
            return [(address, number(value)) for address, value in entries]

        return [pairs(self._cells.items()), list(map(pairs, self._buffers)), list(map(pairs, self._replaced))]

    def of_kept(self, data: Any, parts: Sequence[Any], value: Callable[[int], Value]) -> TotalStoreOrder:
        def entries(pairs: Any) -> tuple[tuple[Address, Value], ...]:
            if any(type(address) is not int for address, _ in pairs):
                raise ValueError("no part of a memory")
            return tuple((address, value(written)) for address, written in pairs)

        cells, buffers, replaced = data
        other = self.copy()
        other._cells, other._own, other._known = dict(entries(cells)), True, None
        other._buffers = [entries(buffer) for buffer in buffers]
        other._replaced = [frozenset(entries(gone)) for gone in replaced]
        if len(other._buffers) != self.cpus or len(other._replaced) != self.cpus:
            raise ValueError("a memory has other parts")
        return other

    def normalise(self, needs: Sequence[Needs]) -> None:
        # what can no longer be fetched, and no longer come back, need not be known
        for cpu, need in enumerate(needs):
            if self._replaced[cpu]:
                self._replaced[cpu] = frozenset(entry for entry in self._replaced[cpu] if entry[0] in need.fetches)

    def hold_code(self, address: Address) -> None:
        self._code |= {address}

    def contents(self) -> Mapping[Address, Value]:
        return self._cells

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
        return isinstance(op, Rmw | InterruptAll | Tlbi) or (isinstance(op, Fence) and op.kind in DRAINING)

    def buffered(self, cpu: int) -> Sequence[tuple[Address, Value]]:
        return self._buffers[cpu]

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
        if succeeds(op, old):
            self._write(op.address, op.update(old))
        return old

    def fence(self, cpu: int, op: Fence, choose: Choose) -> None:
        if op.kind in DRAINING:
            self._drain(cpu)
        if op.kind is Barrier.ISB:
            self._replaced[cpu] = frozenset()

    def fetch(self, cpu: int, op: Fetch, choose: Choose) -> Value:
        newest = self._cells.get(op.address, 0)
        replaced = [value for address, value in self._replaced[cpu] if address == op.address]
        if not replaced:
            return newest
        possible = _byte_by_byte(newest, replaced)
        fetched = possible[choose(len(possible)) if len(possible) > 1 else 0]
        if fetched != newest:
            self.remark = StaleFetch(newest)
        return fetched

    def maintain(self, cpu: int, op: CacheMaintenance | Tlbi | InterruptAll, choose: Choose) -> None:
        if isinstance(op, InterruptAll):
            self.synchronise()
        elif isinstance(op, Tlbi):
            # INVLPG and MOV to a control register are serialising (Intel SDM vol. 3A 9.3)
            self._drain(cpu)
            self._replaced[cpu] = frozenset()

    def agents(self) -> Sequence[int]:
        return [self.cpus + cpu for cpu, buffer in enumerate(self._buffers) if buffer]

    def step(self, agent: int, choose: Choose) -> None:
        address, value = self._buffers[agent - self.cpus][0]
        self.remark = BecameVisible("store", address, value)
        self._drain_oldest(agent - self.cpus)

    def owner(self, agent: int) -> int:
        return agent - self.cpus

    def synchronise(self) -> None:
        for cpu in range(self.cpus):
            self._drain(cpu)
        self._replaced = [frozenset()] * self.cpus

    def _drain_oldest(self, cpu: int) -> None:
        (address, value), *rest = self._buffers[cpu]
        self._buffers[cpu] = tuple(rest)
        self._write(address, value)

    def _write(self, address: Address, value: Value) -> None:
        old = self._cells.get(address, 0)
        if address in self._code:
            self._replaced = [(replaced | {(address, old)}) - {(address, value)} for replaced in self._replaced]
        if not self._own:
            self._cells = dict(self._cells)
            self._own = True
        self._cells[address] = value
        self._known = None
        if self.on_visible is not None:
            self.on_visible(address, old, value)

    def _drain(self, cpu: int) -> None:
        while self._buffers[cpu]:
            self._drain_oldest(cpu)


def _byte_by_byte(newest: Value, replaced: Sequence[Value]) -> list[Value]:
    """Return what may be fetched where each byte is that of one of these values, the newest value first."""
    values = [newest, *replaced]
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise TypeError(f"an instruction is an integer from 0, not all of {values!r} are")
    length = max((value.bit_length() + 7) // 8 for value in values)  # type: ignore[attr-defined]
    encoded = [value.to_bytes(length, "little") for value in values]  # type: ignore[attr-defined]
    held = [[column[0], *sorted(set(column[1:]) - {column[0]})] for column in zip(*encoded, strict=True)]
    return [int.from_bytes(bytes(chosen), "little") for chosen in product(*held)]


MODEL = TotalStoreOrder
