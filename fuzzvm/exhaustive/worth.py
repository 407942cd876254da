"""Whether the reductions are worth their time in a search, judged from states that it has visited without them.

What they would leave out is estimated from a sample of those states: in how many of them steps would be left out, and
how many states differ from each in the names of CPUs alone. What that must come to was measured (docs/decisions/0007).
Nothing else counts, no clock least of all, so that a system is always searched in the same way.
"""

from __future__ import annotations

from collections.abc import Collection

from fuzzvm.exhaustive.symmetry import Symmetry

FEW = 16_384
"""States up to which reductions are not asked for: hardly any search of so few is faster with them."""
SAMPLE = 256
LEAST = 10.0
"""States that each state must stand for by the estimate, which is several times too high where much is left out,"""
LEAST_FOR_A_RENAMING = 3.0
"""and how many more for each renaming of CPUs that symmetry tries."""


class NotWorthItError(Exception):
    """The reductions take longer than visiting what they leave out."""


def saving(sample: Collection[int], reduced: int, symmetry: Symmetry | None) -> float:
    """Return how many states each of the sample would stand for, where steps would be left out in `reduced` of them."""
    kept = max(1, len(sample) - reduced)
    return alike(sample, symmetry) * len(sample) / kept


def alike(sample: Collection[int], symmetry: Symmetry | None) -> float:
    """Return the mean number of states that differ from one of the sample in names alone, itself counted."""
    if symmetry is None:
        return 1.0
    return sum(len({state, *(image.of(state) for image in symmetry.images)}) for state in sample) / len(sample)


def judge(sample: Collection[int], reduced: int, symmetry: Symmetry | None) -> None:
    """Raise NotWorthItError where the reductions save less than they cost."""
    renamings = 0 if symmetry is None else len(symmetry.images)
    if saving(sample, reduced, symmetry) < LEAST + LEAST_FOR_A_RENAMING * renamings:
        raise NotWorthItError
