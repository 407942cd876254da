"""Remapping of vmemmap: the struct pages of a huge page onto few pages (mm/hugetlb_vmemmap.c, Linux 6.12 and 7.3).

Blocks of vmemmap are split, and then each PTE of the range is set anew. init_mm's lock is held for reading over the
walk, page_table_lock over the look at a block and over the change of its entry. Hot-remove is what frees tables of
vmemmap; it holds neither over that, and does not come to the memory of a huge page that is in use.

What is freed in the end are pages of struct pages, and the table of a split that somebody else was first with: no table
that an entry has ever led to. So it is a walker, and frees nothing under one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.gfp import NO_MEMORY, pagetable_alloc
from fuzzvm.kernel.locking.exclusive import spin_lock, spin_unlock
from fuzzvm.kernel.mmap_lock import REMAP, mmap_read_lock, mmap_read_unlock
from fuzzvm.kernel.pagewalk_ops import MmWalkOps, NeverLinked, Visited, walk_kernel_page_table_range
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_RO,
    Level,
    TableLabel,
    mk_leaf,
    mk_table,
    pxd_leaf,
    pxd_pfn,
    pxd_pgtable,
)
from fuzzvm.kernel.vmap import ENOMEM
from fuzzvm.machine.ops import Address, Barrier, Fence, Load, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class VmemmapRemapOps(MmWalkOps):
    """vmemmap_remap_ops with struct vmemmap_remap_walk: the range's first page becomes `head`, all others `tail`."""

    start: int
    head: int
    tail: int
    levels: ClassVar[frozenset[Level]] = frozenset({Level.PMD})

    def pxd_entry(self, k: Kernel, level: Level, entryp: Address, entry: int, addr: int, end: int) -> Steps[Visited]:
        """Split a block (vmemmap_pmd_entry)."""
        yield from spin_lock(k.cpu, k.page_table_lock)
        entry = yield Load(entryp)
        if addr == self.start and not pxd_leaf(entry):
            # is this page of struct pages in the memory that it describes? PageVmemmapSelfHosted()
            yield Load(pxd_pgtable(entry) + k.geometry.index(Level.PTE, addr))
        yield from spin_unlock(k.cpu, k.page_table_lock)
        if pxd_leaf(entry):
            ret = yield from vmemmap_split_pmd(k, entryp, entry, addr)
            if ret:
                return Visited(ret, entry, False)
            entry = yield Load(entryp)
        return Visited(0, entry, True)

    def pte_entry(self, k: Kernel, ptep: Address, addr: int) -> Steps[int]:
        """Map another page (vmemmap_remap_pte)."""
        yield Load(ptep)
        if addr == self.start:
            # smp_wmb(): the head is a copy
            yield Fence(Barrier.DMB_ISHST)
            yield from k.arch.set_pxd(k, ptep, mk_leaf(self.head, PAGE_KERNEL))
        else:
            yield from k.arch.set_pxd(k, ptep, mk_leaf(self.tail, PAGE_KERNEL_RO))
        return 0


def vmemmap_split_pmd(k: Kernel, pmdp: Address, pmd: int, addr: int) -> Steps[int]:
    """Put a table in the place of a block, unless another CPU was first; return 0 or -ENOMEM."""
    start = addr & ~(k.geometry.size(Level.PMD) - 1)
    # pte_alloc_one_kernel(): GFP_PGTABLE_KERNEL, with init_mm's lock held
    label = TableLabel(Level.PTE, start, constructed=True)
    table = yield from pagetable_alloc(k, k.geometry.ptrs[Level.PTE], label)
    if table == NO_MEMORY:
        return -ENOMEM
    index = 0
    while index < k.geometry.ptrs[Level.PTE]:
        yield from k.arch.set_pxd(k, table + index, mk_leaf(pxd_pfn(pmd) + index, PAGE_KERNEL))
        index += 1
    yield from spin_lock(k.cpu, k.page_table_lock)
    pmd = yield Load(pmdp)
    if pxd_leaf(pmd):
        # smp_wmb()
        yield Fence(Barrier.DMB_ISHST)
        # pmd_populate_kernel()
        yield from k.arch.set_pxd(k, pmdp, mk_table(table))
        yield from k.arch.flush_tlb_kernel_range(k, start, start + k.geometry.size(Level.PMD))
    else:
        # pte_free_kernel()
        yield NeverLinked(table)
        yield from k.mitigation.free_table(k, table, Level.PMD)
    yield from spin_unlock(k.cpu, k.page_table_lock)
    return 0


def vmemmap_remap_range(k: Kernel, start: int, end: int, ops: VmemmapRemapOps) -> Steps[None]:
    """Walk a range with init_mm's lock held for reading, then flush it, where that went well."""
    yield from mmap_read_lock(k, k.init_mm, REMAP)
    ret = yield from walk_kernel_page_table_range(k, start, end, ops)
    yield from mmap_read_unlock(k, k.init_mm, REMAP)
    if ret:
        return
    yield from k.arch.flush_tlb_kernel_range(k, start, end)


def hugetlb_vmemmap_optimize_folio(k: Kernel, start: int, end: int) -> Steps[None]:
    """Remap the struct pages of one huge page; the pages that are left over are freed at the end.

    Page frames are numbers that nobody else has: the head's and the tail's.
    """
    head = k.geometry.end >> k.geometry.page_shift
    yield from vmemmap_remap_range(k, start, end, VmemmapRemapOps(start, head, head + 1))
