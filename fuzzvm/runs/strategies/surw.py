"""SURW: the selectively uniform random walk (Zhao, Wolff, Mathur, Roychoudhury: "Selectively Uniform Concurrency
Testing", ASPLOS 2025, section 4).

Each run takes the accesses to a few places for its events, and draws their order so that every order is equally likely:
the CPU of the next event is drawn by how many events each has left, and the others wait before theirs. So a race for
one place is tried both ways however many steps lie between, which a random walk passes with as many coins.

Departures: the events are those of one place that is raced for, or of a few, drawn anew for each run, as nobody says
which matter; how many each CPU has is the most that was seen of it. Orders are drawn evenly in the long run as well:
at each event a CPU is the likelier the more it has had less than its share of the runs that came to the same order so
far, so that all orders of few events come up before one comes up often. Places that bring no new order are drawn less.
Between events, the CPU with the highest priority runs, and draws anew after each access that may race, as in POS
(Yuan, Yang, Gu; CAV 2018): far fewer switches than a walk. So do agents of the memory model after each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.runs.plans.races import Place, Races
from fuzzvm.runs.strategies import Strategy

ANOTHER = 0.1
"""Chance that one more place is taken."""
LEAST_WEIGHT = 0.1
"""Of a place whose runs bring no new order, by 1 for one whose runs all do."""
MEMORY = 0.5
"""How much of a place's weight stays at each run."""
ORDERED = 16
"""Events of a run whose order is kept."""
MOST_ORDERS = 100_000
"""Beginnings of orders that are kept of one target; past them all are forgotten, and only evenness is lost."""


class _Order:
    """The beginning of an order of events: how many runs came to it, and how it went on."""

    __slots__ = ("following", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.following: dict[int, _Order] = {}


class _Target:
    """What was learned of one target."""

    def __init__(self) -> None:
        self.races = Races()
        self.news: dict[Place, float] = {}
        self.orders: dict[frozenset[Place], _Order] = {}
        self.kept = 0

    def draw(self, random: Random) -> frozenset[Place]:
        """Return the places whose accesses are events; none as long as no race is known."""
        places = list(self.races.places)
        weights = [self.news.get(place, 1.0) + LEAST_WEIGHT for place in places]
        drawn: list[Place] = []
        while places and (not drawn or random.random() < ANOTHER):
            index = random.choices(range(len(places)), weights)[0]
            drawn.append(places.pop(index))
            weights.pop(index)
        return frozenset(drawn)


class Surw(Strategy):
    """Draws the order of the accesses to a few places evenly."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._targets: dict[int, _Target] = {}

    def begin(self, target: int, cpus: int) -> None:
        known = self._known = self._targets.setdefault(target, _Target())
        known.races.begin()
        self._events = known.draw(self.random)
        totals = [known.races.places[place] for place in self._events]
        self._left = [sum(total.get(cpu, 0) for total in totals) for cpu in range(cpus)]
        if known.kept >= MOST_ORDERS:
            known.orders.clear()
            known.kept = 0
        self._order = known.orders.setdefault(self._events, _Order())
        self._depth = 0
        self._new = False
        self._next: int | None = None
        self._priorities: dict[int, float] = {}

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        cpus = machine.memory.cpus
        races = self._known.races
        events = self._events
        chosen = enabled[0]
        if len(enabled) > 1:
            free = enabled
            if events:
                waiting = [a for a in enabled if a < cpus and races.place(machine.pending(a)) in events]
                if self._next not in enabled:
                    self._next = self._draw_next(enabled, waiting)
                free = [agent for agent in enabled if agent == self._next or agent not in waiting]
            chosen = self._highest(free)
        op = machine.pending(chosen) if chosen < cpus else None
        if op is not None and races.watching:
            races.note(chosen, op)
        if op is not None and races.place(op) in events:
            self._event(chosen)
        elif op is None or races.may_race(op):
            self._priorities.pop(chosen, None)
        return chosen

    def end(self, execution: Execution) -> None:
        known = self._known
        known.races.end()
        for place in self._events:
            known.news[place] = MEMORY * known.news.get(place, 1.0) + (1 - MEMORY) * self._new

    def _highest(self, agents: Sequence[int]) -> int:
        priorities = self._priorities
        for agent in agents:
            if agent not in priorities:
                priorities[agent] = self.random.random()
        return max(agents, key=priorities.__getitem__)

    def _draw_next(self, enabled: Sequence[int], waiting: Sequence[int]) -> int | None:
        """Return the CPU of the next event, None if none is left."""
        able = [agent for agent in enabled if agent < len(self._left)]
        left = [max(self._left[agent], agent in waiting) for agent in able]
        total = sum(left)
        if not total:
            return None
        following = self._order.following
        had = [following[agent].runs if agent in following else 0 for agent in able]
        runs = 1 + sum(had)
        # what each has had less than its share of the runs up to this one; it is positive for one of them at least
        short = [
            max(0.0, runs * part / total - before) if part else 0.0 for part, before in zip(left, had, strict=True)
        ]
        return self.random.choices(able, short)[0]

    def _event(self, cpu: int) -> None:
        self._left[cpu] -= 1
        self._next = None
        self._priorities.clear()
        self._depth += 1
        if self._depth <= ORDERED:
            following = self._order.following.get(cpu)
            if following is None:
                following = self._order.following[cpu] = _Order()
                self._known.kept += 1
                self._new = True
            following.runs += 1
            self._order = following


STRATEGY = Surw
