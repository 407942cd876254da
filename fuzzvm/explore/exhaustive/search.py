"""Is there a run that goes wrong? Visits every state once, by its exact value, until one does."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.explore.exhaustive.limits import Limits, StoppedError, Watch
from fuzzvm.explore.exhaustive.shared import Finding
from fuzzvm.explore.exhaustive.space import Space, StateBoundError
from fuzzvm.explore.exhaustive.symmetry import Symmetry
from fuzzvm.machine.schedule import Schedule


@dataclass(frozen=True)
class Searched:
    """What a search saw. `findings` are errors in the order found; `stopped` names the bound that cut it, '' if none.

    `ends` are the states in which runs end well; `passes` counts the rounds of a
    reduced search, and `endless` is a run that never ends.
    """

    states: int
    transitions: int
    findings: tuple[Finding, ...]
    stopped: str = ""
    ends: frozenset[int] = frozenset()
    passes: int = 1
    endless: Schedule | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing was cut."""
        return not self.stopped


def search(space: Space, limits: Limits, *, first_only: bool = True, symmetry: Symmetry | None = None) -> Searched:
    """Visit every state that can be reached, depth first; stop at the first error unless `first_only` is False.

    With `symmetry`, states that differ in the names of CPUs alone are one. Raises AsymmetryError where they are not.
    """
    if isinstance(space.start, Finding):
        return Searched(1, 0, (space.start,))
    watch = Watch(limits)
    look = watch.next_look
    lanes = [(lane.mask, lane.table, lane.compute) for lane in space.lanes]
    canonical = symmetry.canonical if symmetry is not None and symmetry.images else None
    start = space.start if canonical is None else canonical(space.start)
    visited = {start}
    stack = [start]
    findings: dict[Finding, None] = {}
    ends = set()
    transitions = 0
    stopped = ""
    has_agents = space.has_agents
    try:
        while stack and not (findings and first_only):
            state = stack.pop()
            before = transitions
            for mask, table, compute in lanes:
                key = state & mask
                entry = table.get(key)
                if entry is None:
                    entry = compute(key)
                if isinstance(entry, int):
                    if entry:
                        transitions += 1
                        following = state + entry
                        if following not in visited:
                            if canonical is not None and (following := canonical(following)) in visited:
                                continue
                            visited.add(following)
                            stack.append(following)
                    continue
                for _, delta, finding in entry:
                    transitions += 1
                    if finding is not None:
                        findings[finding] = None
                    elif (following := state + delta) not in visited:
                        if canonical is not None and (following := canonical(following)) in visited:
                            continue
                        visited.add(following)
                        stack.append(following)
            if has_agents:
                for ways in space.agent_steps(state).values():
                    for _, delta, finding in ways:
                        transitions += 1
                        if finding is not None:
                            findings[finding] = None
                        elif (following := state + delta) not in visited:
                            visited.add(following)
                            stack.append(following)
            if transitions == before:
                finding = space.ended(state)
                if finding is not None:
                    findings[finding] = None
                else:
                    ends.add(state)
            if len(visited) >= look:
                watch.look(len(visited))
                look = watch.next_look
    except (StoppedError, StateBoundError) as bound:
        stopped = str(bound)
    except MemoryError:
        count = len(visited)
        visited.clear()
        stopped = f"out of memory after {count} states"
        return Searched(count, transitions, tuple(findings), stopped)
    return Searched(len(visited), transitions, tuple(findings), stopped, frozenset(ends))
