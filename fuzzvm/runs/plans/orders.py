"""Orders of accesses, place by place: how plans are drawn for the engines `hypothesis` and `atheris`, and followed.

SURW (Zhao, Wolff, Mathur, Roychoudhury: "Selectively Uniform Concurrency Testing", ASPLOS 2025, section 4) draws the
order of the accesses to one place evenly, and leaves the other places to chance. A plan here orders several places, any
number of those that are raced for, each by itself: so a run tries one order of each. A CPU waits before an access as
long as the plan has another CPU first there. Where all CPUs that can step wait, the place that the plan ranks last
gives way. Between, the CPU with the highest priority runs, and draws anew after each access that may race, as in POS
(Yuan, Yang, Gu: "Partial Order Aware Concurrency Sampling", CAV 2018, section 3).

Orders are drawn with little repetition. Each run shows an order of every place, whether the plan ordered it or not; and
a CPU is the likelier to come next the more orders go on with it that no run has shown, and the less often it could not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fuzzvm.machine.machine import Machine
from fuzzvm.runs.plans.order_tree import COUNTED, OrderTree
from fuzzvm.runs.plans.plan import FollowPlan, Plan
from fuzzvm.runs.plans.races import Place, Races

DRAWS = 64
"""Bytes of a plan that priorities are taken from; a run that needs more begins again with the first."""
_HIGH = 128
"""A byte below says that a step goes the way that it would under sequential consistency."""


class Source(Protocol):
    """Where a plan is drawn from. `random.Random` is one."""

    def random(self) -> float:
        """Return a number from 0 to 1, 1 excluded."""

    def randbytes(self, n: int, /) -> bytes:
        """Return that many bytes."""


class Bytes:
    """Bytes as a source: one for each number, zeros past the end. Of zeros, a plan is one that orders nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0

    def random(self) -> float:
        return self.randbytes(1)[0] / 256

    def randbytes(self, n: int, /) -> bytes:
        taken = self._data[self._next : self._next + n]
        self._next += n
        return taken.ljust(n, b"\0")


class Orders:
    """What the runs of one target have shown: which places are raced for, and in which orders they were accessed."""

    def __init__(self) -> None:
        self.races = Races()
        self.numbers: dict[Place, int] = {}
        """The places by the order in which they became known, which a plan names them by."""
        self._tree = OrderTree()

    def draw(self, source: Source) -> Plan:
        """Return a plan that orders any number of places; every other one orders all."""
        draws = source.randbytes(DRAWS)
        places = list(self.races.places)
        number = len(places)
        if source.random() < 0.5:
            number = int(source.random() * (number + 1))
        ranked = [places.pop(int(source.random() * len(places))) for _ in range(number)]
        numbers = [self.numbers[place] for place in ranked]
        orders = self._tree.draw(numbers, [self.races.places[place] for place in ranked], source.random, ())
        return Plan((), (), tuple(zip(numbers, orders, strict=True)), draws)

    def draw_order(self, place: Place, source: Source, begun: Sequence[int] = ()) -> tuple[int, ...]:
        """Return the order of the accesses to a place, as CPUs, that begins as `begun`."""
        counts = self.races.places[place]
        known = [cpu for cpu in begun if cpu in counts]
        return self._tree.draw([self.numbers[place]], [counts], source.random, known)[0]

    def begin(self) -> list[int]:
        """Begin a run; return the numbers of the places whose orders are counted in it."""
        self.races.begin()
        if self._tree.full:
            self._tree.clear()
        return [self.numbers[place] for place in self.races.places]

    def end(self, places: Sequence[int], log: Any, size: int, cpus: int) -> None:
        """End a run of so many CPUs with these places, and the accesses of it that `order_tree.take_in` says."""
        self._tree.take(places, log, size, cpus)
        self.races.end()
        for place in self.races.places:
            self.numbers.setdefault(place, len(self.numbers))


