"""Runs that never end: states from which no schedule leads to an end.

A cycle of states alone is no error: a CPU that retries a trylock goes around one for as long as the holder is not
scheduled, and any fair scheduler ends that. It is one where no way leads out, that is, where from some state neither
the end of the run, nor a deadlock, nor any other error can be reached. Then every schedule runs for ever (a livelock).

Where no CPU can take part in a cycle of states (`recurrence`) there is none, and nothing to look for. Machine's own
rule is coarser: it calls a run of MAX_STEPS steps `no-progress`, whatever might have come after.
"""

from __future__ import annotations

from fuzzvm.explore.exhaustive.limits import Limits, Watch
from fuzzvm.explore.exhaustive.recurrence import recurrent
from fuzzvm.explore.exhaustive.shared import Finding
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.machine.errors import NO_PROGRESS
from fuzzvm.machine.execution import MAX_STEPS
from fuzzvm.machine.schedule import Schedule, Step

NEVER_ENDS = Finding(NO_PROGRESS, "")


def may_cycle(space: Space) -> bool:
    """Return whether there may be a cycle of states, as far as the automata are known."""
    return any(recurrent(space.automata, space.values))


def endless_run(space: Space, limits: Limits) -> Schedule | None:
    """Return a schedule of MAX_STEPS steps into a state that no end can be reached from, and on; None if there is none.

    The space has no errors otherwise. Its first part is a shortest way there by steps. Raises StoppedError.
    """
    assert isinstance(space.start, int)
    watch = Watch(limits)
    parents: dict[int, tuple[int, Step]] = {}
    before: dict[int, list[int]] = {space.start: []}
    order = [space.start]
    ends = []
    for state in order:
        steps = space.steps(state)
        for agent, way in steps:
            following = state + way.delta
            if following not in before:
                before[following] = []
                parents[following] = (state, (agent, *way.choices))
                order.append(following)
            before[following].append(state)
        if not steps:
            ends.append(state)
        if len(order) >= watch.next_look:
            watch.look(len(order))
    ending = set(ends)
    while ends:
        for state in before[ends.pop()]:
            if state not in ending:
                ending.add(state)
                ends.append(state)
    trapped = next((state for state in order if state not in ending), None)
    return None if trapped is None else _onward(space, trapped, parents)


def _onward(space: Space, trapped: int, parents: dict[int, tuple[int, Step]]) -> Schedule:
    steps: list[Step] = []
    state = trapped
    while state in parents:
        state, step = parents[state]
        steps.append(step)
    steps.reverse()
    state = trapped
    while len(steps) < MAX_STEPS:
        agent, way = space.steps(state)[0]
        steps.append((agent, *way.choices))
        state += way.delta
    return tuple(steps[:MAX_STEPS])
