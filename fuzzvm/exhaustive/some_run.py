"""Some run that goes wrong, where there was no time or room to look for the shortest."""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.exhaustive.explorer import Parents, all_moves, explore
from fuzzvm.exhaustive.limits import Limits, StoppedError, Watch
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import Space, StateBoundError, Way
from fuzzvm.machine.schedule import Schedule


class _AnyError(Parents):
    """Ends at the first run that goes wrong; `schedule` is that run."""

    def __init__(self, space: Space, start: int) -> None:
        super().__init__(start)
        self._space = space
        self.schedule: Schedule | None = None

    def error(self, state: int, agent: int, way: Way) -> None:
        if not self.done:
            self.schedule = (*self.way_to(state), (agent, *way.choices))
            self.done = True

    def end(self, state: int) -> None:
        if self._space.ended(state) is not None:
            self.schedule = self.way_to(state)
            self.done = True


def some_run(space: Space, limits: Limits) -> Schedule | None:
    """Return a schedule that goes wrong, the first one found depth first; None if there is none, or no time or memory.

    It visits states in the order of `search`, and so no more than that did, had it no reduction. `max_states` does not
    bound it: the verdict is known, and what is wanted is its schedule.
    """
    start = space.start
    if isinstance(start, Finding):
        return ()
    goal = _AnyError(space, start)
    try:
        explore([start], {start}, all_moves(space), goal, Watch(replace(limits, max_states=None)))
    except (StoppedError, StateBoundError):
        return None
    return goal.schedule
