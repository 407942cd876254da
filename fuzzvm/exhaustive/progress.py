"""Runs that never end: states from which no schedule leads to an end.

A cycle of states alone is no error: a CPU that retries a trylock goes around one for as long as the holder is not
scheduled, and any fair scheduler ends that. It is one where no way leads out, that is, where from some state neither
the end of the run, nor a deadlock, nor any other error can be reached. Then every schedule runs for ever (a livelock).

Where no CPU can take part in a cycle of states (`recurrence`) there is none, and nothing to look for. Machine's own
rule is coarser: it calls a run of MAX_STEPS steps `no-progress`, whatever might have come after.
"""

from __future__ import annotations

from collections import deque

from fuzzvm.exhaustive.explorer import Parents, all_moves, explore
from fuzzvm.exhaustive.limits import Limits, Watch
from fuzzvm.exhaustive.recurrence import recurrent
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import Space, Way
from fuzzvm.machine.errors import NO_PROGRESS
from fuzzvm.machine.execution import MAX_STEPS
from fuzzvm.machine.schedule import Schedule, Step

NEVER_ENDS = Finding(NO_PROGRESS, "")


def may_cycle(space: Space) -> bool:
    """Return whether there may be a cycle of states, as far as the automata are known."""
    return any(recurrent(space.automata, space.values))


def endless_run(space: Space, limits: Limits) -> Schedule | None:
    """Return a schedule of MAX_STEPS steps into a state that no end can be reached from, and on; None if there is none.

    An error is an end as well. Its first part is a shortest way there by steps. Raises StoppedError.
    """
    start = space.start
    assert isinstance(start, int)
    goal = _Backwards(start)
    explore(deque([start]), {start}, all_moves(space), goal, Watch(limits))
    trapped = goal.trapped()
    return None if trapped is None else _onward(space, goal.way_to(trapped), trapped)


class _Backwards(Parents):
    """Remembers the states before each, and those without a step."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self._before: dict[int, list[int]] = {start: []}
        """By state, those that fewer steps lead to first."""
        self._ends: list[int] = []

    def step(self, state: int, step: Step, following: int) -> None:
        super().step(state, step, following)
        self._before.setdefault(following, []).append(state)

    def error(self, state: int, agent: int, way: Way) -> None:
        self._ends.append(state)

    def end(self, state: int) -> None:
        self._ends.append(state)

    def trapped(self) -> int | None:
        """Return the first state that no end can be reached from; None if there is none."""
        ending, ends = set(self._ends), list(self._ends)
        while ends:
            for state in self._before[ends.pop()]:
                if state not in ending:
                    ending.add(state)
                    ends.append(state)
        return next((state for state in self._before if state not in ending), None)


def _onward(space: Space, way: Schedule, state: int) -> Schedule:
    """Return a run of MAX_STEPS steps: a way to a state, and on by any steps."""
    steps = list(way)
    while len(steps) < MAX_STEPS:
        agent, taken = space.steps(state)[0]
        steps.append((agent, *taken.choices))
        state += taken.delta
    return tuple(steps[:MAX_STEPS])
