"""What scenarios are for, and what is missing where it does not happen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from fuzzvm.kernel.cover_points import (
    BRANCH_NOT_TAKEN,
    BRANCH_TAKEN,
    COLLAPSE,
    CONTIGUOUS_BLOCK,
    PROMOTION,
    SPLIT,
    TABLE_FREED,
    WALK,
    WALKED_TABLE_FREED,
    WX_NOTED,
)
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry
from fuzzvm.runs.plans.generate import scenarios
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Call, Vmap, parse_call
from fuzzvm.scenario.purpose import missing, possible, purpose
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

RACE = {PROMOTION, TABLE_FREED, WALK, WALKED_TABLE_FREED}
OTHERS = {
    "check-wx": RACE | {WX_NOTED},
    "contpte": RACE | {CONTIGUOUS_BLOCK},
    "lazy-mmu": RACE | {CONTIGUOUS_BLOCK},
    "16k-promotion": RACE | {CONTIGUOUS_BLOCK},
    "64k-promotion": RACE | {CONTIGUOUS_BLOCK},
    "tlb-contpte": {CONTIGUOUS_BLOCK},
    "tlb-promotion": {PROMOTION, TABLE_FREED},
    "tlb-vmalloc-cycle": {PROMOTION, TABLE_FREED},
    "x86-cpa-and-vmap": RACE | {COLLAPSE},
    "x86-cpa-collapse": {COLLAPSE, TABLE_FREED, WALK, WALKED_TABLE_FREED},
    "x86-cpa-pud-collapse": {COLLAPSE, TABLE_FREED, WALK, WALKED_TABLE_FREED},
    "x86-cpa-split": {SPLIT, WALK},
}


@pytest.mark.parametrize("name", shipped.shipped())
def test_what_ships_is_for_what_it_says(name: str) -> None:
    assert purpose(shipped.get(name)) == OTHERS.get(name, RACE)


def test_names_change_nothing() -> None:
    scenario = shipped.get("pmd-promotion")
    assert purpose(scenario) == purpose(scenario.anonymous())


def small(*cpus: list[str], setup: tuple[str, ...] = ()) -> Scenario:
    return Scenario("arm64", "4K", 3, 4, tuple(map(parse_call, setup)), tuple(tuple(map(parse_call, c)) for c in cpus))


def test_a_promotion_that_was_meant_and_has_no_table_to_free() -> None:
    """No scheme is to blame: the scenario says nothing about any."""
    meant = small(["vmap(page=0, nr_pages=4, max_page_shift='pmd')"], ["cat_kernel_page_tables()"])
    assert purpose(meant) == {PROMOTION, WALK}
    system = System(meant, registry.get("none"), "sc")
    assert missing(system, frozenset({WALK})) == (PROMOTION,)
    assert purpose(small(["vmap(page=0, nr_pages=4, max_page_shift='pte')"], ["cat_kernel_page_tables()"])) == {WALK}


@pytest.mark.parametrize(
    ("call", "promotes"),
    [
        ("vmap(page=0, nr_pages=4)", True),
        ("vmap(page=1, nr_pages=7)", True),
        ("vmap(page=1, nr_pages=6)", False),
        ("vmap(page=0, nr_pages=3)", False),
        ("vmap(page=0, nr_pages=4, max_page_shift='contpte')", False),
        ("vmap(page=0, nr_pages=4, phys_page=8)", True),
        ("vmap(page=0, nr_pages=4, phys_page=1)", False),
        ("vmap(page=1, nr_pages=7, phys_page=5)", True),
        ("vmalloc(area='a', nr_pages=4)", False),
        ("vmalloc_huge(area='a', nr_pages=4)", True),
        ("vmalloc_huge(area='a', nr_pages=3)", False),
        ("vunmap(page=0, nr_pages=4)", False),
        ("cat_kernel_page_tables()", False),
    ],
)
def test_what_a_block_fits(call: str, promotes: bool) -> None:
    parsed: Call = parse_call(call)
    scenario = small([call], ["vmap(page=12, nr_pages=1)"])
    assert parsed.may_promote(scenario.geometry()) is promotes
    if not isinstance(parsed, Vmap):
        return
    # against the kernel: with a table in every place, does it free one?
    tables = ("vmap(page=0, nr_pages=12, max_page_shift='pte')", "vunmap(page=0, nr_pages=12)")
    assert (PROMOTION in purpose(small([call], setup=tables))) is promotes


@settings(max_examples=25, deadline=None)
@given(scenarios())
def test_nothing_happens_that_the_calls_do_not_allow(scenario: Scenario) -> None:
    """Or it would never be asked for: only what is possible and not met leads to the schedules without a scheme."""
    assert purpose(scenario) <= possible(System(scenario, registry.get("none"), "sc"))


@pytest.mark.parametrize("name", shipped.shipped())
def test_what_scenarios_that_ship_are_for_is_possible(name: str) -> None:
    scenario = shipped.get(name)
    assert purpose(scenario) <= possible(System(scenario, registry.get("none"), "sc"))


def test_a_static_key_is_for_both_ways_of_its_branch_where_a_walk_and_a_promotion_meet() -> None:
    met = frozenset(RACE)
    system = System(shipped.get("pmd-promotion"), registry.get("static-key"), "sc")
    assert missing(system, met) == (BRANCH_TAKEN, BRANCH_NOT_TAKEN)
    assert missing(System(shipped.get("pmd-promotion"), registry.get("none"), "sc"), met) == ()
    # no walk turns it on
    tlb = System(shipped.get("tlb-promotion"), registry.get("static-key"), "sc")
    assert missing(tlb, frozenset({PROMOTION, TABLE_FREED})) == ()
    # what it is without a point, nobody claims
    without = System(shipped.get("pmd-promotion"), registry.get("static-key"), "sc", without=("walk-key",))
    assert missing(without, met) == ()


def test_what_a_scheme_gives_up_is_not_missing() -> None:
    class GivesUp(Mitigation):
        name = "gives-up"
        gives_up = frozenset({PROMOTION, TABLE_FREED})

    system = System(shipped.get("pmd-promotion"), GivesUp, "sc")
    assert missing(system, frozenset()) == (WALK, WALKED_TABLE_FREED)
    off = System(shipped.get("pmd-promotion"), registry.get("config-off+vmap-trylock"), "sc")
    assert missing(off, frozenset({WALK})) == ()


def test_a_point_that_the_kernel_has_not_without_it_is_not_asked_for() -> None:
    """`free-clear` leaves the clear out, and with it what a promotion is known by."""
    scenario = shipped.get("pmd-promotion")
    assert PROMOTION not in missing(System(scenario, registry.get("none"), "sc", without=("free-clear",)), frozenset())
