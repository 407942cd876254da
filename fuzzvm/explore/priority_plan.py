"""Schedules as priorities: the highest agent that can step runs, until a change point drops it below all others.

The form of PCT (Burckhardt et al., ASPLOS 2010), as data: what a generator draws and a shrinker simplifies. Change
points count memory accesses and not steps: a switch before a barrier is a switch before the access that follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Await, Fetch, Free, Load, Rmw, Store

_ACCESSES = (Load, Store, Rmw, Await, Fetch, Free)


def touches_memory(machine: Machine, agent: int) -> bool:
    """Return whether an agent's next step is a memory access; those of the memory model's own agents are."""
    return agent >= machine.memory.cpus or type(machine.pending(agent)) in _ACCESSES


@dataclass(frozen=True, slots=True)
class PriorityPlan:
    """The agents, highest priority first; the accesses before which the running agent drops; ways, 0 when they end.

    An agent that is not named has the lowest priority until one drops.
    """

    order: tuple[int, ...]
    changes: frozenset[int]
    values: tuple[int, ...] = ()


class FollowPriorities:
    """The chooser that follows a plan; it fits every run."""

    def __init__(self, plan: PriorityPlan) -> None:
        self._order = list(plan.order)
        self._changes = plan.changes
        self._values = list(reversed(plan.values))
        self._accesses = 0

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        chosen = self._highest(enabled)
        if touches_memory(machine, chosen):
            if self._accesses in self._changes:
                self._order.remove(chosen)
                self._order.append(chosen)
                chosen = self._highest(enabled)
            self._accesses += 1
        return chosen

    def value(self, ways: int) -> int:
        return self._values.pop() % ways if self._values else 0

    def _highest(self, enabled: Sequence[int]) -> int:
        for agent in self._order:
            if agent in enabled:
                return agent
        self._order.append(enabled[0])
        return enabled[0]
