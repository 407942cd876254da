"""set_memory_ro and set_memory_rox: what they leave in the page tables, compared with a flat model of the pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_KERNEL_RO,
    PAGE_KERNEL_ROX,
    PROT_EXEC,
    PROT_WRITE,
    Level,
    TableLabel,
    pxd_pfn,
    pxd_pgprot,
)
from fuzzvm.kernel.set_memory import EFAULT, EINVAL
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Free, InterruptAll, Steps, Store, Tlbi
from tests.support import Seeded, boot, executions, operations, run

PAGE = 4096
Change = tuple[str, int, int]


def pages_of(machine: Machine, kernel: Kernel) -> dict[int, tuple[int, int]]:
    """Return page frame and protection of every page that is mapped, by the page's number."""
    found = {}
    for level, addr, entry in Oracles(machine, kernel).mappings():
        for page in range(kernel.geometry.size(level) // PAGE):
            found[(addr - kernel.geometry.base) // PAGE + page] = (pxd_pfn(entry) + page, pxd_pgprot(entry))
    return found


def map_pages(k: Kernel, first: int, count: int, prot: int, shift: int) -> Steps[None]:
    base = k.geometry.base
    yield from vmap_range(k, base + first * PAGE, base + (first + count) * PAGE, first * PAGE, prot, shift)


def change(k: Kernel, name: str, first: int, count: int) -> Steps[int]:
    call = k.arch.set_memory_ro if name == "ro" else k.arch.set_memory_rox
    return (yield from call(k, k.geometry.base + first * PAGE, count))


def levels(machine: Machine, kernel: Kernel) -> list[Level]:
    return [mapping.level for mapping in Oracles(machine, kernel).mappings()]


changes = st.lists(
    st.tuples(st.sampled_from(["ro", "rox"]), st.integers(0, 7), st.integers(1, 8)).filter(lambda c: c[1] + c[2] <= 8),
    max_size=6,
)


@settings(max_examples=80)
@given(st.sampled_from([4, 5]), st.sampled_from([12, 13, 14]), changes)
def test_cpa_changes_the_protection_and_nothing_else(depth: int, shift: int, asked: list[Change]) -> None:
    """Each page keeps its memory and gets the protection asked for, whatever is split and collapsed on the way."""
    machine, kernel = boot("x86_64", depth, 2, cpus=1)
    machine.boot(map_pages(kernel, 0, 8, PAGE_KERNEL, shift))
    expected = {page: (page, PAGE_KERNEL) for page in range(8)}
    for name, first, count in asked:
        assert machine.boot(change(kernel, name, first, count)) == 0
        for page in range(first, first + count):
            prot = expected[page][1] & ~PROT_WRITE
            expected[page] = (page, prot | PROT_EXEC if name == "rox" else prot)
        assert pages_of(machine, kernel) == expected
    Oracles(machine, kernel).finished()


@settings(max_examples=40)
@given(changes)
def test_arm64_changes_the_same_pages(asked: list[Change]) -> None:
    machine, kernel = boot("arm64", 4, 2, cpus=1)
    machine.boot(map_pages(kernel, 0, 8, PAGE_KERNEL, 12))
    expected = {page: (page, PAGE_KERNEL) for page in range(8)}
    for name, first, count in asked:
        assert machine.boot(change(kernel, name, first, count)) == 0
        for page in range(first, first + count):
            prot = expected[page][1] & ~PROT_WRITE
            expected[page] = (page, prot | PROT_EXEC if name == "rox" else prot)
        assert pages_of(machine, kernel) == expected
    assert set(levels(machine, kernel)) == {Level.PTE}


@pytest.mark.parametrize(
    ("pages", "left"),
    [
        ([(0, 1)], [Level.PTE] * 4),
        ([(0, 2)], [Level.PMD, Level.PTE, Level.PTE]),
        ([(0, 1), (1, 1)], [Level.PMD, Level.PTE, Level.PTE]),
        ([(1, 2)], [Level.PTE] * 4),
        ([(1, 3)], [Level.PTE, Level.PTE, Level.PMD]),
        ([(0, 4)], [Level.PUD]),
        ([(0, 2), (2, 2)], [Level.PUD]),
        ([(0, 3), (3, 1)], [Level.PUD]),
    ],
)
def test_pages_that_are_alike_become_one_block(pages: list[tuple[int, int]], left: list[Level]) -> None:
    machine, kernel = boot("x86_64", 4, 2, cpus=1)
    machine.boot(map_pages(kernel, 0, 4, PAGE_KERNEL, 12))
    for first, count in pages:
        machine.boot(change(kernel, "rox", first, count))
    assert levels(machine, kernel) == left


@pytest.mark.parametrize(("prot", "phys"), [(PAGE_KERNEL_RO, 1), (PAGE_KERNEL_EXEC, 2)])
def test_pages_that_are_not_next_to_each_other_stay(prot: int, phys: int) -> None:
    """Neither where the second does not follow the first, nor where the first is not aligned as a block must be."""
    machine, kernel = boot("x86_64", 4, 2, cpus=1)
    base = kernel.geometry.base
    first = 1 if phys == 2 else 0
    machine.boot(vmap_range(kernel, base, base + PAGE, first * PAGE, prot, 12))
    machine.boot(vmap_range(kernel, base + PAGE, base + 2 * PAGE, (phys + 1) * PAGE, prot, 12))
    machine.boot(change(kernel, "rox", 0, 2))
    assert levels(machine, kernel) == [Level.PTE, Level.PTE]


def test_only_rox_collapses() -> None:
    machine, kernel = boot("x86_64", 4, 2, cpus=1)
    machine.boot(map_pages(kernel, 0, 2, PAGE_KERNEL, 12))
    machine.boot(change(kernel, "ro", 0, 2))
    assert levels(machine, kernel) == [Level.PTE, Level.PTE]


def test_a_block_is_changed_as_a_whole_where_all_of_it_changes() -> None:
    machine, kernel = boot("x86_64", 4, 2, cpus=1, tracing=True)
    machine.boot(map_pages(kernel, 0, 4, PAGE_KERNEL, 13))
    allocated = len(machine.allocator.allocations)
    assert run(machine, change(kernel, "ro", 0, 4)) is None
    assert len(machine.allocator.allocations) == allocated
    assert levels(machine, kernel) == [Level.PMD, Level.PMD]


def test_a_pud_block_is_split_down_to_the_page() -> None:
    machine, kernel = boot("x86_64", 4, 2, cpus=1)
    machine.boot(map_pages(kernel, 0, 4, PAGE_KERNEL, 14))
    assert levels(machine, kernel) == [Level.PUD]
    machine.boot(change(kernel, "ro", 1, 1))
    assert levels(machine, kernel) == [Level.PTE, Level.PTE, Level.PMD]


def test_tables_are_freed_after_the_flush_the_upper_one_first() -> None:
    """cpa_collapse_large_pages(): block over block, flush_tlb_all, and then the list, last added first."""
    machine, kernel = boot("x86_64", 4, 2, cpus=1, tracing=True)
    machine.boot(map_pages(kernel, 0, 4, PAGE_KERNEL, 13))
    machine.boot(change(kernel, "rox", 0, 1))
    assert run(machine, change(kernel, "rox", 1, 3)) is None
    tail = operations(machine)[-6:]
    stores = [op for op in operations(machine) if isinstance(op, Store)]
    freed = [machine.allocator.lookup(op.address) for op in tail if isinstance(op, Free)]
    assert [type(op) for op in tail[-4:]] == [Tlbi, InterruptAll, Free, Free]
    assert [one.label.level for one in freed if one and isinstance(one.label, TableLabel)] == [Level.PMD, Level.PTE]
    assert stores[-1].address == kernel.init_mm.pgd or len(stores) == 4
    assert levels(machine, kernel) == [Level.PUD]


@pytest.mark.parametrize(("arch", "error"), [("x86_64", -EFAULT), ("arm64", -EINVAL)])
def test_pages_that_are_not_mapped(arch: str, error: int) -> None:
    """What lies before the hole has changed: nobody takes it back."""
    machine, kernel = boot(arch, 4, 2, cpus=1)
    machine.boot(map_pages(kernel, 0, 1, PAGE_KERNEL, 12))
    assert machine.boot(change(kernel, "ro", 0, 2)) == error
    assert pages_of(machine, kernel) == {0: (0, PAGE_KERNEL_RO)}
    assert machine.boot(change(kernel, "rox", 4, 1)) == error


def test_arm64_leaves_blocks_alone() -> None:
    machine, kernel = boot("arm64", 4, 2, cpus=1)
    machine.boot(map_pages(kernel, 0, 2, PAGE_KERNEL, 13))
    assert machine.boot(change(kernel, "rox", 0, 2)) == -EINVAL
    assert levels(machine, kernel) == [Level.PMD]


def test_two_that_split_the_same_block() -> None:
    """Of two tables one is used and one is freed, in every schedule of two pre-emptions."""

    def start() -> Machine:
        machine, kernel = boot("x86_64", 4, 2, cpus=2)
        machine.boot(map_pages(kernel, 0, 2, PAGE_KERNEL, 13))
        machine.start([change(kernel.on(0), "ro", 0, 1), change(kernel.on(1), "ro", 1, 1)])
        return machine

    assert {execution.failure for execution in executions(start, 2)} == {None}


@pytest.mark.parametrize("seed", range(20))
def test_protections_are_right_at_the_end(seed: int) -> None:
    machine, kernel = boot("x86_64", 4, 2, cpus=2)
    machine.boot(map_pages(kernel, 0, 2, PAGE_KERNEL, 13))
    machine.start([change(kernel.on(0), "rox", 0, 1), change(kernel.on(1), "rox", 1, 1)])
    assert execute(machine, Seeded(seed)).failure is None
    assert pages_of(machine, kernel) == {0: (0, PAGE_KERNEL_ROX), 1: (1, PAGE_KERNEL_ROX)}
