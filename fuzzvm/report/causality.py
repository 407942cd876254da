"""Which step a step depends on: the write that a read took, a store and the moment it is seen, locks handed over.

Happens-before is program order together with what synchronises: a read with acquire that takes the value of a write
with release (locks among them), and an interrupt of all CPUs (tools/memory-model/Documentation/explanation.txt of
Linux 6.12; the clocks are Lamport's, CACM 1978). Two steps that it does not order were free to go the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.machine.ops import Await, Fetch, InterruptAll, Load, Order, Rmw, Store
from fuzzvm.machine.remarks import BecameVisible, Buffered, StaleFetch, StaleRead
from fuzzvm.machine.trace import TraceStep

READS = "reads"
STALE = "stale"
SEEN = "seen"
SYNCHRONISES = "synchronises"
KINDS = {
    READS: "reads what the other CPU wrote",
    STALE: "does not see what the other CPU wrote, and reads an older value",
    SEEN: "from here on the other CPUs see the store",
    SYNCHRONISES: "hands over: all before it happens before all after it",
}

_ACQUIRES = {Order.ACQUIRE, Order.ACQUIRE_PC, Order.ACQUIRE_RELEASE}
_RELEASES = {Order.RELEASE, Order.ACQUIRE_RELEASE}


@dataclass(frozen=True, slots=True)
class Edge:
    """One step that another depends on; `kind` is one of KINDS."""

    source: int
    target: int
    kind: str


@dataclass(frozen=True, slots=True)
class _Write:
    step: int
    cpu: int
    value: object
    released: dict[int, int] | None
    """The clock that a read with acquire joins: of a release, and of one that the write follows in an atomic update."""


class Causality:
    """The edges between the CPUs of a run, and which of its steps happen before which.

    A write is told by its value: where the same value was written twice, a read is drawn to the later one.
    """

    def __init__(self, trace: Sequence[TraceStep]) -> None:
        self.edges: list[Edge] = []
        self._writes: dict[int, list[_Write]] = {}
        self._buffered: dict[tuple[int, int], list[_Write]] = {}
        self._clocks: dict[int, dict[int, int]] = {}
        """Clock of each step: the last step of each CPU that happens before it, itself included."""
        self._now: dict[int, dict[int, int]] = {}
        for step in trace:
            self._take(step)

    def ordered(self, first: int, second: int, cpu_of_first: int) -> bool:
        """Return whether the first of two steps happens before the second."""
        return self._clocks.get(second, {}).get(cpu_of_first, 0) >= first

    def _take(self, step: TraceStep) -> None:
        op = step.op
        if isinstance(step.remark, BecameVisible):
            self._became_visible(step, step.remark)
            return
        clock = dict(self._now.get(step.cpu, {}))
        clock[step.cpu] = step.number
        if isinstance(op, InterruptAll):
            self._interrupt(step, clock)
        source = self._read(step, op, clock) if isinstance(op, Load | Await | Rmw | Fetch) else None
        if isinstance(op, Store | Rmw):
            value = op.value if isinstance(op, Store) else op.update(step.response)
            released = dict(clock) if op.order in _RELEASES else None
            if isinstance(op, Rmw) and source is not None and source.released is not None:
                # a release sequence: an atomic update passes on what it follows
                released = released or {}
                _join(released, source.released)
            write = _Write(step.number, step.cpu, value, released)
            if isinstance(step.remark, Buffered):
                self._buffered.setdefault((step.cpu, op.address), []).append(write)
            else:
                self._writes.setdefault(op.address, []).append(write)
        self._now[step.cpu] = self._clocks[step.number] = clock

    def _became_visible(self, step: TraceStep, remark: BecameVisible) -> None:
        waiting = self._buffered.get((step.cpu, remark.address), [])
        write = next((write for write in waiting if write.value == remark.value), None)
        if write is not None:
            waiting.remove(write)
            self._writes.setdefault(remark.address, []).append(write)
            self.edges.append(Edge(write.step, step.number, SEEN))
        self._clocks[step.number] = dict(self._now.get(step.cpu, {}))

    def _interrupt(self, step: TraceStep, clock: dict[int, int]) -> None:
        others = [cpu for cpu in self._now if cpu != step.cpu]
        for cpu in others:
            _join(clock, self._now[cpu])
        for cpu in others:
            # a clock of its own: that of the CPU's last step stays what it was
            self._now[cpu] = dict(self._now[cpu])
            _join(self._now[cpu], clock)

    def _read(self, step: TraceStep, op: Load | Await | Rmw | Fetch, clock: dict[int, int]) -> _Write | None:
        """Draw the edge of a read, join its clock, and return the write that it took."""
        writes = list(self._writes.get(op.address, ()))
        # what a fence or an atomic has put in place has no step of its own: it is among what is buffered still
        for (_, address), waiting in self._buffered.items():
            if address == op.address:
                writes += waiting
        if isinstance(step.remark, StaleRead | StaleFetch):
            newest = step.remark.newest
            missed = next((write for write in reversed(writes) if write.value == newest), None)
            if missed is not None and missed.cpu != step.cpu:
                self.edges.append(Edge(missed.step, step.number, STALE))
        source = next((write for write in reversed(writes) if write.value == step.response), None)
        if source is None or source.cpu == step.cpu:
            return source
        if source.released is not None and not isinstance(op, Fetch) and op.order in _ACQUIRES:
            _join(clock, source.released)
            kind = SYNCHRONISES
        else:
            kind = READS
        self.edges.append(Edge(source.step, step.number, kind))
        return source


def _join(clock: dict[int, int], other: dict[int, int]) -> None:
    for cpu, step in other.items():
        clock[cpu] = max(clock.get(cpu, 0), step)
