"""All schedules with few context switches, fewest first (Musuvathi and Qadeer: "Iterative context bounding for
systematic testing of multithreaded programs", PLDI 2007).

Every change of the agent from one step to the next counts, forced or not. Schedules are executed anew from the
beginning; nothing of the machine is copied. Where the memory model offers more than one way, only sc's is taken, and
the search says that it was not exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.machine.errors import Failure
from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.scenario.system import System


@dataclass(slots=True)
class Budget:
    """Machine steps that may be spent; a number and not a time, so that the result is the same everywhere."""

    steps: int

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.steps <= 0


@dataclass(frozen=True, slots=True)
class Shortest:
    """What the search found: the failing run, and whether it is proven that none has fewer switches, then steps."""

    execution: Execution | None
    proven: bool


class _Search:
    def __init__(self, system: System, failure: Failure, budget: Budget) -> None:
        self._system = system
        self._wanted = (failure.error, failure.function)
        self._budget = budget
        self._exact = True
        self.best: Execution | None = None
        self.limit = 0

    def run(self, prefix: Sequence[tuple[int, int]]) -> Machine:
        """Return a machine after the bursts of a prefix, which is known to fit."""
        machine = self._system.machine()
        for agent, steps in prefix:
            for _ in range(steps):
                machine.step(agent, self._choose)
        self._budget.steps -= machine.steps + 1
        return machine

    def explore(self, prefix: tuple[tuple[int, int], ...], switches: int) -> None:
        """Try every way to go on after a prefix with that many switches left."""
        enabled = tuple(self.run(prefix).enabled()) if not self._budget.spent else ()
        taken = sum(steps for _, steps in prefix)
        for agent in enabled:
            if prefix and agent == prefix[-1][0]:
                continue
            machine = self.run(prefix)
            steps = 0
            while not machine.done and agent in machine.enabled() and taken + steps + 1 < self.limit:
                machine.step(agent, self._choose)
                steps += 1
            self._budget.steps -= steps
            if not machine.done and not machine.enabled():
                machine.stuck()
            failure = machine.failure
            if failure is not None and (failure.error, failure.function) == self._wanted:
                bursts = (*prefix, (agent, steps))
                schedule = tuple((who,) for who, count in bursts for _ in range(count))
                self.best = Execution(schedule, failure)
                self.limit = len(schedule)
                steps -= 1
            elif machine.done:
                steps -= 1
            if switches == 0:
                continue
            for burst in range(1, steps + 1):
                if self._budget.spent or taken + burst + 1 >= self.limit:
                    break
                self.explore((*prefix, (agent, burst)), switches - 1)

    @property
    def proven(self) -> bool:
        return self._exact and not self._budget.spent

    def _choose(self, ways: int) -> int:
        self._exact = False
        return 0


def shortest_failure(system: System, failure: Failure, budget: Budget, *, switches: int, steps: int) -> Shortest:
    """Return the failing run with fewest context switches, then fewest steps, among those better than the bounds.

    Looks for the same error in the same function, in runs with fewer than `switches` context switches, or that many
    and fewer than `steps` steps. `execution` is None where there is none (or the budget ended first: then `proven`
    is False). The budget is used up by what is spent.
    """
    search = _Search(system, failure, budget)
    for bound in range(switches + 1):
        search.limit = steps if bound == switches else 1 << 30
        search.explore((), bound)
        if search.best is not None or budget.spent:
            break
    return Shortest(search.best, search.proven)