class FollowOrders(FollowPlan):
    """The chooser that follows a plan with orders; it fits every run. `end` stands after the run."""

    def __init__(self, plan: Plan, orders: Orders) -> None:
        super().__init__(plan, accesses=True)
        self.plan = plan
        self.known = orders
        self._races = orders.races
        self.places = orders.begin()
        """The numbers of the places whose orders are counted."""
        self.log: Any = []
        self.logged = 0
        """The first accesses to each of them, and how many there are: see `order_tree.take_in`."""
        self.cpus = 0
        """How many CPUs there are, as far as the run has shown."""
        self._counted = dict.fromkeys(self.places, 0)
        self.orders = {place: list(order) for place, order in plan.orders if place in self._counted}
        self._ranks = {place: rank for rank, place in enumerate(self.orders)}
        self._draws = plan.draws
        self._drawn = 0
        self._priorities: dict[int, int] = {}
        self._stands: dict[int, int | None] = {}
        """The numbers of the places that CPUs stand before, of those that could step; None where it is not known."""

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        races = self._races
        self.cpus = machine.memory.cpus
        # what a CPU stands before changes by its own steps alone
        stands = self._stands
        for agent in enabled:
            if agent not in stands:
                place = races.place(machine.pending(agent)) if agent < machine.memory.cpus else None
                stands[agent] = None if place is None else self.known.numbers.get(place)
        chosen = super().agent(enabled, machine) if self._bursts or self._left else self._go_on(enabled, machine)
        op = machine.pending(chosen) if chosen < machine.memory.cpus else None
        at = stands.pop(chosen)
        if op is not None:
            if races.watching:
                races.note(chosen, op)
            if at in self._counted:
                self._accessed(at, chosen, enabled)
        if op is None or races.may_race(op):
            self._priorities.pop(chosen, None)
        return chosen

    def value(self, ways: int) -> int:
        if self._values or not self._draws:
            return super().value(ways)
        drawn = self._draw()
        return 0 if drawn < _HIGH else drawn % ways

    def end(self) -> None:
        """Take what the run has shown into what is known of its target."""
        self.known.end(self.places, self.log, self.logged, self.cpus)

    def _go_on(self, enabled: Sequence[int], machine: Machine) -> int:
        if not self.orders and not self._draws:
            # a plan of bursts alone
            return super()._go_on(enabled, machine)
        self._agent = -1
        if len(enabled) == 1:
            return enabled[0]
        free = enabled
        if self.orders:
            waiting = self._waiting(enabled)
            if len(waiting) == len(enabled):
                last = max(waiting.values(), key=self._ranks.__getitem__)
                free = [agent for agent in enabled if waiting[agent] == last]
            elif waiting:
                free = [agent for agent in enabled if agent not in waiting]
        priorities = self._priorities
        for agent in free:
            if agent not in priorities:
                priorities[agent] = self._draw()
        return max(free, key=priorities.__getitem__)

    def _waiting(self, enabled: Sequence[int]) -> dict[int, int]:
        """Return the CPUs that stand before a place at which another one that can step comes first."""
        waiting = {}
        for agent in enabled:
            place = self._stands[agent]
            if place is not None and place in self.orders and self._next(place, enabled) not in (agent, None):
                waiting[agent] = place
        return waiting

    def _next(self, place: int, enabled: Sequence[int]) -> int | None:
        """Return the CPU that is to access a place next, of those that can step; None if nobody is."""
        for cpu in self.orders[place]:
            if cpu in enabled:
                return cpu
        return None

    def _accessed(self, place: int, cpu: int, enabled: Sequence[int]) -> None:
        wanted = None
        if (order := self.orders.get(place)) is not None:
            wanted = self._next(place, enabled)
            if cpu in order:
                order.remove(cpu)
            self._priorities.clear()
        if self._counted[place] < COUNTED:
            self._counted[place] += 1
            self.log += [place, cpu, -1 if wanted is None else wanted]
            self.logged += 1

    def _draw(self) -> int:
        if not self._draws:
            return 0
        self._drawn += 1
        return self._draws[self._drawn % len(self._draws)]
