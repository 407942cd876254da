"""Some run that goes wrong, where there was no time or room to look for the shortest."""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.explore.exhaustive.limits import Limits, StoppedError, Watch
from fuzzvm.explore.exhaustive.shared import Finding
from fuzzvm.explore.exhaustive.space import Space, StateBoundError
from fuzzvm.machine.schedule import Schedule, Step


def some_run(space: Space, limits: Limits) -> Schedule | None:
    """Return a schedule that goes wrong, the first one found depth first; None if there is none, or no time or memory.

    It visits states in the order of `search`, and so no more than that did, had it no reduction. `max_states` does not
    bound it: the verdict is known, and what is wanted is its schedule.
    """
    if isinstance(space.start, Finding):
        return ()
    watch = Watch(replace(limits, max_states=None))
    parents: dict[int, tuple[int, Step] | None] = {space.start: None}
    stack = [space.start]
    try:
        while stack:
            state = stack.pop()
            steps = space.steps(state)
            for agent, way in steps:
                step = (agent, *way.choices)
                if way.finding is not None:
                    return (*_path(parents, state), step)
                following = state + way.delta
                if following not in parents:
                    parents[following] = (state, step)
                    stack.append(following)
            if not steps and space.ended(state) is not None:
                return _path(parents, state)
            if len(parents) >= watch.next_look:
                watch.look(len(parents))
    except (StoppedError, StateBoundError):
        return None
    return None


def _path(parents: dict[int, tuple[int, Step] | None], state: int) -> Schedule:
    steps: list[Step] = []
    while (before := parents[state]) is not None:
        state, step = before
        steps.append(step)
    return tuple(reversed(steps))
