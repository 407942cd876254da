"""Reductions lose nothing: the same verdicts, and the same states in which runs end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive import verify
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.reduced_search import search_reduced
from fuzzvm.exhaustive.savings import savings
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.symmetry import AsymmetryError, Symmetry
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_lock, mmap_read_unlock
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations import registry
from fuzzvm.scenario import scale, shipped
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.exhaustive.reduction import reduce_at_once

LARGE = {(scheme, "two-promoters") for scheme in ("config-off", "deferred-free", "rcu-free", "vmap-trylock")}
"""Cells of hundreds of thousands of states, that take longer than all the others; `fuzzvm verify` has them."""
CELLS = [
    (mitigation, scenario)
    for mitigation in registry.shipped()
    for scenario in shipped.shipped()
    if (mitigation, scenario) not in LARGE
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


@pytest.mark.product
@pytest.mark.parametrize(("mitigation", "scenario"), CELLS)
def test_partial_order_reduction_keeps_verdicts_and_ends(mitigation: str, scenario: str) -> None:
    both(System(shipped.get(scenario), registry.get(mitigation), "sc"))


TLB_CELLS = [(scenario, point) for scenario in ("two-walkers", "vmalloc-cycle", "x86-pud-promotion", "tlb-promotion")
             for point in ("flush-tlbi", "flush-dsb-ish", "flush-isb", "flush-ipi", "purge-flush-tlbi")]  # fmt: skip


@pytest.mark.product
@pytest.mark.parametrize(("scenario", "point"), TLB_CELLS)
def test_partial_order_reduction_knows_what_tlbs_depend_on(scenario: str, point: str) -> None:
    watched = replace(shipped.get(scenario), tlb=True)
    both(System(watched, registry.get("static-key"), "sc"))
    both(System(watched, registry.get("static-key"), "sc", without=(point,)))


@pytest.mark.parametrize("without", [(), ("flush-dsb-ish",)])
def test_symmetry_where_tlbs_are_watched(without: tuple[str, ...]) -> None:
    # two CPUs that make the same calls, each of which flushes
    calls = (Vmap(0, 2, "pmd"), Vunmap(0, 2))
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2))
    scenario = Scenario("arm64", "4K", 3, 2, setup, (calls, calls), tlb=True)
    system = System(scenario, registry.get("static-key"), "sc", without=without)
    space = Space(system)
    symmetry = Symmetry(space)
    assert symmetry.images
    full = search(space, Limits(), first_only=False)
    alike = search(space, Limits(), first_only=False, symmetry=symmetry)
    assert set(alike.findings) == set(full.findings)
    assert alike.ends == frozenset(map(symmetry.canonical, full.ends))
    assert alike.states < full.states


@pytest.mark.product
@pytest.mark.parametrize("mitigation", [name for name in registry.shipped() if name != "config-off"])
@pytest.mark.parametrize("walkers", [2, 3])
def test_symmetry_keeps_findings_and_ends(mitigation: str, walkers: int) -> None:
    system = System(scale.walkers(walkers), registry.get(mitigation), "sc")
    space = Space(system)
    symmetry = Symmetry(space)
    limits = Limits(max_states=100_000)
    full = search(space, limits, first_only=False)
    if not full.complete:
        return
    ends = frozenset(map(symmetry.canonical, full.ends))
    alike = search(space, limits, first_only=False, symmetry=symmetry)
    assert (set(alike.findings), alike.ends) == (set(full.findings), ends)
    assert alike.states < full.states
    both_at_once = search_reduced(space, limits, first_only=False, symmetry=symmetry)
    assert bool(both_at_once.findings) == bool(full.findings)
    assert both_at_once.ends == ends
    assert both_at_once.states < alike.states


def test_symmetry_visits_one_of_each_class_of_states() -> None:
    space = Space(System(scale.walkers(2), registry.get("static-key"), "sc"))
    symmetry = Symmetry(space)
    alike = search(space, Limits(), symmetry=symmetry)
    seen = set()
    todo = [space.start]
    while todo:
        state = todo.pop()
        assert isinstance(state, int)
        if state not in seen:
            seen.add(state)
            todo += [state + way.delta for _, way in space.steps(state)]
    assert len({symmetry.canonical(state) for state in seen}) == alike.states


class FirstWalkerSkipsLock(Mitigation):
    """Treats CPU 1 and CPU 2 differently, though they run the same calls."""

    name = "first-walker-skips-lock"

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        if k.cpu != 1:
            yield from mmap_read_lock(k, k.init_mm)
            yield from mmap_read_unlock(k, k.init_mm)


def test_cpus_that_a_mitigation_tells_apart_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    reduce_at_once(monkeypatch)
    system = System(scale.walkers(2), FirstWalkerSkipsLock, "sc")
    space = Space(system)
    with pytest.raises(AsymmetryError):
        search(space, Limits(), first_only=False, symmetry=Symmetry(space))
    assert verify(system).verdict == "bug"


class OwnWord(Mitigation):
    """Keeps a word of its own, which may hold anything."""

    name = "own-word"

    def attach(self, boot: Boot) -> None:
        boot.word("last walker")


def test_no_symmetry_where_a_word_may_hold_the_name_of_a_cpu() -> None:
    assert not Symmetry(Space(System(scale.walkers(2), OwnWord, "sc"))).images


def test_what_each_reduction_saves() -> None:
    saved = savings(System(scale.walkers(2), registry.get("static-key"), "sc"), Limits())
    assert saved.all_variables >= saved.live_variables > saved.symmetry > saved.both
    assert saved.live_variables > saved.partial_order > saved.both


def calls() -> st.SearchStrategy[tuple[object, ...]]:
    page = st.sampled_from([0, 2])
    vmap = st.builds(
        Vmap, page, st.sampled_from([1, 2]), st.sampled_from(["pte", "pmd"]), st.sampled_from(["rw", "rwx"])
    )
    vunmap = st.builds(Vunmap, page, st.just(2))
    walk = st.sampled_from([CatKernelPageTables(), CheckWxPages()])
    return st.lists(st.one_of(vmap, vunmap, walk), min_size=1, max_size=2).map(tuple)


@pytest.mark.always
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(registry.shipped())),
    st.sampled_from(["arm64", "x86_64"]),
    st.lists(calls(), min_size=2, max_size=3),
    st.booleans(),
)
def test_partial_order_reduction_on_any_scenario(
    mitigation: str, arch: str, cpus: list[tuple[object, ...]], tlb: bool
) -> None:
    # whoever maps what is mapped already fails: errors of every kind are wanted here
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2), Vmap(2, 1, "pte"))
    scenario = Scenario(arch, "4K", 4, 2, setup, tuple(cpus), tlb=tlb)  # type: ignore[arg-type]
    system = System(scenario, registry.get(mitigation), "sc")
    if search(Space(system), Limits(max_states=20_000), first_only=False).complete:
        both(system)
