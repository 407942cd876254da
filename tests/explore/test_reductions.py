"""Reductions lose nothing: the same verdicts, and the same states in which runs end."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.explore.exhaustive.limits import Limits
from fuzzvm.explore.exhaustive.reduced import search_reduced
from fuzzvm.explore.exhaustive.search import search
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

CELLS = [
    (mitigation, scenario)
    for mitigation in registry.shipped()
    for scenario in shipped.shipped()
    if (mitigation, scenario) != ("config-off", "two-promoters")
]


def both(system: System) -> None:
    """Search with and without partial-order reduction, on one space, so that states have the same numbers."""
    space = Space(system)
    full = search(space, Limits(), first_only=False)
    reduced = search_reduced(space, Limits(), first_only=False)
    assert reduced.complete
    assert bool(reduced.findings) == bool(full.findings)
    assert set(reduced.findings) <= set(full.findings)
    assert reduced.ends == full.ends
    assert reduced.states <= full.states
    first = search_reduced(Space(system), Limits())
    assert bool(first.findings) == bool(full.findings)


@pytest.mark.parametrize(("mitigation", "scenario"), CELLS)
def test_partial_order_reduction_keeps_verdicts_and_ends(mitigation: str, scenario: str) -> None:
    both(System(shipped.get(scenario), registry.get(mitigation), "sc"))


def calls() -> st.SearchStrategy[tuple[object, ...]]:
    page = st.sampled_from([0, 2])
    vmap = st.builds(
        Vmap, page, st.sampled_from([1, 2]), st.sampled_from(["pte", "pmd"]), st.sampled_from(["rw", "rwx"])
    )
    vunmap = st.builds(Vunmap, page, st.just(2))
    walk = st.sampled_from([CatKernelPageTables(), CheckWxPages()])
    return st.lists(st.one_of(vmap, vunmap, walk), min_size=1, max_size=2).map(tuple)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(registry.shipped())),
    st.sampled_from(["arm64", "x86_64"]),
    st.lists(calls(), min_size=2, max_size=3),
)
def test_partial_order_reduction_on_any_scenario(mitigation: str, arch: str, cpus: list[tuple[object, ...]]) -> None:
    # whoever maps what is mapped already fails: errors of every kind are wanted here
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2), Vmap(2, 1, "pte"))
    scenario = Scenario(arch, "4K", 4, 2, setup, tuple(cpus))  # type: ignore[arg-type]
    system = System(scenario, registry.get(mitigation), "sc")
    if search(Space(system), Limits(max_states=20_000), first_only=False).complete:
        both(system)
