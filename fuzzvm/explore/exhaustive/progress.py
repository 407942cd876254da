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
    order, before, ends = _reached(space, space.start, watch)
    ending = set(ends)
    while ends:
        for state in before[ends.pop()]:
            if state not in ending:
                ending.add(state)
                ends.append(state)
    trapped = next((state for state in order if state not in ending), None)
    return None if trapped is None else _onward(space, trapped)


def _reached(space: Space, start: int, watch: Watch) -> tuple[list[int], dict[int, list[int]], list[int]]:
    """Return all states, those that fewer steps lead to first; the states before each; and those without a step."""
    lanes = [(lane.mask, lane.table, lane.compute) for lane in space.lanes]
    before: dict[int, list[int]] = {start: []}
    order = [start]
    ends = []
    look = watch.next_look
    for state in order:
        following = []
        for mask, table, compute in lanes:
            key = state & mask
            entry = table.get(key)
            if entry is None:
                entry = compute(key)
            if not isinstance(entry, int):
                following += [state + way.delta for way in entry]
            elif entry:
                following.append(state + entry)
        if space.has_agents:
            for ways in space.agent_steps(state).values():
                following += [state + way.delta for way in ways]
        for target in following:
            if target in before:
                before[target].append(state)
            else:
                before[target] = [state]
                order.append(target)
        if not following:
            ends.append(state)
        if len(order) >= look:
            watch.look(len(order))
            look = watch.next_look
    return order, before, ends


def _onward(space: Space, trapped: int) -> Schedule:
    """Return a run of MAX_STEPS steps through a state: to it by a shortest way, and on by any."""
    assert isinstance(space.start, int)
    parents: dict[int, tuple[int, Step]] = {}
    order = [space.start]
    for state in order:
        if trapped in parents:
            break
        for agent, way in space.steps(state):
            following = state + way.delta
            if following not in parents and following != space.start:
                parents[following] = (state, (agent, *way.choices))
                order.append(following)
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
