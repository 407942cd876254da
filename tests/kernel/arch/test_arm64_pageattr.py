"""arm64's changes of protection since 6.18: what they leave, and that two of them do not lose each other's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel.arch.arm64 import pageattr
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PROT_EXEC,
    PROT_WRITE,
    PTE_CONT,
    Geometry,
    Level,
    pxd_cont,
    pxd_pfn,
    pxd_pgprot,
)
from fuzzvm.kernel.vmap import ENOMEM, vmap_range
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Free, Steps, Store, Tlbi
from fuzzvm.mitigations import registry
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell
from tests.support import boot, geometry_of, operations, run

NEWEST = registry.get("linux-7.3").on("arm64")
PAGE = 4096


def booted(shift: int, *, geometry: Geometry | None = None, tracing: bool = False) -> tuple[Machine, Kernel]:
    """Return a kernel with all of its pages mapped by entries of that shift."""
    machine, kernel = boot("arm64", 4, 2, NEWEST, cpus=1, geometry=geometry, tracing=tracing)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, kernel.geometry.end, 0, PAGE_KERNEL, shift))
    return machine, kernel


def change(k: Kernel, name: str, first: int, count: int) -> Steps[int]:
    call = k.arch.set_memory_ro if name == "ro" else k.arch.set_memory_rox
    return (yield from call(k, k.geometry.base + first * PAGE, count))


def pages_of(machine: Machine, kernel: Kernel) -> dict[int, tuple[int, int]]:
    """Return page frame and protection of every page, by its number."""
    found = {}
    for level, addr, entry in Oracles(machine, kernel).mappings():
        for page in range(kernel.geometry.size(level) // PAGE):
            found[(addr - kernel.geometry.base) // PAGE + page] = (pxd_pfn(entry) + page, pxd_pgprot(entry) & ~PTE_CONT)
    return found


changes = st.lists(
    st.tuples(st.sampled_from(["ro", "rox"]), st.integers(0, 15), st.integers(1, 16)).filter(
        lambda c: c[1] + c[2] <= 16
    ),
    max_size=5,
)


@settings(max_examples=60)
@given(st.sampled_from([12, 13, 14]), changes)
def test_pages_keep_their_memory_and_get_the_protection(shift: int, asked: list[tuple[str, int, int]]) -> None:
    machine, kernel = booted(shift)
    expected = {page: (page, PAGE_KERNEL) for page in range(16)}
    for name, first, count in asked:
        assert machine.boot(change(kernel, name, first, count)) == 0
        for page in range(first, first + count):
            prot = expected[page][1] & ~PROT_WRITE
            expected[page] = (page, prot | PROT_EXEC if name == "rox" else prot)
        assert pages_of(machine, kernel) == expected
    Oracles(machine, kernel).finished()


@pytest.mark.parametrize(
    ("first", "count", "levels"),
    [
        (0, 4, [Level.PUD] * 4),
        (0, 2, [Level.PMD] * 2 + [Level.PUD] * 3),
        (1, 1, [Level.PTE] * 2 + [Level.PMD] + [Level.PUD] * 3),
        (1, 4, [Level.PTE] * 2 + [Level.PMD] + [Level.PTE] * 2 + [Level.PMD] + [Level.PUD] * 2),
    ],
)
def test_a_block_is_split_no_further_than_the_range_asks_for(first: int, count: int, levels: list[Level]) -> None:
    machine, kernel = booted(14)
    machine.boot(change(kernel, "ro", first, count))
    assert [mapping.level for mapping in Oracles(machine, kernel).mappings()] == levels


def test_a_split_flushes_nothing_and_frees_nothing() -> None:
    machine, kernel = booted(13, tracing=True)
    base = kernel.geometry.base
    assert run(machine, pageattr.split_kernel_leaf_mapping(kernel, base + PAGE, base + 2 * PAGE)) is None
    done = operations(machine)
    assert not any(isinstance(op, Tlbi | Free) for op in done)


def test_contiguous_entries_are_taken_apart_as_a_block() -> None:
    """A new table is contiguous, but for the block that an end of the range lies in."""
    geometry = geometry_of("arm64", 4, 8, cont_ptes=4)
    machine, kernel = booted(15, geometry=geometry)
    machine.boot(change(kernel, "ro", 1, 1))
    mappings = list(Oracles(machine, kernel).mappings())
    assert [pxd_cont(one.entry) for one in mappings[:8]] == [False] * 4 + [True] * 4
    assert [one.level for one in mappings[:9]] == [Level.PTE] * 8 + [Level.PMD]
    machine.boot(change(kernel, "ro", 4, 4))
    assert [pxd_cont(one.entry) for one in list(Oracles(machine, kernel).mappings())[:8]] == [False] * 4 + [True] * 4


def test_a_part_of_a_block_that_nobody_has_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(k: Kernel, start: int, end: int) -> Steps[None]:
        yield from ()

    monkeypatch.setattr(pageattr, "split_kernel_leaf_mapping", nothing)
    machine, kernel = booted(13)
    assert machine.boot(change(kernel, "ro", 0, 1)) == -22


def two(calls: list[str], **more: object) -> Scenario:
    data = {
        "name": "two-changes",
        "arch": "arm64",
        "page_size": "4K",
        "levels": 4,
        "fanout": 2,
        "setup": ["vmap(page=0, nr_pages=4, max_page_shift='pud')"],
        "cpus": [[call] for call in calls],
        **more,
    }
    return Scenario.from_data(data)


def error(scenario: Scenario, memory: str, scheme: type[Mitigation] | None = None) -> str:
    run = verify_cell(Cell("linux-7.3", scenario, memory), Bounds(Limits()), scheme)
    assert run.verdict.complete
    return run.verdict.failure.error if run.verdict.failure else run.verdict.verdict


SIDE_BY_SIDE = ["set_memory_ro(page=0, nr_pages=1)", "set_memory_ro(page=1, nr_pages=1)"]


@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.parametrize("rereads", [False, True])
def test_two_changes_in_one_block_are_safe(memory: str, rereads: bool) -> None:
    assert error(two(SIDE_BY_SIDE, walk_rereads=rereads), memory) == "safe"


def test_without_the_mutex_a_split_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the block's entry again before it puts a table in its place."""

    def nothing(cpu: int, lock: object) -> Steps[None]:
        yield from ()

    monkeypatch.setattr(pageattr, "mutex_lock", nothing)
    monkeypatch.setattr(pageattr, "mutex_unlock", nothing)
    assert error(two(SIDE_BY_SIDE), "sc") == "leaked-table"


