"""POS: partial order sampling (Yuan, Yang, Gu: "Partial Order Aware Concurrency Sampling", CAV 2018, section 3).

Every pending access has a random priority of its own, drawn when it comes up, and the highest one goes first. An
access that conflicts with one just executed draws again. So a CPU can stand before one access for long, which takes
the random walk a coin that keeps falling on one side, and two accesses that race are as likely in either order.

Departures: only what may race is an event. A CPU keeps its priority over steps that are no memory access, and over
accesses to places that in the runs of the same target so far were touched by one CPU alone or written by none: the
fewer events, the likelier each order of those that matter. A place never seen may race. (Choosing which events count
is the idea of "Selectively Uniform Concurrency Testing", ASPLOS 2025, section 4.) The priority of a CPU that stands
before such a step is for the event that it will come to, and that may conflict with any: it draws again at each event
of another CPU. An agent of the memory model draws anew after each of its steps, as what it will write is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import OFFSET_BITS, Await, Fetch, Free, Load, Operation, Rmw, Store
from fuzzvm.runs.plans.races import Races
from fuzzvm.runs.strategies import Strategy

_READS = (Load, Await, Fetch)
_WRITES = (Store, Rmw)


class Pos(Strategy):
    """Priorities by access, drawn again where accesses conflict."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._targets: dict[int, Races] = {}

    def begin(self, target: int, cpus: int) -> None:
        self.races = self._targets.setdefault(target, Races())
        self.races.begin()
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
        races = self.races
        if races.watching:
            races.note(chosen, op)
        if races.may_race(op):
            del priorities[chosen]
            for other in enabled:
                if other != chosen and other < machine.memory.cpus:
                    pending = machine.pending(other)
                    if _conflict(op, pending) or not races.may_race(pending):
                        del priorities[other]
        return chosen

    def end(self, execution: Execution) -> None:
        self.races.end()


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
