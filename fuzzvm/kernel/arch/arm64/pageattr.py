"""Changes of protection that split blocks first and then walk with no lock (arch/arm64/mm/pageattr.c, mmu.c; 7.3).

Since 6.18 the linear map may be made of blocks where the CPUs can change the size of a live mapping (FEAT_BBM level 2
or 3). A change of part of a block splits it under `pgtable_split_lock`, a mutex, so that entries begin at both ends of
the range. The walk that follows takes no lock: it changes what its caller owns.

In the model the CPUs have that feature, and what the kernel asks of the area of vmalloc before (no blocks there) is not
asked: a block stands for the linear map's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from fuzzvm.kernel.gfp import NO_MEMORY, pagetable_alloc
from fuzzvm.kernel.locking.exclusive import ExclusiveLock, mutex_lock, mutex_unlock
from fuzzvm.kernel.pagewalk_ops import MmWalkOps, Visited, walk_kernel_page_table_range_lockless
from fuzzvm.kernel.pgtable import (
    PROT_WRITE,
    PTE_CONT,
    Level,
    TableLabel,
    mk_leaf,
    mk_table,
    pxd_cont,
    pxd_leaf,
    pxd_none,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
)
from fuzzvm.kernel.set_memory import EINVAL
from fuzzvm.kernel.vmap import ENOMEM
from fuzzvm.machine.ops import Address, Barrier, Fence, Load, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Arm64Data:
    """What there is on arm64 alone; `pgtable_split_lock` where the kernel splits live mappings."""

    pgtable_split_lock: ExclusiveLock


class Split(NamedTuple):
    """What splitting has come to: 0 or a negative errno, and whether an entry has changed."""

    ret: int
    changed: bool


@dataclass(frozen=True, slots=True)
class PageattrOps(MmWalkOps):
    """pageattr_ops, with the masks of struct page_change_data."""

    set_mask: int
    clear_mask: int
    levels: ClassVar[frozenset[Level]] = frozenset({Level.PUD, Level.PMD})

    def pxd_entry(self, k: Kernel, level: Level, entryp: Address, entry: int, addr: int, end: int) -> Steps[Visited]:
        """Change a block as a whole; -EINVAL where the range has only a part of it.

        It is pageattr_pud_entry and pageattr_pmd_entry.
        """
        if k.walk_rereads:
            entry = yield Load(entryp)
        if not pxd_leaf(entry):
            return Visited(0, entry, True)
        if end - addr != k.geometry.size(level):
            # WARN_ON_ONCE()
            return Visited(-EINVAL, entry, False)
        entry = self._changed(entry)
        # set_pud(), set_pmd() in lazy MMU mode
        yield from k.arch.set_pte_lazily(k, entryp, entry)
        return Visited(0, entry, False)

    def pte_entry(self, k: Kernel, ptep: Address, addr: int) -> Steps[int]:
        """Change a page. The kernel would write the bits into an entry that is none; the model says -EINVAL."""
        pte = yield Load(ptep)
        if not pxd_leaf(pte):
            return -EINVAL
        yield from k.arch.set_pte_lazily(k, ptep, self._changed(pte))
        return 0

    def _changed(self, entry: int) -> int:
        """Return a leaf with its protection changed (set_pageattr_masks)."""
        return mk_leaf(pxd_pfn(entry), pxd_pgprot(entry) & ~self.clear_mask | self.set_mask)


def kfence_protect_page(k: Kernel, addr: int) -> Steps[int]:
    """Make a page of KFENCE's pool invalid, in whatever context an object of it is freed; return 0 or -EINVAL.

    The pool is mapped by pages alone. The valid bit is not modelled: the page becomes read-only here. Until November
    2025 the split was entered all the same, and its mutex taken.
    """
    end = addr + k.geometry.size(Level.PTE)
    # split_kernel_leaf_mapping(): is_kfence_address()
    if k.mitigation.functions.split_spares_kfence:
        ret = yield from walk_kernel_page_table_range_lockless(k, addr, end, PageattrOps(0, PROT_WRITE))
        yield from k.arch.arch_leave_lazy_mmu_mode(k)
    else:
        ret = yield from k.arch.update_range_prot(k, addr, end, 0, PROT_WRITE)
    # __change_memory_common()
    yield from k.arch.flush_tlb_kernel_range(k, addr, end)
    return int(ret)


def update_range_prot(k: Kernel, start: int, end: int, set_mask: int, clear_mask: int) -> Steps[int]:
    """Split what lies across the ends of a range, then change all of it; return 0 or a negative errno. Flushes
    nothing.
    """
    ret = yield from split_kernel_leaf_mapping(k, start, end)
    if ret:
        # WARN_ON_ONCE()
        return int(ret)
    # lazy_mmu_mode_enable()
    ret = yield from walk_kernel_page_table_range_lockless(k, start, end, PageattrOps(set_mask, clear_mask))
    yield from k.arch.arch_leave_lazy_mmu_mode(k)
    return int(ret)


def split_kernel_leaf_mapping(k: Kernel, start: int, end: int) -> Steps[int]:
    """Split blocks until entries begin at both ends of a range; return 0 or -ENOMEM.

    Of a single page only the end that is aligned worse is looked at: splitting there splits at the other, too.
    """
    lock = k.arch_data.pgtable_split_lock
    yield from mutex_lock(k.cpu, lock)
    # lazy_mmu_mode_enable()
    if end - start == k.geometry.size(Level.PTE):
        split = yield from split_kernel_leaf_mapping_locked(k, start if _ffs(start) < _ffs(end) else end)
    else:
        split = yield from split_kernel_leaf_mapping_locked(k, start)
        if not split.ret:
            more = yield from split_kernel_leaf_mapping_locked(k, end)
            split = Split(more.ret, split.changed or more.changed)
    if split.changed:
        yield from k.arch.arch_leave_lazy_mmu_mode(k)
    yield from mutex_unlock(k.cpu, lock)
    return int(split.ret)


def split_kernel_leaf_mapping_locked(k: Kernel, addr: int) -> Steps[Split]:
    """Split what maps an address until an entry begins there."""
    split = Split(0, False)
    level, entryp = Level.PGD, k.init_mm.pgd + k.geometry.index(Level.PGD, addr)
    while True:
        # aligned to CONT_PMD_SIZE or CONT_PTE_SIZE, to PUD_SIZE and so on: an entry or a block of them begins here
        if addr & (k.geometry.cont_size(level) - 1) == 0:
            return split
        entry = yield Load(entryp)
        if pxd_none(entry):
            return split
        if pxd_cont(entry):
            yield from split_contpxd(k, entryp, level)
            split = Split(0, True)
        if level == Level.PTE or (pxd_leaf(entry) and k.geometry.aligned(level, addr)):
            return split
        if pxd_leaf(entry):
            entry = yield from split_pxd(k, entryp, entry, level, addr)
            if not entry:
                return Split(-ENOMEM, split.changed)
            split = Split(0, True)
        elif k.walk_rereads:
            # pmd_offset() of an entry that pudp_get() has read
            entry = yield Load(entryp)
        level = k.geometry.below(level)
        entryp = pxd_pgtable(entry) + k.geometry.index(level, addr)


def split_contpxd(k: Kernel, entryp: Address, level: Level) -> Steps[None]:
    """Take the contiguous bit from each entry of a block, one after the other (split_contpmd, split_contpte)."""
    entries = k.geometry.cont(level)
    entryp -= entryp % entries
    index = 0
    while index < entries:
        entry = yield Load(entryp + index)
        yield from k.arch.set_pte_lazily(k, entryp + index, mk_leaf(pxd_pfn(entry), pxd_pgprot(entry) & ~PTE_CONT))
        index += 1


def split_pxd(k: Kernel, entryp: Address, entry: int, level: Level, addr: int) -> Steps[int]:
    """Put a table of contiguous entries in the place of a block; return the new entry, or 0 where there is no
    memory (split_pud, split_pmd).

    With no break before make and no flush: the CPUs can have the old size and the new one at a time. The block's entry
    is not looked at again, as nobody else splits.
    """
    below = k.geometry.below(level)
    start = addr & ~(k.geometry.size(level) - 1)
    # pgd_pgtable_alloc_init_mm_gfp(), GFP_PGTABLE_KERNEL
    table = yield from pagetable_alloc(k, k.geometry.ptrs[below], TableLabel(below, start, constructed=True))
    if table == NO_MEMORY:
        return 0
    prot = pxd_pgprot(entry) & ~PTE_CONT | (PTE_CONT if k.geometry.cont(below) > 1 else 0)
    step = k.geometry.size(below) >> k.geometry.page_shift
    index = 0
    while index < k.geometry.ptrs[below]:
        yield from k.arch.set_pte_lazily(k, table + index, mk_leaf(pxd_pfn(entry) + index * step, prot))
        index += 1
    # the entries are visible to the table walker before the entry that leads to them
    yield Fence(Barrier.DSB_ISHST)
    entry = mk_table(table)
    # __pmd_populate()
    yield from k.arch.set_pte_lazily(k, entryp, entry)
    return entry


def _ffs(addr: int) -> int:
    """Return the lowest bit of an address that is set (__ffs)."""
    return addr & -addr
