"""fuzzvm.kernel.cover_points: each point is met by what it says, and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fuzzvm.kernel.cover_points import (
    BRANCH_NOT_TAKEN,
    BRANCH_TAKEN,
    COLLAPSE,
    CONTIGUOUS_BLOCK,
    POINTS,
    PROMOTION,
    SPLIT,
    TABLE_FREED,
    WALK,
    WALKED_TABLE_FREED,
    WX_NOTED,
    CoverPoints,
    watch,
)
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Fetch
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import parse_call
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.support import Follow, agents_until, burst

TABLES = ["vmap(page=0, nr_pages=4, max_page_shift='pte')", "vunmap(page=0, nr_pages=4)"]
PROMOTES = "vmap(page=0, nr_pages=4, max_page_shift='pmd')"
DUMP = "cat_kernel_page_tables()"


def met(
    setup: Sequence[str], *cpus: Sequence[str], arch: str = "arm64", mitigation: str = "none", cont_ptes: int = 0
) -> frozenset[str]:
    """Return the points that a run of one CPU after the other meets."""
    scenario = Scenario(
        arch,
        "4K",
        3 if arch == "arm64" else 4,
        4,
        tuple(map(parse_call, setup)),
        tuple(tuple(map(parse_call, calls)) for calls in cpus),
        cont_ptes=cont_ptes,
    )
    return met_by(System(scenario, registry.get(mitigation), "sc"), [])


def met_by(system: System, agents: Sequence[int]) -> frozenset[str]:
    machine: Machine = system.machine(tracing=True)
    points = CoverPoints(system.kernel.arch, machine.allocator)
    assert execute(watch(machine, points), Follow(agents)).failure is None
    # in any order: a search gives them in that of automata
    traced = system.machine(tracing=True)
    execute(traced, Follow(agents))
    backwards = CoverPoints(system.kernel.arch, system.booted().allocator)
    for step in reversed(traced.trace or ()):
        backwards.append(step)
    assert backwards.met == points.met
    return points.met


def test_a_promotion_frees_the_table_of_its_place() -> None:
    assert met(TABLES, [PROMOTES]) == {PROMOTION, TABLE_FREED}
    # the walk comes after the free, and does not see that table
    assert met(TABLES, [PROMOTES], [DUMP]) == {PROMOTION, TABLE_FREED, WALK}
    assert met(TABLES, [DUMP], [PROMOTES]) == {PROMOTION, TABLE_FREED, WALK, WALKED_TABLE_FREED}


def test_a_block_in_an_empty_place_promotes_nothing() -> None:
    assert met([], [PROMOTES]) == frozenset()
    assert met([], [PROMOTES, "vunmap(page=0, nr_pages=4)"], [DUMP]) == {WALK}


def test_pages_promote_nothing() -> None:
    assert met(TABLES, ["vmap(page=0, nr_pages=4, max_page_shift='pte')"], [DUMP]) == {WALK}


def test_a_walk_of_the_root_alone_reads_through_nothing() -> None:
    assert met([], [DUMP]) == frozenset()


def test_tables_that_were_never_linked_do_not_count_as_freed() -> None:
    """Of two CPUs that need a table, the second one frees the one that it has allocated."""
    scenario = Scenario(
        "arm64", "4K", 3, 4, (), tuple((parse_call(f"vmap(page={page}, nr_pages=1)"),) for page in (0, 1))
    )
    system = System(scenario, registry.get("none"), "sc")
    both_allocate = [0, 0, 1, 1]
    assert met_by(system, both_allocate) == frozenset()
    machine = system.machine()
    execute(machine, Follow(both_allocate))
    assert machine.allocator.dead, "a table was freed"


def test_contiguous_blocks() -> None:
    contiguous = ["vmap(page=0, nr_pages=2, max_page_shift='contpte')"]
    assert met([], contiguous, cont_ptes=2) == {CONTIGUOUS_BLOCK}
    assert met([], contiguous, cont_ptes=1) == frozenset()


def test_what_cpa_does() -> None:
    pages, block = "vmap(page=0, nr_pages=4, max_page_shift='pte')", "vmap(page=0, nr_pages=4, max_page_shift='pmd')"
    collapse, part = "set_memory_rox(page=0, nr_pages=4)", "set_memory_ro(page=1, nr_pages=1)"
    assert met([pages], [collapse], arch="x86_64") == {COLLAPSE, TABLE_FREED}
    assert met([pages], [collapse]) == frozenset()
    assert met([block], [part], arch="x86_64") == {SPLIT}
    assert met([block], ["set_memory_ro(page=0, nr_pages=4)"], arch="x86_64") == frozenset()


def test_wx_mappings_that_a_walk_notes() -> None:
    assert met(["vmap(page=0, nr_pages=1, prot='rwx')"], ["check_wx_pages()"]) == {WALK, WX_NOTED}
    assert met(["vmap(page=0, nr_pages=1, prot='rox')"], ["check_wx_pages()"]) == {WALK}


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
def test_the_branch_of_a_static_key(arch: str) -> None:
    assert met(TABLES, [PROMOTES], arch=arch, mitigation="static-key") == {PROMOTION, TABLE_FREED, BRANCH_NOT_TAKEN}
    system = System(
        shipped.get("pmd-promotion" if arch == "arm64" else "x86-pmd-promotion"), registry.get("static-key"), "sc"
    )
    (key,) = system.kernel.static_keys
    on = agents_until(system.machine, 1, lambda machine: machine.memory.peek(key.enabled) == 1)
    at_site = agents_until(system.machine, 0, lambda machine: isinstance(machine.pending(0), Fetch))
    assert BRANCH_TAKEN in met_by(system, burst((1, on), (0, at_site + 1), (1, 1)))
    assert BRANCH_TAKEN not in met_by(system, [])


def test_every_point_has_its_line() -> None:
    assert all(text and "\n" not in text for text in POINTS.values())
