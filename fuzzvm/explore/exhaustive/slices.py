"""A state space cut into slices that runs pass through in one direction only.

How far a CPU has come in its program is a number that never falls: of two local states of which the one leads to the
other, the second has no more before it than the first, and as much only where it leads back. So local states are put
into bands by how many of them can still come, and a slice is one band for each CPU: a step leaves its slice at one
place, to a greater band of the CPU that steps, and no run ever comes back. Cutting a state space by where one process
stands is Lerda and Sisto's (SPIN 1999, LNCS 1680, section 3.2: most steps stay in a part); that parts are ordered, so
that each has to be searched only once, is what finite programs add to it.

A cycle of states lies within a slice. Steps of memory's own agents move no CPU, and stay in one.
"""

from __future__ import annotations

from collections.abc import Sequence

from fuzzvm.explore.automaton import Automaton
from fuzzvm.explore.exhaustive.space import LOCAL_MASK, Space

Slice = tuple[int, ...]
"""The band of each CPU."""

LEAST = 4
"""Local states in a band, at least: crossing from band to band has its cost."""


class Slices:
    """The slices of a space whose automata are whole. `bands` has the band of each local state of each CPU.

    `weights` say how many states are to be expected in which each CPU is in each of its local states: bands are to
    weigh the same.
    """

    def __init__(self, space: Space, weights: Sequence[Sequence[int]], most: int) -> None:
        self._lanes = [(lane.cpu, lane.shift) for lane in space.lanes]
        reachable = map(_reachable, space.automata)
        self.bands = [_bands(*of_cpu, most) for of_cpu in zip(reachable, weights, strict=True)]

    def of(self, state: int) -> Slice:
        """Return the slice of a state."""
        return tuple([self.bands[cpu][state >> shift & LOCAL_MASK] for cpu, shift in self._lanes])


def precedes(one: Slice, other: Slice) -> bool:
    """Return whether a run may get from one slice to another one."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def first_ones(slices: Sequence[Slice]) -> list[Slice]:
    """Return those that no run gets to from another of them, in order: they can be searched side by side."""
    return sorted(one for one in slices if not any(precedes(other, one) for other in slices))


def weigh(space: Space) -> list[list[int]]:
    """Return for each local state of each CPU in how many shared states a search has come to it, and one."""
    found = []
    for lane in space.lanes:
        weights = [1] * len(space.automata[lane.cpu].nodes)
        for key in lane.table:
            weights[key >> lane.shift] += 1
        found.append(weights)
    return found


def _bands(reachable: Sequence[int], weights: Sequence[int], most: int) -> list[int]:
    """Return for each local state which of up to `most` bands it is in."""
    count = len(reachable)
    bands = max(1, min(most, count // LEAST))
    ranks = [count - still.bit_count() for still in reachable]
    before = [0] * count
    for rank, weight in zip(ranks, weights, strict=True):
        for later in range(rank + 1, count):
            before[later] += weight
    return [before[rank] * bands // sum(weights) for rank in ranks]


def _reachable(automaton: Automaton) -> list[int]:
    """Return for each local state those that can come from there on, itself among them, as bits."""
    following = [
        [edge.target.number for edge in node.edges.values() if edge.target is not None] for node in automaton.nodes
    ]
    found = [1 << number for number in range(len(following))]
    changed = True
    while changed:
        changed = False
        # most steps lead to a local state with a greater number
        for number in range(len(following) - 1, -1, -1):
            after = found[number]
            for target in following[number]:
                after |= found[target]
            if after != found[number]:
                found[number] = after
                changed = True
    return found
