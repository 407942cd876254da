"""Compares what a search with reductions finds with what one without finds."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest

from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.reduced_search import foresee, search_reduced
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.scenario.system import System


def reduce_at_once(patch: pytest.MonkeyPatch, few: int = 1) -> None:
    """Let `verify` use reductions after so many states under sequential consistency, whatever they save."""
    patch.setattr("fuzzvm.exhaustive.stages.FEW", few)
    patch.setattr("fuzzvm.exhaustive.worth.LEAST", 0.0)
    patch.setattr("fuzzvm.exhaustive.worth.LEAST_FOR_A_RENAMING", 0.0)


def itself(space: Space, state: int) -> Hashable:
    """Return what two states must agree on to be one: everything."""
    return state


def both(system: System, most: int, told_apart_by: Callable[[Space, int], Hashable] = itself) -> bool:
    """Compare the search with reductions and without, on one space; return whether the space is that small.

    Ends of runs are compared by what `told_apart_by` returns of them.

    Where a run goes wrong, ends may be missing: a store that is not kept back meets an error that it would have met
    had it been executed later, while the run that kept it back goes on to its end.
    """
    space = Space(system)
    foresee(space, Limits())
    full = space.settled(lambda: search(space, Limits(max_states=most), first_only=False))
    if not full.complete:
        return False
    reduced = space.settled(lambda: search_reduced(space, Limits(), first_only=False))
    assert reduced.complete
    assert bool(reduced.findings) == bool(full.findings)
    assert set(reduced.findings) <= set(full.findings)
    ends, all_ends = [{told_apart_by(space, end) for end in found.ends} for found in (reduced, full)]
    assert ends <= all_ends
    assert full.findings or ends == all_ends
    assert reduced.states <= full.states
    return True
