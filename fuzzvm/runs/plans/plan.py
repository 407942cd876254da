"""Plans: schedules as bursts, the form that generators and mutators edit.

A plan says which agent runs for how many steps, burst after burst. It fits every run: a burst ends early where its
agent cannot go on, and after the last burst the agent that runs goes on until it cannot, then the lowest that can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Await, Fetch, Free, Load, Rmw, Store
from fuzzvm.machine.schedule import Schedule

_ACCESSES = (Load, Store, Rmw, Await, Fetch, Free)


def touches_memory(machine: Machine, agent: int) -> bool:
    """Return whether an agent's next step is a memory access; those of the memory model's own agents are."""
    return agent >= machine.memory.cpus or type(machine.pending(agent)) in _ACCESSES


@dataclass(frozen=True, slots=True)
class Plan:
    """Bursts of (agent, steps), and the ways that steps with more than one take, in order; 0 when they run out.

    `orders` and `draws` say how it goes on after the last burst, for `fuzzvm.runs.plans.orders.FollowOrders`: for each
    place by its number, in which order CPUs access it, the places that matter most first; and what priorities are
    drawn from.
    """

    bursts: tuple[tuple[int, int], ...]
    values: tuple[int, ...] = ()
    orders: tuple[tuple[int, tuple[int, ...]], ...] = ()
    draws: bytes = b""

    @classmethod
    def of(cls, schedule: Schedule) -> Plan:
        """Return the plan whose run is that schedule."""
        bursts = tuple((agent, sum(1 for _ in run)) for agent, run in groupby(step[0] for step in schedule))
        return cls(bursts, tuple(value for step in schedule for value in step[1:]))


class FollowPlan:
    """The chooser that follows a plan as far as the machine lets it.

    With `accesses`, the steps of a burst count memory accesses only, and a burst ends right before the next one: half
    as many places to switch at, none of them missed.
    """

    def __init__(self, plan: Plan, *, accesses: bool = False) -> None:
        self._accesses = accesses
        self._bursts = list(reversed(plan.bursts))
        self._values = list(reversed(plan.values))
        self._agent = -1
        self._left = 0

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        while self._agent not in enabled or (self._left == 0 and self._counts(machine)):
            if not self._bursts:
                return self._go_on(enabled, machine)
            self._agent, self._left = self._bursts.pop()
        if self._counts(machine):
            self._left -= 1
        return self._agent

    def _go_on(self, enabled: Sequence[int], machine: Machine) -> int:
        """Return which agent steps after the last burst."""
        if self._agent not in enabled:
            self._agent = enabled[0]
        return self._agent

    def _counts(self, machine: Machine) -> bool:
        return not self._accesses or touches_memory(machine, self._agent)

    def value(self, ways: int) -> int:
        return self._values.pop() % ways if self._values else 0


class _CountAccesses(FollowPlan):
    """Follows a plan and counts the memory accesses of each burst."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.counted: list[tuple[int, int]] = []

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        agent = super().agent(enabled, machine)
        if not self.counted or self.counted[-1][0] != agent:
            self.counted.append((agent, 0))
        self.counted[-1] = (agent, self.counted[-1][1] + touches_memory(machine, agent))
        return agent


def plan_in_accesses(machine: Machine, schedule: Schedule) -> Plan:
    """Return the plan that, its steps counted as memory accesses, runs the schedule, as far as it fits the machine.

    Where a burst ends before a barrier, the plan's ends after it, before the next access.
    """
    plan = Plan.of(schedule)
    count = _CountAccesses(plan)
    execute(machine, count)
    return Plan(tuple(burst for burst in count.counted if burst[1]), plan.values)
