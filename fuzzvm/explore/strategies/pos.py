"""POS: partial order sampling (Yuan, Yang, Gu: "Partial Order Aware Concurrency Sampling", CAV 2018, section 3).

Every pending access has a random priority of its own, drawn when it comes up, and the highest one goes first. An
access that conflicts with one just executed draws again. So a CPU can stand before one access for long, which takes
the random walk a coin that keeps falling on one side, and two accesses that race are as likely in either order.

Departures: only what may race is an event. A CPU keeps its priority over steps that are no memory access, and over
accesses to places that in the runs of the same target so far were touched by one CPU alone or written by none: the
fewer events, the likelier each order of those that matter. A place never seen may race. (Choosing which events count
is the idea of "Selectively Uniform Concurrency Testing", ASPLOS 2025, section 4.) An agent of the memory model draws
anew after each of its steps, as what it will write is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from fuzzvm.explore.strategies import Strategy
from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import OFFSET_BITS, Await, Fetch, Free, Load, Operation, Rmw, Store

_READS = (Load, Await, Fetch)
_WRITES = (Store, Rmw)
_FREE = 1
"""Which CPU freed an object is kept as if at an address of its own: its first one, with this in front."""


class _Places:
    """Who touched each place in the runs of one target: bits of the CPUs that accessed it, and of those that wrote."""

    def __init__(self) -> None:
        self.accessed: dict[tuple[int, int], int] = {}
        self.written: set[tuple[int, int]] = set()
        self.quiet: frozenset[int] = frozenset()
        """Addresses that no two CPUs race for."""

    def note(self, cpu: int, op: Operation) -> None:
        """Remember an access."""
        if isinstance(op, Free):
            self._note(cpu, (_FREE, op.address >> OFFSET_BITS), write=True)
        elif isinstance(op, Load | Await | Fetch | Store | Rmw):
            self._note(cpu, (0, op.address), write=isinstance(op, _WRITES))

    def _note(self, cpu: int, place: tuple[int, int], *, write: bool) -> None:
        self.accessed[place] = self.accessed.get(place, 0) | 1 << cpu
        if write:
            self.written.add(place)

    def settle(self) -> None:
        """Work out which places are quiet, from all that was noted."""
        freed = {number for kind, number in self.accessed if kind == _FREE}
        self.quiet = frozenset(
            address
            for (kind, address), cpus in self.accessed.items()
            if kind == 0
            and address >> OFFSET_BITS not in freed
            and (cpus & cpus - 1 == 0 or (kind, address) not in self.written)
        )


SETTLE_UNTIL = 32
"""Runs of a target that are watched for what races; after them, every 32nd one is."""


class Pos(Strategy):
    """Priorities by access, drawn again where accesses conflict."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._targets: dict[int, _Places] = {}
        self._runs: dict[int, int] = {}

    def begin(self, target: int, cpus: int) -> None:
        self._places = self._targets.setdefault(target, _Places())
        runs = self._runs[target] = self._runs.get(target, 0) + 1
        self._watching = runs <= SETTLE_UNTIL or runs % SETTLE_UNTIL == 0
        self._priorities: dict[int, float] = {}

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        priorities = self._priorities
        for agent in enabled:
            if agent not in priorities:
                priorities[agent] = self.random.random()
        chosen = enabled[0] if len(enabled) == 1 else max(enabled, key=priorities.__getitem__)
        op = machine.pending(chosen) if chosen < machine.memory.cpus else None
        if op is None:
            del priorities[chosen]
            return chosen
        if self._watching:
            self._places.note(chosen, op)
        if self._may_race(op):
            del priorities[chosen]
            for other in enabled:
                if other != chosen and other < machine.memory.cpus and _conflict(op, machine.pending(other)):
                    del priorities[other]
        return chosen

    def end(self, execution: Execution) -> None:
        if self._watching:
            self._places.settle()

    def _may_race(self, op: Operation) -> bool:
        if isinstance(op, Load | Await | Fetch | Store | Rmw):
            return op.address not in self._places.quiet
        return isinstance(op, Free)


def _conflict(one: Operation | None, other: Operation | None) -> bool:
    """Return whether two pending accesses of different CPUs may not commute."""
    if isinstance(one, Free) or isinstance(other, Free):
        return _object(one) == _object(other)
    if not isinstance(one, _WRITES) and not isinstance(other, _WRITES):
        return False
    return getattr(one, "address", None) == getattr(other, "address", 0)


def _object(op: Operation | None) -> int | None:
    return op.address >> OFFSET_BITS if isinstance(op, (*_READS, *_WRITES, Free)) else None


STRATEGY = Pos
