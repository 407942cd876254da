"""One search of a state space, from parts: a frontier, the states visited, the moves of a state, and a goal.

The loops that decide how long a verdict takes are written out instead: `search` and its compiled form `loop`, and
`shortest`. Everything else that visits states is this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from fuzzvm.exhaustive.limits import Watch
from fuzzvm.exhaustive.space import Entry, Space, Way, ways_of
from fuzzvm.machine.schedule import Schedule, Step

Moves = Callable[[int], Iterable[tuple[int, Entry]]]
"""Returns the steps that are taken from a state: the agent of each, and its ways as a table of the space has them."""


class Goal:
    """What a search is for. Its methods are called while it goes on; the state at which it is `done` is the last."""

    done = False

    def step(self, state: int, step: Step, following: int) -> None:
        """A step leads from one state to another, which may have been visited before."""

    def error(self, state: int, agent: int, way: Way) -> None:
        """A step goes wrong."""

    def end(self, state: int) -> None:
        """A state has no step."""


def explore(
    frontier: list[int] | deque[int],
    visited: set[int],
    moves: Moves,
    goal: Goal,
    watch: Watch,
    *,
    canonical: Callable[[int], int] | None = None,
) -> int:
    """Visit the states of a frontier and all that follow, each once; return the number of steps taken.

    A list is taken from its end, depth first, and a deque from its beginning, breadth first. States of the frontier are
    in `visited`. `canonical` returns the state that one stands for. Raises StoppedError, and what `moves` raises.
    """
    take = frontier.popleft if isinstance(frontier, deque) else frontier.pop
    transitions = 0
    look = watch.next_look
    while frontier and not goal.done:
        state = take()
        before = transitions
        for agent, entry in moves(state):
            for way in ways_of(entry):
                transitions += 1
                if way.finding is not None:
                    goal.error(state, agent, way)
                    continue
                following = state + way.delta
                if canonical is not None and following not in visited:
                    following = canonical(following)
                goal.step(state, (agent, *way.choices), following)
                if following not in visited:
                    visited.add(following)
                    frontier.append(following)
        if transitions == before:
            goal.end(state)
        if len(visited) >= look:
            watch.transitions = transitions
            watch.look(len(visited))
            look = watch.next_look
    return transitions


def all_moves(space: Space) -> Moves:
    """Return what gives every step of a state."""

    def moves(state: int) -> list[tuple[int, Entry]]:
        found: list[tuple[int, Entry]] = []
        for lane in space.lanes:
            key = state & lane.mask
            entry = lane.table.get(key)
            found.append((lane.cpu, lane.compute(key) if entry is None else entry))
        return [*found, *space.agent_steps(state).items()] if space.weak else found

    return moves


class Parents(Goal):
    """Remembers for each state a step that leads there: the first one found."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._parents: dict[int, tuple[int, Step]] = {}

    def step(self, state: int, step: Step, following: int) -> None:
        if following != self._start:
            self._parents.setdefault(following, (state, step))

    def way_to(self, state: int) -> Schedule:
        """Return the steps that lead to a state."""
        steps: list[Step] = []
        while state != self._start:
            state, step = self._parents[state]
            steps.append(step)
        return tuple(reversed(steps))
