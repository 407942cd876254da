"""Whether the reductions are worth their time in a search, judged from its first states.

What they leave out is estimated from the states visited so far: those in which steps were left out, and how many states
a sample of them stands for. What they cost was measured, in states of the search without them (docs/decisions/0007).
Nothing else counts, no clock least of all, so that a system is always searched in the same way.
"""

from __future__ import annotations

from collections.abc import Set
from itertools import islice

from fuzzvm.explore.exhaustive.symmetry import Symmetry

TRIAL = 4096
"""States after which it is judged."""
SAMPLE = 256
COST_OF_ORDERS = 3.5
"""Time of a state with partial-order reduction, by that of one without any."""
COST_OF_A_RENAMING = 1.0
"""What each renaming adds to that."""


class NotWorthItError(Exception):
    """The reductions take longer than visiting what they leave out."""


def saving(visited: Set[int], reduced: int, symmetry: Symmetry | None) -> float:
    """Return how many states each of `visited` stands for, where steps were left out in `reduced` of them.

    It is right within a factor of about two: a state left out has successors, which are left out or found otherwise.
    """
    kept = max(1, len(visited) - reduced)
    return alike(visited, symmetry) * len(visited) / kept


def alike(visited: Set[int], symmetry: Symmetry | None) -> float:
    """Return the mean number of states that differ from a visited one in names alone, itself counted."""
    if symmetry is None:
        return 1.0
    sample = list(islice(visited, 0, None, max(1, len(visited) // SAMPLE)))
    return sum(len({state, *(image.of(state) for image in symmetry.images)}) for state in sample) / len(sample)


def judge(visited: Set[int], reduced: int, symmetry: Symmetry | None) -> None:
    """Raise NotWorthItError where the reductions save less than they cost."""
    renamings = 0 if symmetry is None else len(symmetry.images)
    if saving(visited, reduced, symmetry) < COST_OF_ORDERS + COST_OF_A_RENAMING * renamings:
        raise NotWorthItError
