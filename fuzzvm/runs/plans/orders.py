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

from collections.abc import Iterable, Mapping, Sequence
from math import comb
from typing import Protocol

from fuzzvm.machine.machine import Machine
from fuzzvm.runs.plans.plan import FollowPlan, Plan
from fuzzvm.runs.plans.races import Place, Races

DRAWS = 64
"""Bytes of a plan that priorities are taken from; a run that needs more begins again with the first."""
COUNTED = 16
"""Accesses to a place whose order is counted."""
LEAST = 1e-3
"""Weight of a CPU with which every order goes on that is known."""
LONGEST = 48
"""Accesses to a place that a plan orders; those that follow are left to the priorities."""
MOST_ORDERS = 100_000
"""Beginnings of orders that are kept of one target; past them all are forgotten, and only evenness is lost."""
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


class _Order:
    """The beginning of an order: what follows it, and how many orders that begin so have been seen."""

    __slots__ = ("ended", "following", "missed", "seen")

    def __init__(self) -> None:
        self.ended = False
        self.seen = 0
        self.missed: dict[int, int] = {}
        """How often a CPU was to come next, and another one did."""
        self.following: dict[int, _Order] = {}


class Orders:
    """What the runs of one target have shown: which places are raced for, and in which orders they were accessed."""

    def __init__(self) -> None:
        self.races = Races()
        self.numbers: dict[Place, int] = {}
        """The places by the order in which they became known, which a plan names them by."""
        self._orders: dict[Place, _Order] = {}
        self._kept = 0

    def draw(self, source: Source) -> Plan:
        """Return a plan that orders any number of places; every other one orders all."""
        draws = source.randbytes(DRAWS)
        places = list(self.races.places)
        number = len(places)
        if source.random() < 0.5:
            number = int(source.random() * (number + 1))
        ranked = [places.pop(int(source.random() * len(places))) for _ in range(number)]
        orders = tuple((self.numbers[place], self.draw_order(place, source)) for place in ranked)
        return Plan((), (), orders, draws)

    def draw_order(self, place: Place, source: Source, begun: Sequence[int] = ()) -> tuple[int, ...]:
        """Return the order of the accesses to a place, as CPUs, that begins as `begun`."""
        left = dict(self.races.places[place])
        total = sum(left.values())
        ways = _orders_of(left)
        node = self._orders.get(place)
        order: list[int] = []
        while total > 0 and len(order) < LONGEST:
            # each weighs as much as there are orders that go on with it and that no run has shown
            weights = {}
            for cpu, count in left.items():
                if count > 0:
                    unseen = ways * count / total
                    if node is not None:
                        following = node.following.get(cpu)
                        unseen -= 0 if following is None else following.seen
                        unseen /= (1 + node.missed.get(cpu, 0)) ** 2
                    weights[cpu] = max(unseen, LEAST)
            cpu = begun[len(order)] if len(order) < len(begun) else _drawn(weights, source)
            ways = ways * left.get(cpu, 0) / total
            left[cpu] = left.get(cpu, 0) - 1
            total -= 1
            node = None if node is None else node.following.get(cpu)
            order.append(cpu)
        return tuple(order)

    def begin(self) -> dict[Place, list[_Order]]:
        """Begin a run; return for each place the beginnings of its order: none so far but the empty one."""
        self.races.begin()
        if self._kept >= MOST_ORDERS:
            self._orders.clear()
            self._kept = 0
        return {place: [self._orders.setdefault(place, _Order())] for place in self.races.places}

    def go_on(self, path: list[_Order], cpu: int, wanted: int | None) -> None:
        """Add to the beginnings of an order that `cpu` came next, where `wanted` was to."""
        last = path[-1]
        if wanted is not None and wanted != cpu:
            last.missed[wanted] = last.missed.get(wanted, 0) + 1
        if cpu not in last.following:
            last.following[cpu] = _Order()
            self._kept += 1
        path.append(last.following[cpu])

    def end(self, paths: Iterable[list[_Order]]) -> None:
        """End a run that had these orders."""
        for path in paths:
            if not path[-1].ended:
                path[-1].ended = True
                for order in path:
                    order.seen += 1
        self.races.end()
        for place in self.races.places:
            self.numbers.setdefault(place, len(self.numbers))


def _orders_of(counts: Mapping[int, int]) -> float:
    """Return how many orders there are of so many accesses of each CPU."""
    ways, total = 1.0, 0
    for count in counts.values():
        total += count
        ways *= comb(total, count)
    return ways


def _drawn(weights: Mapping[int, float], source: Source) -> int:
    """Return a CPU, by its weight."""
    if len(weights) > 1:
        left = source.random() * sum(weights.values())
        for cpu, weight in weights.items():
            if left < weight:
                return cpu
            left -= weight
    return list(weights)[-1]


class FollowOrders(FollowPlan):
    """The chooser that follows a plan with orders; it fits every run. `end` stands after the run."""

    def __init__(self, plan: Plan, orders: Orders) -> None:
        super().__init__(plan, accesses=True)
        self.plan = plan
        self.known = orders
        self._races = orders.races
        self.paths = orders.begin()
        places = {number: place for place, number in orders.numbers.items()}
        wanted = ((places.get(number), list(order)) for number, order in plan.orders)
        self.orders = {place: order for place, order in wanted if place in self.paths}
        self._ranks = {place: rank for rank, place in enumerate(self.orders)}
        self._draws = plan.draws
        self._drawn = 0
        self._priorities: dict[int, int] = {}
        self._stands: dict[int, Place | None] = {}
        """The places that CPUs stand before, of those that could step."""

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        races = self._races
        # what a CPU stands before changes by its own steps alone
        stands = self._stands
        for agent in enabled:
            if agent not in stands:
                stands[agent] = races.place(machine.pending(agent)) if agent < machine.memory.cpus else None
        chosen = super().agent(enabled, machine) if self._bursts or self._left else self._go_on(enabled, machine)
        op = machine.pending(chosen) if chosen < machine.memory.cpus else None
        place = stands.pop(chosen)
        if op is not None:
            if races.watching:
                races.note(chosen, op)
            if place in self.paths:
                self._accessed(place, chosen, enabled)
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
        self.known.end(self.paths.values())

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

    def _waiting(self, enabled: Sequence[int]) -> dict[int, Place]:
        """Return the CPUs that stand before a place at which another one that can step comes first."""
        waiting = {}
        for agent in enabled:
            place = self._stands[agent]
            if place in self.orders and self._next(place, enabled) not in (agent, None):
                waiting[agent] = place
        return waiting

    def _next(self, place: Place, enabled: Sequence[int]) -> int | None:
        """Return the CPU that is to access a place next, of those that can step; None if nobody is."""
        for cpu in self.orders[place]:
            if cpu in enabled:
                return cpu
        return None

    def _accessed(self, place: Place, cpu: int, enabled: Sequence[int]) -> None:
        wanted = None
        if (order := self.orders.get(place)) is not None:
            wanted = self._next(place, enabled)
            if cpu in order:
                order.remove(cpu)
            self._priorities.clear()
        path = self.paths[place]
        if len(path) <= COUNTED:
            self.known.go_on(path, cpu, wanted)

    def _draw(self) -> int:
        if not self._draws:
            return 0
        self._drawn += 1
        return self._draws[self._drawn % len(self._draws)]
