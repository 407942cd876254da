"""Writes to page tables of different regions commute with what looks at others, and reductions lose nothing by that."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive import verify
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.reduced_search import search_reduced
from fuzzvm.exhaustive.space import SHARED_BITS, SHARED_MASK, Space
from fuzzvm.exhaustive.stepped import SteppedShared
from fuzzvm.exhaustive.weak_footprint import Looks
from fuzzvm.kernel.page_table_property import PageTableProperty
from fuzzvm.kernel.pgtable import Level, TableLabel, mk_table
from fuzzvm.kernel.regions import Region, Regions
from fuzzvm.machine.ops import Address
from fuzzvm.mitigations import registry
from fuzzvm.scenario import scale, shipped
from fuzzvm.scenario.calls import Vmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.exhaustive.reduction import both
from tests.exhaustive.two_regions import RECIPES, Recipe, RegionSystem

MOST = 5000


def but_for_what_oracles_remember(space: Space, state: int) -> Hashable:
    """Return what memory holds and where CPUs are at the end of a run.

    Which mappings there have been is left out: it may differ by those that nobody asks about.
    """
    shared = space.shared
    cells = shared.memory(state & SHARED_MASK).state() if isinstance(shared, SteppedShared) else state & SHARED_MASK
    return cells, state >> SHARED_BITS


def regions_of(system: System) -> Regions:
    assert isinstance(system.property, PageTableProperty)
    return system.property.observed()


def compare(system: System) -> None:
    """Compare the search with reductions and without."""
    assert both(system, MOST, but_for_what_oracles_remember)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(RECIPES, min_size=1, max_size=3), min_size=2, max_size=3))
def test_small_programs(lists: list[list[Recipe]]) -> None:
    both(RegionSystem("sc", lists), MOST, but_for_what_oracles_remember)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["tso", "arm64"]), st.lists(st.lists(RECIPES, min_size=1, max_size=3), min_size=2, max_size=2))
def test_small_programs_under_weak_memory(memory: str, lists: list[list[Recipe]]) -> None:
    both(RegionSystem(memory, lists), MOST, but_for_what_oracles_remember)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 3), st.sampled_from(["sc", "arm64"]), st.lists(st.lists(RECIPES, max_size=3), min_size=2, max_size=2)
)
def test_small_programs_where_few_regions_are_told_apart(most: int, memory: str, lists: list[list[Recipe]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fuzzvm.kernel.regions.MOST", most)
        both(RegionSystem(memory, lists), MOST, but_for_what_oracles_remember)


ARCHES = [("arm64", 3), ("arm64", 4), ("x86_64", 4), ("x86_64", 5)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ARCHES), st.integers(1, 9), st.integers(0, 10_000), st.sampled_from([1, 2, 5, 256]))
def test_an_address_is_in_a_region_of_every_entry_that_maps_it(
    arch: tuple[str, int], bits: int, page: int, most: int
) -> None:
    """Whichever regions are told apart, what looks at an address conflicts with what writes to entries above it."""
    page %= (2**bits) ** 2
    scenario = Scenario(arch[0], "4K", arch[1], 2**bits, (Vmap(page, 1, "pte"),), ((), ()), name="one-page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fuzzvm.kernel.regions.MOST", most)
        system = System(scenario, registry.get("none"), "sc")
        regions = regions_of(system)
        geometry = system.kernel.geometry
        addr = geometry.base + (page << geometry.page_shift)
        region = regions.at(addr)
        tables = [one for one in system.booted().allocator.allocations if isinstance(one.label, TableLabel)]
        above = [one for one in tables if geometry.table_start(one.label.level, addr) == one.label.va]
        assert len(above) >= arch[1]
        for one in above:
            entry = one.address + geometry.index(one.label.level, addr)
            assert region in regions.of_entry(entry)
            assert set(regions.of_entry(entry)) <= set(regions.of_table(one.address)) <= set(regions.all)
        assert len(regions.all) <= most


@pytest.mark.product
@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_tables_of_hundreds_of_entries_can_be_searched(memory: str) -> None:
    """With a region for each of the 512 ** 3 tables that there is room for, this would not end."""
    verdict = verify(System(scale.pages(9), registry.get("static-key"), memory), Limits(max_seconds=120))
    assert (verdict.verdict, verdict.complete) == ("safe", True)


def test_a_write_to_one_region_waits_for_no_look_at_another() -> None:
    """A CPU that changes one region beside one that frees a table of the first."""
    frees: list[Recipe] = [("pmd", 0, 0), ("free", 0, 1)]
    together, apart = [
        search_reduced(Space(RegionSystem("sc", [frees, [("pmd", page, 2), ("pmd", page, 0)]])), Limits())
        for page in (0, 2)
    ]
    assert apart.states < together.states


REGIONS_MATTER: list[tuple[str, list[list[Recipe]]]] = [
    ("sc", [[("pmd", 1, 1)], [("free", 0, 1)]]),
    ("tso", [[("pte", 1, 1), ("walk", 0, 0)], [("pte", 2, 2)]]),
    ("arm64", [[("pte", 2, 2), ("pte", 2, 2), ("pmd", 1, 1)], [("walk", 0, 1), ("free", 0, 1)]]),
]


@pytest.mark.parametrize(("memory", "lists"), REGIONS_MATTER)
def test_it_is_noticed_if_a_region_is_taken_for_another(
    memory: str, lists: list[list[Recipe]], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(RegionSystem(memory, lists))
    right = Regions.of_entry

    def elsewhere(self: Regions, address: Address) -> list[Region]:
        return [(name, number + 100) for name, number in right(self, address)]

    monkeypatch.setattr(Regions, "of_entry", elsewhere)
    with pytest.raises(AssertionError):
        compare(RegionSystem(memory, lists))


LOOKS: list[tuple[str, str, list[list[Recipe]]]] = [
    # nothing puts the block in place before the table that it replaces is freed
    ("of_operation", "tso", [[("pmd", 3, 1), ("free", 3, 1)], [("walk", 1, 0)]]),
    # a walk notes a mapping that its own CPU has set and nobody else sees yet
    # what the second store puts in place at once, it puts there behind what was kept back before it
    ("of_operation", "tso", [[("walk", 1, 0)], [("pmd", 2, 1), ("pte", 1, 2), ("free", 2, 1)]]),
    ("of_notes", "tso", [[("pte", 1, 2), ("walk", 1, 2)], [("read", 2, 1)]]),
    ("of_notes", "arm64", [[("pte", 1, 2), ("walk", 1, 2)], [("read", 2, 1)]]),
]


@pytest.mark.parametrize(("look", "memory", "lists"), LOOKS)
def test_it_is_noticed_if_what_oracles_look_at_is_put_in_place_early(
    look: str, memory: str, lists: list[list[Recipe]], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = RegionSystem(memory, lists)
    compare(system)
    monkeypatch.setattr(Looks, look, lambda self, part: 0)
    with pytest.raises(AssertionError):
        compare(system)


def test_an_entry_that_is_only_stored_to_is_one_that_oracles_ask_for() -> None:
    """Where a walk begins, an older value that its CPU may still read makes a W+X mapping one that may be missed."""
    system = RegionSystem("arm64", [[("pte", 1, 1), ("walk", 0, 0)], [("pte", 2, 2)]])
    compare(system)
    for reduce in (True, False):
        assert verify(system, reduce=reduce).verdict == "safe"


def test_a_table_that_was_not_known_of_is_noticed() -> None:
    system = System(shipped.get("pmd-promotion"), registry.get("none"), "sc")
    regions = regions_of(system)
    table = next(
        one.address
        for one in system.booted().allocator.allocations
        if isinstance(one.label, TableLabel) and one.label.level == Level.PTE
    )
    (region,) = regions.of_table(table)
    assert region in regions.all
    assert set(regions.of_entry(system.kernel.init_mm.pgd)) <= set(regions.all)
    last = system.kernel.init_mm.pgd + system.kernel.geometry.ptrs[Level.PGD] - 1
    with pytest.raises(AssertionError, match="elsewhere"):
        regions.check(last, mk_table(table))
