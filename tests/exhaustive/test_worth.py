"""Reductions are asked for in large searches only, and there where they save more than they cost."""

from __future__ import annotations

import pytest

from fuzzvm.bench.flat_model import FlatTask
from fuzzvm.exhaustive import Limits, verify, worth
from fuzzvm.exhaustive.reduced_search import search_reduced
from fuzzvm.exhaustive.search import Search, Searched, search
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.symmetry import Symmetry
from fuzzvm.exhaustive.worth import FEW, SAMPLE, NotWorthItError, alike, saving
from fuzzvm.mitigations import registry
from fuzzvm.scenario import scale, shipped
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.exhaustive.reduction import reduce_at_once


def kernel(mitigation: str, scenario: str | Scenario) -> System:
    return System(shipped.get(scenario) if isinstance(scenario, str) else scenario, registry.get(mitigation), "sc")


def judged(system: System) -> Searched:
    """Return what a search with reductions finds, once its system was searched without and that was judged."""
    space = Space(system)
    every = Search(space, Limits())
    assert every.run(pause=FEW) is None
    return search_reduced(space, Limits(), symmetry=Symmetry(space), sample=every.sample(SAMPLE))


@pytest.mark.parametrize(("slots", "walkers"), [(64, 1), (32, 2), (8, 3), (35, 4)])
def test_dropped_where_they_save_little(slots: int, walkers: int) -> None:
    with pytest.raises(NotWorthItError):
        judged(FlatTask(slots, walkers))


@pytest.mark.parametrize(("slots", "walkers"), [(16, 1), (64, 1), (32, 2)])
def test_every_state_is_counted_where_they_are_dropped(slots: int, walkers: int) -> None:
    verdict = verify(FlatTask(slots, walkers))
    everything = search(Space(FlatTask(slots, walkers)), Limits())
    assert (verdict.states, verdict.transitions) == (everything.states, everything.transitions)
    assert (verdict.verdict, verdict.complete) == ("safe", True)


@pytest.mark.parametrize("scenario", ["two-promoters", scale.cpus(3), scale.cpus(4)])
def test_kept_where_they_save_much(scenario: str | Scenario) -> None:
    system = kernel("static-key", scenario)
    kept = judged(system)
    verdict = verify(system)
    assert (verdict.verdict, verdict.complete, verdict.states) == ("safe", True, kept.states)
    assert kept.states < search(Space(system), Limits()).states / 5


@pytest.mark.parametrize("scenario", ["pmd-promotion", "two-walkers"])
def test_not_asked_for_where_there_are_few_states(scenario: str) -> None:
    system = kernel("static-key", scenario)
    everything = search(Space(system), Limits())
    assert everything.states < FEW
    assert verify(system).states == everything.states


@pytest.mark.slow
def test_asked_for_where_no_more_states_are_allowed() -> None:
    system = kernel("static-key", "two-walkers")
    assert not verify(system, Limits(max_states=9000), reduce=False).complete
    verdict = verify(system, Limits(max_states=9000))
    assert (verdict.verdict, verdict.complete) == ("safe", True)
    assert verdict.states < 9000
    # also where they were judged not to be worth it
    for most in (15_000, 17_000, 100_000):
        assert verify(FlatTask(8, 4), Limits(max_states=most)).complete
    stopped = verify(system, Limits(max_states=1000))
    assert (stopped.complete, stopped.stopped) == (False, "--max-states 1000 reached")


def test_a_bug_that_is_seen_as_the_bound_is_reached_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    system = kernel("none", "two-walkers")
    until = search(Space(system), Limits()).states
    bounds = [Limits(max_states=until - more) for more in range(3)]
    found = [search(Space(system), limits) for limits in bounds]
    at_the_bound = [limits for limits, one in zip(bounds, found, strict=True) if one.findings and one.stopped]
    assert at_the_bound

    def again(*arguments: object, **options: object) -> Searched:
        raise AssertionError("searched again")

    monkeypatch.setattr("fuzzvm.exhaustive.stages.search_reduced", again)
    for limits in at_the_bound:
        assert verify(system, limits).verdict == "bug"


@pytest.mark.product
@pytest.mark.parametrize("few", [1, 64, 512])
@pytest.mark.parametrize("mitigation", registry.shipped())
@pytest.mark.parametrize("scenario", ["two-walkers", scale.walkers(2)])
def test_however_it_is_judged_the_verdict_is_the_same(
    mitigation: str, scenario: str | Scenario, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = kernel(mitigation, scenario)
    for least in (0.0, 1e9):
        reduce_at_once(monkeypatch, few)
        monkeypatch.setattr(worth, "LEAST", least)
        verdict = verify(system)
        assert verdict.complete
        assert verdict.verdict == system.scenario.expected(system.mitigation)


def test_what_a_state_stands_for() -> None:
    space = Space(FlatTask(6, 3))
    symmetry = Symmetry(space)
    everything = search(Space(FlatTask(6, 3)), Limits()).states
    one_of_each = search(space, Limits(), symmetry=symmetry)
    assert alike({1, 2, 3}, None) == 1.0
    assert saving(range(10), 5, None) == 2.0
    assert saving(range(10), 10, None) == 10.0
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
