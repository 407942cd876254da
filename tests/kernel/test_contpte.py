"""Contiguous blocks of PTEs in vmap: barriers, flushes, entries, and what each architecture answers (Linux 6.16)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.arch.arm64 import CONTIGUOUS, num_contig_ptes
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PTE_CONT,
    Geometry,
    Level,
    mk_leaf,
    pxd_cont,
    pxd_leaf,
    pxd_pfn,
    pxd_pgprot,
)
from fuzzvm.kernel.ptdump import ptdump_walk
from fuzzvm.kernel.vmalloc import vmalloc, vmalloc_huge
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Barrier, Fence, Load, Operation, Rmw, Store, Tlbi
from fuzzvm.mitigations.config_off import ConfigOff
from tests.kernel.reference import translate
from tests.support import boot, geometry_of, operations, run

ARM64 = architectures.get("arm64")
REAL = [("4K", 12, 4), ("16K", 14, 4), ("64K", 16, 3)]
PAIR = [Fence(Barrier.DSB_ISHST), Fence(Barrier.ISB)]


def real_geometry(page_shift: int, levels: int) -> Geometry:
    fanout = 1 << (page_shift - 3)
    return Geometry.make(page_shift, levels, fanout, ARM64.vmalloc_start, *ARM64.contiguous_entries(page_shift, fanout))


def small(cont_ptes: int = 4, fanout: int = 8) -> Geometry:
    return geometry_of("arm64", 3, fanout, cont_ptes=cont_ptes)


def pairs(ops: list[Operation]) -> int:
    """Return how often a DSB ISHST is followed by an ISB at once."""
    return sum(ops[at : at + 2] == PAIR for at in range(len(ops)))


def map_pages(kernel: Kernel, first: int, count: int, shift: int) -> list[Operation]:
    """Map pages on a machine of its own that has the tables; return the operations."""
    machine, view = boot(geometry=kernel.geometry, cpus=1, tracing=True, lazy_mmu=kernel.lazy_mmu)
    base, page = view.geometry.base, view.geometry.size(Level.PTE)
    machine.boot(vmap_range(view, base, base + page, 0, PAGE_KERNEL, view.geometry.page_shift))
    machine.boot(vunmap_range(view, base, base + page))
    assert (
        run(machine, vmap_range(view, base + first * page, base + (first + count) * page, first * page, 0, shift))
        is None
    )
    return operations(machine)


@pytest.mark.parametrize(("page_size", "page_shift", "levels"), REAL)
def test_the_architectures_numbers(page_size: str, page_shift: int, levels: int) -> None:
    """pgtable-hwdef.h and the matrix in hugetlbpage.c: 64K and 32M with 4K pages, 2M and 1G, 2M and 16G."""
    geometry = real_geometry(page_shift, levels)
    expected = {"4K": (64 << 10, 32 << 20), "16K": (2 << 20, 1 << 30), "64K": (2 << 20, 16 << 30)}[page_size]
    assert (geometry.cont_size(Level.PTE), geometry.cont_size(Level.PMD)) == expected
    assert 1 << geometry.cont_pte_shift == geometry.cont_size(Level.PTE)
    assert geometry.cont_size(Level.PUD) == geometry.size(Level.PUD)
    _, kernel = boot(geometry=geometry)
    assert kernel.arch.arch_vmap_pud_supported(kernel) is (page_size == "4K")
    assert num_contig_ptes(geometry, geometry.cont_size(Level.PTE)) == (geometry.size(Level.PTE), geometry.cont_ptes)
    assert num_contig_ptes(geometry, geometry.cont_size(Level.PMD)) == (geometry.size(Level.PMD), geometry.cont_pmds)
    assert num_contig_ptes(geometry, geometry.size(Level.PMD)) == (geometry.size(Level.PMD), 1)


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_without_blocks_every_function_answers_what_the_generic_one_does(arch: str) -> None:
    machine, kernel = boot(arch, 4, 4)
    base = kernel.geometry.base
    assert kernel.arch.arch_vmap_pte_range_map_size(kernel, base, base + (1 << 20), 0, 64) == 4096
    assert kernel.arch.arch_vmap_pte_supported_shift(kernel, 1 << 30) == 12
    assert machine.boot(kernel.arch.arch_vmap_pte_range_unmap_size(kernel, base, kernel.init_mm.pgd)) == 4096
    assert kernel.arch.arch_make_huge_pte(kernel, mk_leaf(3, PAGE_KERNEL), 1 << 16) == mk_leaf(3, PAGE_KERNEL)


def test_the_generic_huge_functions_set_and_clear_one_entry() -> None:
    """asm-generic/hugetlb.h: set_huge_pte_at is set_pte_at, huge_ptep_get_and_clear is ptep_get_and_clear."""
    machine, kernel = boot("x86_64", 4, 4)
    machine.observer = None
    pgd = kernel.init_mm.pgd
    for lazy in (False, True):
        machine.boot(kernel.arch.set_huge_pte_at(kernel, 0, pgd, mk_leaf(3, 0), 4096, lazy=lazy))
        assert machine.memory.peek(pgd) == mk_leaf(3, 0)
        assert machine.boot(kernel.arch.huge_ptep_get_and_clear(kernel, 0, pgd, 4096)) == mk_leaf(3, 0)
        assert machine.memory.peek(pgd) == 0
    machine.boot(kernel.arch.arch_leave_lazy_mmu_mode(kernel))


# arch_vmap_pte_range_map_size, one condition at a time


@pytest.mark.parametrize(
    ("first", "count", "pfn", "shift", "size"),
    [
        (4, 4, 4, 14, 4),
        (4, 9, 8, 21, 4),
        (4, 4, 4, 13, 1),
        (4, 3, 4, 14, 1),
        (5, 4, 8, 14, 1),
        (4, 4, 6, 14, 1),
    ],
    ids=["fits", "more than fits", "max_page_shift", "size", "address", "physical address"],
)
def test_conditions_of_a_contiguous_block(first: int, count: int, pfn: int, shift: int, size: int) -> None:
    _, kernel = boot(geometry=small())
    addr = kernel.geometry.base + (first << 12)
    assert kernel.arch.arch_vmap_pte_range_map_size(kernel, addr, addr + (count << 12), pfn, shift) == size << 12


@given(st.integers(1, 1 << 24))
def test_the_supported_shift_is_of_a_block_from_the_size_of_one(size: int) -> None:
    _, kernel = boot(geometry=small())
    assert kernel.arch.arch_vmap_pte_supported_shift(kernel, size) == (14 if size >= 1 << 14 else 12)


# Entries


def test_a_block_is_one_mapping_of_entries_that_say_so() -> None:
    machine, kernel = boot(geometry=small())
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base + 0x2000, base + 0x9000, 0x2000, PAGE_KERNEL_EXEC, 14))
    pages = [translate(machine, kernel, page) for page in range(10)]
    assert [page.pfn if page else None for page in pages] == [None, None, 2, 3, 4, 5, 6, 7, 8, None]
    cont = [bool(page and page.prot & PTE_CONT) for page in pages]
    assert cont == [False] * 4 + [True] * 4 + [False] * 2
    text = machine.boot(ptdump_walk(kernel, kernel.init_mm))
    assert [line[39:].split() for line in text.splitlines()[2:5]] == [
        ["8K", "PTE", "RW", "x", "SHD", "AF", "UXN", "MEM/NORMAL"],
        ["16K", "PTE", "RW", "x", "SHD", "AF", "CON", "UXN", "MEM/NORMAL"],
        ["4K", "PTE", "RW", "x", "SHD", "AF", "UXN", "MEM/NORMAL"],
    ]


def test_an_entry_is_contiguous_only_where_it_maps() -> None:
    entry = mk_leaf(7, PAGE_KERNEL | PTE_CONT)
    assert pxd_leaf(entry)
    assert pxd_cont(entry)
    assert (pxd_pfn(entry), pxd_pgprot(entry)) == (7, PAGE_KERNEL | PTE_CONT)
    assert not pxd_cont(mk_leaf(7, PAGE_KERNEL))
    assert not pxd_cont(0)
    assert not pxd_cont(PTE_CONT | 1)


# Barriers


@pytest.mark.parametrize(("page_size", "page_shift", "levels"), REAL)
@pytest.mark.parametrize("lazy_mmu", [False, True])
def test_one_pair_of_barriers_a_block_or_with_lazy_mmu_a_range(
    page_size: str, page_shift: int, levels: int, lazy_mmu: bool
) -> None:
    _, kernel = boot(geometry=real_geometry(page_shift, levels), lazy_mmu=lazy_mmu)
    geometry = kernel.geometry
    expected = 1 if lazy_mmu else 256
    assert pairs(map_pages(kernel, 0, 256, geometry.page_shift)) == expected
    expected = 1 if lazy_mmu else 256 // geometry.cont_ptes
    assert pairs(map_pages(kernel, 0, 256, geometry.cont_pte_shift)) == expected


def test_a_block_is_written_whole_and_then_completed() -> None:
    """__set_ptes_anysz(): the barriers are hoisted out of the loop. Both vmap and hugetlb look at the first entry."""
    _, kernel = boot(geometry=small())
    ops = map_pages(kernel, 0, 4, 14)[1:]
    table = next(op.address for op in ops if isinstance(op, Store))
    assert ops[-8:] == [
        Load(table),
        Load(table),
        *[Store(table + index, mk_leaf(index, PTE_CONT)) for index in range(4)],
        *PAIR,
    ]


def test_lazy_mmu_mode_changes_no_entry() -> None:
    found = []
    for lazy_mmu in (False, True):
        machine, kernel = boot(geometry=small(), lazy_mmu=lazy_mmu)
        base = kernel.geometry.base
        machine.boot(vmap_range(kernel, base, base + 0x7000, 0, PAGE_KERNEL, 21))
        found.append([translate(machine, kernel, page) for page in range(8)])
    assert found[0] == found[1]


# clear_flush, huge_ptep_get_and_clear


def block(machine: Machine, kernel: Kernel, level: Level) -> int:
    """Map a contiguous block of that level into the root, as if it were a table of that level; return its size."""
    machine.observer = None
    size = kernel.geometry.cont_size(level)
    entry = kernel.arch.arch_make_huge_pte(kernel, mk_leaf(64, PAGE_KERNEL), size)
    machine.boot(kernel.arch.set_huge_pte_at(kernel, 0, kernel.init_mm.pgd, entry, size))
    return size


@pytest.mark.parametrize("level", [Level.PTE, Level.PMD])
def test_a_block_of_either_level_is_made_of_its_entries(level: Level) -> None:
    machine, kernel = boot(geometry=small())
    size = block(machine, kernel, level)
    stride = kernel.geometry.size(level) >> 12
    pgd = kernel.init_mm.pgd
    entries = [machine.memory.peek(pgd + index) for index in range(5)]
    assert entries == [*[mk_leaf(64 + index * stride, PAGE_KERNEL | PTE_CONT) for index in range(4)], 0]
    old = machine.boot(kernel.arch.huge_ptep_get_and_clear(kernel, 0, pgd, size))
    assert old == mk_leaf(64, PAGE_KERNEL | PTE_CONT)
    assert [machine.memory.peek(pgd + index) for index in range(5)] == [0] * 5


@pytest.mark.parametrize("level", [Level.PTE, Level.PMD])
def test_changing_a_valid_block_breaks_before_it_makes_and_flushes_the_kernels_range(level: Level) -> None:
    machine, kernel = boot(geometry=small(), cpus=1, tracing=True)
    size = block(machine, kernel, level)
    pgd = kernel.init_mm.pgd
    entry = mk_leaf(64, PTE_CONT)
    assert run(machine, kernel.arch.set_huge_pte_at(kernel, 0, pgd, entry, size)) is None
    ops = operations(machine)
    last_clear = max(at for at, op in enumerate(ops) if isinstance(op, Rmw))
    first_store = min(at for at, op in enumerate(ops) if isinstance(op, Store))
    flush = [op for op in ops[last_clear + 1 : first_store] if isinstance(op, Tlbi)]
    assert flush == (
        [Tlbi("vaale1is", page << 12) for page in range(4)] if level is Level.PTE else [Tlbi("vmalle1is", 0)]
    )
    assert ops[first_store - 2 : first_store] == [Fence(Barrier.DSB_ISH), Fence(Barrier.ISB)]
    assert sum(isinstance(op, Rmw) for op in ops) == 4


# vmalloc


@pytest.mark.parametrize(("page_size", "page_shift", "levels"), REAL)
def test_vmalloc_huge_takes_the_largest_run_that_the_size_reaches(page_size: str, page_shift: int, levels: int) -> None:
    machine, kernel = boot(geometry=real_geometry(page_shift, levels))
    geometry, page = kernel.geometry, kernel.geometry.size(Level.PTE)
    for pages, cont in ((geometry.cont_ptes - 1, False), (geometry.cont_ptes, True), (geometry.cont_ptes + 1, True)):
        addr = machine.boot(vmalloc_huge(kernel, pages * page, PAGE_KERNEL))
        assert addr is not None
        first = (addr - geometry.base) // page
        found = translate(machine, kernel, first + pages - 1)
        assert found is not None
        assert (found.level, bool(found.prot & PTE_CONT)) == (Level.PTE, cont)
        assert not cont or addr % geometry.cont_size(Level.PTE) == 0
    addr = machine.boot(vmalloc(kernel, geometry.cont_ptes * page, PAGE_KERNEL))
    assert addr is not None
    found = translate(machine, kernel, (addr - geometry.base) // page)
    assert found is not None
    assert not found.prot & PTE_CONT


def test_vmalloc_huge_maps_block_by_block() -> None:
    """vmap_pages_range_noflush(): a walk from the root for each block, so lazy MMU mode saves it no barrier."""
    for lazy_mmu in (False, True):
        machine, kernel = boot(geometry=small(2), cpus=1, tracing=True, lazy_mmu=lazy_mmu)
        machine.boot(vmalloc(kernel, 0x1000, PAGE_KERNEL))
        machine.start([vmalloc_huge(kernel, 0x6000, PAGE_KERNEL)])
        while not machine.done:
            machine.step(0, lambda ways: 0)
        ops = operations(machine)
        assert sum(op == Load(kernel.init_mm.pgd) for op in ops) == 3
        assert pairs(ops) == 3


def test_where_blocks_are_configured_off_runs_of_ptes_are_left() -> None:
    """CONFIG_PTDUMP_DEBUGFS turned off PMD and PUD blocks; contiguous PTEs free no table, and nothing forbids them."""
    machine, kernel = boot(geometry=small(), mitigation=ConfigOff)
    addr = machine.boot(vmalloc_huge(kernel, 0x8000, PAGE_KERNEL))
    assert addr == kernel.geometry.base
    pages = [translate(machine, kernel, page) for page in range(8)]
    assert all(page is not None and page.prot & PTE_CONT for page in pages)
    assert CONTIGUOUS[12] == (16, 16)
