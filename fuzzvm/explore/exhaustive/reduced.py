"""Search with partial-order reduction: of steps that commute with all that others may still do, one order is enough.

In each state a persistent set of CPUs is chosen (Godefroid, LNCS 1032, 1996, section 4.2: closed under "may still
conflict with the next step of a member"), and only those are stepped. That keeps every state in which a run ends, and
so deadlocks and the checks at the end, and a run to an error where there is one.

What a CPU may still touch is read from its automaton, which is compiled by the search itself. So the search assumes
that the automata known when it begins are whole, and is done again where it finds that they were not; the last pass
finds nothing new, and then the assumption holds for every run: a shortest run that left the assumed automata would
take its last step from a local state that the pass has visited, with a response that it has seen, since all steps
postponed before commute with it. (docs/decisions/0010 has the induction.)

A step is postponed for ever only around a cycle of states (the "ignoring problem", Valmari 1990). A CPU that takes part
in such a cycle goes around a cycle of its automaton, so local states that lie on one never stand for others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from fuzzvm.explore.exhaustive.flat import FlatShared
from fuzzvm.explore.exhaustive.footprint import Footprints
from fuzzvm.explore.exhaustive.limits import Limits, Stopped, Watch
from fuzzvm.explore.exhaustive.search import Searched
from fuzzvm.explore.exhaustive.shared import Finding
from fuzzvm.explore.exhaustive.space import Entry, Lane, Space, StateBound


class Assumed(NamedTuple):
    """What a pass takes for granted of each local state of a CPU: its future's conflicts, and whether it may cycle."""

    future: list[int]
    cyclic: list[bool]


class _Reduced:
    """One space, searched in passes; tables of steps and of their accesses are kept from pass to pass."""

    def __init__(self, space: Space, limits: Limits) -> None:
        self._space = space
        self._watch = Watch(limits)
        boot = space.system.booted()
        unwatched = frozenset(range(len(boot.allocator.allocations))) - boot.watched
        self._footprints = Footprints(unwatched)
        self._accesses: list[dict[int, int]] = [{} for _ in space.lanes]

    def assume(self) -> list[Assumed]:
        """Return what follows from the automata as far as they are known."""
        return [Assumed(*self._footprints.futures(automaton)) for automaton in self._space.automata]

    def run(self, assumed: list[Assumed], *, first_only: bool) -> Searched:
        """Search once on that assumption; local states met for the first time are added to it, without a future."""
        space = self._space
        lanes = [
            (lane.mask, lane.shift, lane.table, access, known.future, known.cyclic, self._computer(lane, known))
            for lane, access, known in zip(space.lanes, self._accesses, assumed, strict=True)
        ]
        visited = {space.start}
        stack = [space.start]
        findings: dict[Finding, None] = {}
        ends = set()
        transitions = 0
        stopped = ""
        look = self._watch.next_look
        try:
            while stack and not (findings and first_only):
                state = stack.pop()
                moves: list[tuple[Entry, int, int, bool]] = []
                for mask, shift, table, access, future, cyclic, compute in lanes:
                    key = state & mask
                    local = key >> shift
                    if not local:
                        continue
                    accesses = access.get(key)
                    if accesses is None:
                        accesses = compute(key)
                    moves.append((table[key], accesses, future[local], cyclic[local]))
                before = transitions
                for entry in _persistent(moves) if len(moves) > 1 else [move[0] for move in moves]:
                    if entry.__class__ is int:
                        if entry:
                            transitions += 1
                            following = state + entry  # type: ignore[operator]
                            if following not in visited:
                                visited.add(following)
                                stack.append(following)
                        continue
                    for _, delta, finding in entry:  # type: ignore[union-attr]
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
                    self._watch.look(len(visited))
                    look = self._watch.next_look
        except (Stopped, StateBound) as bound:
            stopped = str(bound)
        except MemoryError:
            count = len(visited)
            visited.clear()
            return Searched(count, transitions, tuple(findings), f"out of memory after {count} states")
        return Searched(len(visited), transitions, tuple(findings), stopped, frozenset(ends))

    def _computer(self, lane: Lane, known: Assumed) -> Callable[[int], int]:
        nodes = self._space.automata[lane.cpu].nodes
        table = self._accesses[lane.cpu]
        footprints = self._footprints

        def compute(key: int) -> int:
            entry = lane.compute(key)
            node = nodes[key >> lane.shift]
            accesses = table[key] = footprints.step(node, lane.edge if entry else None)
            for added in range(len(known.future), len(nodes)):
                known.future.append(footprints.own(nodes[added]))
                known.cyclic.append(False)
            return accesses

        return compute


def _persistent(moves: list[tuple[Entry, int, int, bool]]) -> list[Entry]:
    """Return the steps of a persistent set: what they touch, no CPU outside may ever touch in conflict.

    A move is (what the step does, what it touches, what the CPU's future conflicts with, whether it may cycle).
    """
    for index, (entry, accesses, _, cyclic) in enumerate(moves):
        if entry and not cyclic:
            for other, move in enumerate(moves):
                if accesses & move[2] and other != index:
                    break
            else:
                return [entry]
    if len(moves) > 2:
        for index, move in enumerate(moves):
            if move[0]:
                members = _closure(index, moves)
                if len(members) < len(moves) and not any(moves[member][3] for member in members):
                    return [moves[member][0] for member in members]
    return [move[0] for move in moves]


def _closure(first: int, moves: list[tuple[Entry, int, int, bool]]) -> list[int]:
    """Return the smallest set of CPUs with `first` in it such that no future outside conflicts with a step inside.

    A blocked member's step counts as well: who may unblock it conflicts with it, and so is a member.
    """
    members = [first]
    rest = [index for index in range(len(moves)) if index != first]
    accesses = moves[first][1]
    grown = True
    while grown:
        grown = False
        for index in rest:
            if accesses & moves[index][2]:
                rest.remove(index)
                members.append(index)
                accesses |= moves[index][1]
                grown = True
                break
    return members


def search_reduced(space: Space, limits: Limits, *, first_only: bool = True) -> Searched:
    """As `search`, with fewer states: the same verdict, and the same `ends`. `states` counts those of the last pass."""
    if isinstance(space.start, Finding):
        return Searched(1, 0, (space.start,))
    if not isinstance(space.shared, FlatShared):
        raise ValueError("partial-order reduction knows sequential consistency only")
    search = _Reduced(space, limits)
    passes = 0
    while True:
        assumed = search.assume()
        passes += 1
        found = search.run(assumed, first_only=first_only)
        if found.stopped or (found.findings and first_only) or assumed == search.assume():
            return replace(found, passes=passes)
