"""Compares what a search with reductions finds with what one without finds."""

from __future__ import annotations

from fuzzvm.explore.exhaustive.limits import Limits
from fuzzvm.explore.exhaustive.reduced_search import foresee, search_reduced
from fuzzvm.explore.exhaustive.search import search
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.scenario.system import System


def both(system: System, most: int) -> bool:
    """Compare the search with reductions and without, on one space; return whether the space is that small.

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
    assert reduced.ends <= full.ends
    assert full.findings or reduced.ends == full.ends
    assert reduced.states <= full.states
    return True
