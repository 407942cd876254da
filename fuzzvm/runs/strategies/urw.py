"""URW: the interleaving-uniform random walk (Zhao, Wolff, Mathur, Roychoudhury: "Selectively Uniform Concurrency
Testing", ASPLOS 2025, section 3).

Where agent i has n_i steps left, choosing it with probability n_i over the sum of all makes every interleaving of
straight-line programs equally likely.

Departures: the numbers of steps are not known beforehand; they are those of the longest run of each agent in the same
target so far, and an agent that is past its number counts as one step. Agents of the memory model count likewise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.runs.strategies import Strategy


class Urw(Strategy):
    """Weighs each agent by the steps that it probably has left."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._longest: dict[int, Counter[int]] = {}

    def begin(self, target: int, cpus: int) -> None:
        self._totals = self._longest.setdefault(target, Counter())
        self._done: Counter[int] = Counter()

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        weights = [max(1, self._totals[agent] - self._done[agent]) for agent in enabled]
        chosen = self.random.choices(enabled, weights)[0]
        self._done[chosen] += 1
        return chosen

    def end(self, execution: Execution) -> None:
        for agent, steps in self._done.items():
            self._totals[agent] = max(self._totals[agent], steps)


STRATEGY = Urw
