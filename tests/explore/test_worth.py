"""Reductions that cost more than they save are dropped, and nothing but the number of states says so."""

from __future__ import annotations

import pytest

from fuzzvm.bench.flat_model import FlatSystem
from fuzzvm.explore.exhaustive import verify, worth
from fuzzvm.explore.exhaustive.limits import Limits
from fuzzvm.explore.exhaustive.reduced import search_reduced
from fuzzvm.explore.exhaustive.search import search
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.explore.exhaustive.symmetry import Symmetry
from fuzzvm.explore.exhaustive.worth import NotWorthItError, alike, saving
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System


def kernel(mitigation: str, scenario: str) -> System:
    return System(shipped.get(scenario), registry.get(mitigation), "sc")


@pytest.mark.parametrize(("slots", "walkers"), [(64, 1), (32, 2), (35, 4)])
def test_dropped_where_they_save_little(slots: int, walkers: int) -> None:
    space = Space(FlatSystem(slots, walkers))
    with pytest.raises(NotWorthItError):
        search_reduced(space, Limits(), symmetry=Symmetry(space), on_trial=True)


@pytest.mark.parametrize(("slots", "walkers"), [(64, 1), (32, 2)])
def test_every_state_is_counted_where_they_are_dropped(slots: int, walkers: int) -> None:
    verdict = verify(FlatSystem(slots, walkers))
    everything = search(Space(FlatSystem(slots, walkers)), Limits())
    assert (verdict.states, verdict.transitions) == (everything.states, everything.transitions)
    assert (verdict.verdict, verdict.complete) == ("safe", True)


@pytest.mark.parametrize("cell", [("static-key", "two-walkers"), ("static-key", "two-promoters")])
def test_kept_where_they_save_much(cell: tuple[str, str]) -> None:
    system = kernel(*cell)
    space = Space(system)
    kept = search_reduced(space, Limits(), symmetry=Symmetry(space), on_trial=True)
    assert kept.complete
    assert kept.states > worth.TRIAL
    assert verify(system).states == kept.states


@pytest.mark.parametrize("trial", [1, 64, 512])
@pytest.mark.parametrize("mitigation", registry.shipped())
def test_whenever_it_is_judged_the_verdict_is_the_same(
    mitigation: str, trial: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = kernel(mitigation, "two-walkers")
    monkeypatch.setattr("fuzzvm.explore.exhaustive.reduced.TRIAL", trial)
    monkeypatch.setattr("fuzzvm.explore.exhaustive.limits.CHECK_EVERY", trial)
    for cost in (0.0, 1e9):
        monkeypatch.setattr(worth, "COST_OF_ORDERS", cost)
        verdict = verify(system)
        assert verdict.complete
        assert verdict.verdict == system.scenario.expected(system.mitigation)


def test_what_a_state_stands_for() -> None:
    space = Space(FlatSystem(6, 3))
    symmetry = Symmetry(space)
    everything = search(Space(FlatSystem(6, 3)), Limits()).states
    one_of_each = search(space, Limits(), symmetry=symmetry)
    assert alike({1, 2, 3}, None) == 1.0
    assert saving(set(range(10)), 5, None) == 2.0
    assert saving(set(range(10)), 10, None) == 10.0
    visited = _visited(space, symmetry)
    assert len(visited) == one_of_each.states
    assert alike(visited, symmetry) * len(visited) == pytest.approx(everything, rel=0.1)


def _visited(space: Space, symmetry: Symmetry) -> set[int]:
    assert isinstance(space.start, int)
    seen: set[int] = set()
    todo = [symmetry.canonical(space.start)]
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += [symmetry.canonical(state + way.delta) for _, way in space.steps(state)]
    return seen
