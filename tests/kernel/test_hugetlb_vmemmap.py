"""Remapping of vmemmap: what it leaves, its locks, and two of them in one block."""

from __future__ import annotations

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel import hugetlb_vmemmap
from fuzzvm.kernel.errors import WALK_WITHOUT_LOCK
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import Mm, Role
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import PAGE_KERNEL, PAGE_KERNEL_RO, Level, pxd_pfn, pxd_pgprot
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.ops import Steps
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell
from tests.support import boot

PAGE = 4096


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
@pytest.mark.parametrize("shift", [12, 13])
def test_the_first_page_becomes_the_head_and_the_others_one_tail(arch: str, shift: int) -> None:
    machine, kernel = boot(arch, 4, 4, cpus=1)
    base = kernel.geometry.base
    shift = kernel.geometry.shifts[Level.PMD] if shift == 13 else 12
    machine.boot(vmap_range(kernel, base, base + 4 * PAGE, 0, PAGE_KERNEL, shift))
    machine.boot(hugetlb_vmemmap.hugetlb_vmemmap_optimize_folio(kernel, base, base + 3 * PAGE))
    head = kernel.geometry.end // PAGE
    found = [(one.level, pxd_pfn(one.entry), pxd_pgprot(one.entry)) for one in Oracles(machine, kernel).mappings()]
    assert found == [
        (Level.PTE, head, PAGE_KERNEL),
        (Level.PTE, head + 1, PAGE_KERNEL_RO),
        (Level.PTE, head + 1, PAGE_KERNEL_RO),
        (Level.PTE, 3, PAGE_KERNEL),
    ]
    Oracles(machine, kernel).finished()


def side_by_side(arch: str, *, rereads: bool = False) -> Scenario:
    """Return the remapping of two huge pages whose struct pages one block maps."""
    return Scenario.from_data(
        {
            "name": "two-remaps",
            "arch": arch,
            "page_size": "4K",
            "levels": 4,
            "fanout": 2,
            "setup": ["vmap(page=0, nr_pages=2, max_page_shift='pmd')"],
            "cpus": [[f"hugetlb_vmemmap_optimize_folio(page={page}, nr_pages=1)"] for page in (0, 1)],
            "walk_rereads": rereads,
        }
    )


def error(scenario: Scenario, memory: str = "sc") -> str:
    run = verify_cell(Cell("linux-7.3", scenario, memory), Bounds(Limits()))
    assert run.verdict.complete
    return run.verdict.failure.error if run.verdict.failure else run.verdict.verdict


@pytest.mark.parametrize(
    ("arch", "memory"), [pytest.param("arm64", "arm64", marks=pytest.mark.slow), ("arm64", "sc"), ("x86_64", "tso")]
)
def test_two_huge_pages_in_one_block_are_safe(arch: str, memory: str) -> None:
    assert error(side_by_side(arch), memory) == "safe"


def test_with_rereads_two_in_one_block_are_safe() -> None:
    assert error(side_by_side("x86_64", rereads=True)) == "safe"


def test_a_split_that_does_not_look_whether_somebody_was_first_loses_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugetlb_vmemmap, "pxd_leaf", lambda entry: True)
    assert error(side_by_side("x86_64")) == "leaked-table"


def test_the_walk_asserts_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(k: Kernel, mm: Mm, role: Role) -> Steps[None]:
        yield from ()

    monkeypatch.setattr(hugetlb_vmemmap, "mmap_read_lock", nothing)
    monkeypatch.setattr(hugetlb_vmemmap, "mmap_read_unlock", nothing)
    assert error(side_by_side("x86_64")) == WALK_WITHOUT_LOCK


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
def test_without_memory_for_a_table_the_locks_are_let_go_of(arch: str) -> None:
    data = side_by_side(arch).to_data()
    assert error(Scenario.from_data(data | {"cpus": data["cpus"][:1], "allocations_fail": True})) == "safe"


def while_memory_is_short(**more: object) -> Scenario:
    """Return the split of a block beside a dump; what may be a page of TTM's pool is in the other block."""
    data = {
        "arch": "x86_64",
        "page_size": "4K",
        "levels": 4,
        "fanout": 2,
        "setup": [
            "vmap(page=0, nr_pages=2, max_page_shift='pmd')",
            "vmap(page=2, nr_pages=2, max_page_shift='pte')",
        ],
        "cpus": [["hugetlb_vmemmap_optimize_folio(page=0, nr_pages=2)"], ["cat_kernel_page_tables()"]],
    }
    return Scenario.from_data(data | more)


SHRINKER = {"shrinkers": ["set_memory_ro(page=2, nr_pages=1)"]}


@pytest.mark.parametrize(
    ("release", "more", "expected"),
    [
        ("linux-7.3", SHRINKER, "deadlock"),
        # with nobody who waits to write it is the read lock taken twice
        ("linux-7.3", SHRINKER | {"cpus": [["hugetlb_vmemmap_optimize_folio(page=0, nr_pages=2)"]]}, "lock-order"),
        ("linux-6.18", SHRINKER, ""),
        ("linux-7.3", {"allocations_fail": True}, ""),
    ],
)
def test_reclaim_comes_back_to_the_lock_that_a_split_holds(
    release: str, more: dict[str, object], expected: str
) -> None:
    verdict = verify_cell(Cell(release, while_memory_is_short(**more), "sc"), Bounds(Limits())).verdict
    assert verdict.complete
    assert (verdict.failure.error if verdict.failure else "") == expected
