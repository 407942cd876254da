"""PCT: probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi, Nagarakatte; ASPLOS 2010, section 3).

Agents have random priorities and the highest enabled one runs. At d - 1 steps, drawn before the run, the running
agent's priority drops below all others. A bug of depth d is hit with probability at least 1/(n k^(d-1)) for n agents
and k steps.

Departures: the depth is drawn anew for each run, from 1 to MAX_DEPTH, since the bug's is not known; k counts memory
accesses, not steps, since a switch before a barrier is one before the access that follows it, and is that of the
longest run of the same target so far; an agent of the memory model gets its priority when it is first seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.runs.plans.plan import touches_memory
from fuzzvm.runs.strategies import Strategy

MAX_DEPTH = 5
FIRST_GUESS = 64
"""Accesses that a run is taken to have before one has been seen."""


class Pct(Strategy):
    """Priorities with few change points: few context switches, at places drawn evenly over the run."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._longest: dict[int, int] = {}

    def begin(self, target: int, cpus: int) -> None:
        self._target = target
        accesses = self._longest.get(target, FIRST_GUESS)
        depth = self.random.randint(1, MAX_DEPTH)
        self._change_points = {self.random.randrange(accesses) for _ in range(depth - 1)}
        self._priorities: dict[int, float] = {}
        self._lowest = 0.0
        self._accesses = 0

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        for agent in enabled:
            if agent not in self._priorities:
                self._priorities[agent] = self.random.random()
        chosen = max(enabled, key=self._priorities.__getitem__)
        if touches_memory(machine, chosen):
            if self._accesses in self._change_points:
                self._lowest -= 1.0
                self._priorities[chosen] = self._lowest
                chosen = max(enabled, key=self._priorities.__getitem__)
            self._accesses += 1
        return chosen

    def end(self, execution: Execution) -> None:
        self._longest[self._target] = max(self._longest.get(self._target, 1), self._accesses)


STRATEGY = Pct
