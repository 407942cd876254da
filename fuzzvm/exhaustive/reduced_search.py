"""The search with partial-order reduction, whichever the memory model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fuzzvm.exhaustive.checkpoint.kept import Restored
from fuzzvm.exhaustive.flat import FlatShared
from fuzzvm.exhaustive.limits import Keeper, Limits, StoppedError
from fuzzvm.exhaustive.reduced import Reduction
from fuzzvm.exhaustive.reduced_weakly import WeakReduction
from fuzzvm.exhaustive.search import Searched
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import Space, StateBoundError
from fuzzvm.exhaustive.stepped import SteppedShared
from fuzzvm.exhaustive.symmetry import Symmetry
from fuzzvm.exhaustive.worth import NotWorthItError, judge


def can_reduce(space: Space) -> bool:
    """Return whether the footprints describe the memory model of a space."""
    shared = space.shared
    return isinstance(shared, FlatShared) or (isinstance(shared, SteppedShared) and shared.model.reducible)


def search_reduced(
    space: Space,
    limits: Limits,
    *,
    first_only: bool = True,
    symmetry: Symmetry | None = None,
    sample: Sequence[int] | None = None,
    keeper: Keeper | None = None,
    restored: Restored | None = None,
) -> Searched:
    """As `search`, with fewer states: the same verdict, and the same `ends`.

    With a sample of the states that `search` has visited under sequential consistency, raises NotWorthItError where
    they say that this would take longer. Raises ValueError for a memory model that the footprints do not describe,
    AsymmetryError as `search` does.
    """
    if isinstance(space.start, Finding):
        return Searched(1, 0, (space.start,))
    if not can_reduce(space):
        raise ValueError(f"memory model {space.task.memory} does not say what its steps touch")
    search: Reduction
    if isinstance(space.shared, FlatShared):
        search = Reduction(space, limits, symmetry, keeper, restored)
        if sample is not None:
            _judge(search, sample, symmetry)
    else:
        search = WeakReduction(space, limits, None, keeper, restored)
    stopped, rounds = "", 0
    try:
        rounds = search.run(first_only=first_only)
    except (StoppedError, StateBoundError) as bound:
        stopped = str(bound)
    except MemoryError:
        count = len(search.visited)
        search.visited.clear()
        return Searched(count, search.transitions, tuple(search.findings), f"out of memory after {count} states")
    found = tuple(search.findings)
    return Searched(len(search.visited), search.transitions, found, stopped, frozenset(search.ends), rounds)


def _judge(search: Reduction, sample: Sequence[int], symmetry: Symmetry | None) -> None:
    """Raise NotWorthItError also where a bound or a lack of memory ends it: the search without reductions goes on."""
    try:
        judge(sample, search.left_out(sample), symmetry)
    except (StoppedError, StateBoundError, MemoryError) as error:
        raise NotWorthItError from error


FORESEEN_STATES = 200_000


def foresee(space: Space, limits: Limits) -> None:
    """Let the automata of a space learn what CPUs do under sequential consistency, which is nearly all that they do.

    Under a weak memory model a search begins again wherever CPUs turn out to do more than was known, so that it may be
    cut short: by its own bound on states, and by the time and memory of `limits`.
    """
    if space.weak:
        twin = Space(space.task, strong_twin_of=space)
        if isinstance(twin.start, int):
            search_reduced(twin, replace(limits, max_states=FORESEEN_STATES), first_only=False)
        space.renew()