def test_what_tlbs_hold_while_a_live_mapping_is_split_is_not_followed() -> None:
    with pytest.raises(ScenarioError, match="two-changes: what TLBs hold while live mappings are split"):
        System(two(SIDE_BY_SIDE, tlb=True), registry.get("linux-7.3"), "sc")


def in_softirq(page: int) -> Scenario:
    return two(["set_memory_ro(page=1, nr_pages=1)"], softirqs=[[f"kfence_protect_page(page={page})"]])


def test_kfence_changes_its_pages_in_softirqs() -> None:
    """The pool is mapped by pages: nothing is split, and in 6.18 the mutex is not taken either."""
    scenario = Scenario.from_data(
        in_softirq(0).to_data() | {"setup": ["vmap(page=0, nr_pages=2, max_page_shift='pte')"]}
    )
    assert error(scenario, "sc") == "safe"
    run = verify_cell(Cell("split-in-softirq", scenario, "sc"), Bounds(Limits()))
    assert run.verdict.failure is not None
    assert run.verdict.failure.error == "sleep-in-atomic"


def test_kfence_of_x86_is_not_modelled() -> None:
    with pytest.raises(ScenarioError, match="x86_64 has no kfence_protect_page"):
        Scenario.from_data(in_softirq(0).to_data() | {"arch": "x86_64"})


def test_a_split_that_has_no_memory_changes_nothing_and_lets_go_of_its_mutex() -> None:
    assert error(two(SIDE_BY_SIDE[:1], allocations_fail=True), "sc") == "safe"


@pytest.mark.parametrize(("page", "expected"), [(0, -ENOMEM), (2, 0)])
def test_a_split_that_finds_no_memory_changes_nothing(page: int, expected: int) -> None:
    data = {
        "arch": "arm64",
        "page_size": "4K",
        "levels": 4,
        "fanout": 2,
        "allocations_fail": True,
        "setup": [
            "vmap(page=0, nr_pages=2, max_page_shift='pmd')",
            "vmap(page=2, nr_pages=2, max_page_shift='pte')",
        ],
        "cpus": [[]],
    }
    system = System(Scenario.from_data(data), registry.get("linux-7.3"), "sc")
    machine, k = system.booted(), system.kernel
    assert k.memory is not None
    machine.boot(_store(k.memory.word))
    before = list(Oracles(machine, k).mappings())
    addr = k.geometry.base + (page << k.geometry.page_shift)
    assert machine.boot(k.arch.set_memory_ro(k, addr, 1)) == expected
    assert (list(Oracles(machine, k).mappings()) == before) is bool(expected)


def _store(word: int) -> Steps[None]:
    yield Store(word, 1)
