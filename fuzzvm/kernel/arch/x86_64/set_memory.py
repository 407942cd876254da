"""CPA, "change page attributes" (arch/x86/mm/pat/set_memory.c; Linux 6.12, the collapse as of 6.15).

Pages that change protection in part of a block have the block split into a table first; pages that have become alike
again, next to each other in memory as well, are collapsed into a block by set_memory_rox(), and their table is freed.
pgd_lock keeps the two from each other and from themselves, and nothing else away.

The linear map and other aliases are not modelled, and neither are static protections, cache modes and pages that were
made 4K on purpose. That pages are next to each other is a matter of where they were allocated: in the model's vmalloc
area they always are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fuzzvm.kernel.arch.x86_64.tlbflush import flush_tlb_all, flush_tlb_kernel_range
from fuzzvm.kernel.gfp import NO_MEMORY, pagetable_alloc
from fuzzvm.kernel.iommu_sva import pagetable_free, pte_alloc_one_kernel
from fuzzvm.kernel.locking.exclusive import ExclusiveLock, spin_lock, spin_unlock
from fuzzvm.kernel.mmap_lock import ATTRIBUTES, COLLAPSE
from fuzzvm.kernel.pgtable import (
    PROT_EXEC,
    PROT_WRITE,
    Level,
    TableLabel,
    mk_leaf,
    mk_table,
    pxd_flags,
    pxd_leaf,
    pxd_none,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.kernel.set_memory import EFAULT
from fuzzvm.kernel.vmalloc import vm_unmap_aliases
from fuzzvm.kernel.vmap import ENOMEM
from fuzzvm.machine.ops import Address, Free, Load, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Boot, Kernel

Pgtables = tuple[tuple[Address, Level], ...]
"""Tables to be freed, each with the level of the entry that pointed to it; the last one added is the first."""


@dataclass(frozen=True, slots=True)
class CpaLocks:
    """`cpa_lock` serialises changes of protection, `pgd_lock` those of the tables' shape."""

    cpa_lock: ExclusiveLock
    pgd_lock: ExclusiveLock


class Change(NamedTuple):
    """What is asked for: bits to set and bits to clear."""

    mask_set: int
    mask_clr: int


class Done(NamedTuple):
    """What one step of a change has come to: 0 or a negative errno, pages dealt with, whether an entry changed."""

    ret: int
    numpages: int
    flush: bool


class Place(NamedTuple):
    """The address of the entry that maps an address, and its level; no entry maps it where the address is 0."""

    kpte: Address
    level: Level


def make_locks(boot: Boot) -> CpaLocks:
    """Return the locks of CPA, unlocked."""
    return CpaLocks(boot.lock("cpa_lock"), boot.lock("pgd_lock"))


def set_memory_ro(k: Kernel, locks: CpaLocks, addr: int, numpages: int) -> Steps[int]:
    """Make pages read-only, and collapse nothing; return 0 or -EFAULT."""
    return (yield from change_page_attr_set_clr(k, locks, addr, numpages, Change(0, PROT_WRITE), collapse=False))


def set_memory_rox(k: Kernel, locks: CpaLocks, addr: int, numpages: int) -> Steps[int]:
    """Make pages read-only and executable in one change, and collapse them into blocks; return 0 or -EFAULT."""
    change = Change(PROT_EXEC, PROT_WRITE)
    return (yield from change_page_attr_set_clr(k, locks, addr, numpages, change, collapse=True))


def change_page_attr_set_clr(
    k: Kernel, locks: CpaLocks, addr: int, numpages: int, change: Change, collapse: bool
) -> Steps[int]:
    """Change pages and flush them from the TLBs, where anything has changed; return 0 or -EFAULT.

    `collapse` is CPA_COLLAPSE.
    """
    yield from vm_unmap_aliases(k)
    token = yield from k.mitigation.before_change_attr(k.in_role(ATTRIBUTES))
    done = yield from _change_page_attr_set_clr(k, locks, addr, numpages, change)
    yield from k.mitigation.after_change_attr(k.in_role(ATTRIBUTES), token)
    if done.ret and done.flush:
        # on error, flush everything to be sure: cpa_flush_all(), which does not collapse
        yield from flush_tlb_all(k)
    elif done.flush:
        # cpa_flush()
        yield from flush_tlb_kernel_range(k, addr, addr + numpages * k.geometry.size(Level.PTE))
        if collapse and k.mitigation.functions.collapses:
            yield from cpa_collapse_large_pages(k, locks, addr, numpages)
    return int(done.ret)


def _change_page_attr_set_clr(k: Kernel, locks: CpaLocks, addr: int, numpages: int, change: Change) -> Steps[Done]:
    """Change pages from addr on, a page or a block at a time (__change_page_attr_set_clr)."""
    page = 0
    flush = False
    while page < numpages:
        address = addr + page * k.geometry.size(Level.PTE)
        yield from spin_lock(k.cpu, locks.cpa_lock)
        done = yield from change_page_attr(k, locks, address, numpages - page, change)
        yield from spin_unlock(k.cpu, locks.cpa_lock)
        flush = flush or done.flush
        if done.ret:
            return Done(done.ret, page, flush)
        page += done.numpages
    return Done(0, numpages, flush)


def change_page_attr(k: Kernel, locks: CpaLocks, address: int, numpages: int, change: Change) -> Steps[Done]:
    """Change what maps an address, the whole block if that is what is asked for (__change_page_attr)."""
    while True:
        place = yield from lookup_address(k, address)
        if not place.kpte:
            return Done(-EFAULT, 0, False)
        old_pte = yield Load(place.kpte)
        if pxd_none(old_pte):
            return Done(-EFAULT, 0, False)
        if place.level == Level.PTE:
            new_pte = _changed(old_pte, change)
            if new_pte != old_pte:
                # set_pte_atomic()
                yield Store(place.kpte, new_pte)
            return Done(0, 1, new_pte != old_pte)
        done = yield from should_split_large_page(k, locks, place, address, numpages, change)
        if done.numpages:
            return done
        err = yield from split_large_page(k, locks, place, address)
        if err:
            return Done(err, 0, False)


def should_split_large_page(
    k: Kernel, locks: CpaLocks, place: Place, address: int, numpages: int, change: Change
) -> Steps[Done]:
    """Change a block as a whole if that can be done; no pages are done where it must be split first."""
    yield from spin_lock(k.cpu, locks.pgd_lock)
    done = yield from _try_preserve_large_page(k, place, address, numpages, change)
    yield from spin_unlock(k.cpu, locks.pgd_lock)
    return done


def _try_preserve_large_page(k: Kernel, place: Place, address: int, numpages: int, change: Change) -> Steps[Done]:
    # another CPU might have split it
    again = yield from lookup_address(k, address)
    if again != place:
        return Done(0, 0, False)
    old = yield Load(place.kpte)
    size = k.geometry.size(place.level)
    within = min(numpages, (size - address % size) >> k.geometry.page_shift)
    new = _changed(old, change)
    if new == old:
        return Done(0, within, False)
    if within << k.geometry.page_shift != size:
        return Done(0, 0, False)
    # __set_pmd_pte()
    yield Store(place.kpte, new)
    return Done(0, within, True)


def split_large_page(k: Kernel, locks: CpaLocks, place: Place, address: int) -> Steps[int]:
    """Put a table in the place of a block, with cpa_lock dropped while its page is allocated; return 0 or -ENOMEM."""
    below = k.geometry.below(place.level)
    start = address & ~(k.geometry.size(place.level) - 1)
    yield from spin_unlock(k.cpu, locks.cpa_lock)
    yield from k.mitigation.before_split_alloc(k.in_role(ATTRIBUTES))
    # alloc_pages(GFP_KERNEL) in 6.12, pte_alloc_one_kernel() in 7.3
    label = TableLabel(below, start, constructed=k.mitigation.functions.split_constructs)
    base = yield from pagetable_alloc(k, k.geometry.ptrs[below], label)
    if base != NO_MEMORY:
        yield from pte_alloc_one_kernel(k, base)
    yield from k.mitigation.after_split_alloc(k.in_role(ATTRIBUTES))
    yield from spin_lock(k.cpu, locks.cpa_lock)
    if base == NO_MEMORY:
        return -ENOMEM
    split = yield from __split_large_page(k, locks, place, address, base)
    if not split:
        yield Free(base)
    return 0


def __split_large_page(k: Kernel, locks: CpaLocks, place: Place, address: int, base: Address) -> Steps[bool]:
    """Fill a table with what a block maps and set it in the block's place; False where somebody else was first."""
    below = k.geometry.below(place.level)
    yield from spin_lock(k.cpu, locks.pgd_lock)
    again = yield from lookup_address(k, address)
    if again != place:
        yield from spin_unlock(k.cpu, locks.pgd_lock)
        return False
    block = yield Load(place.kpte)
    pfninc = k.geometry.size(below) >> k.geometry.page_shift
    index = 0
    while index < k.geometry.ptrs[below]:
        yield Store(base + index, mk_leaf(pxd_pfn(block) + index * pfninc, pxd_pgprot(block)))
        index += 1
    # __set_pmd_pte()
    yield Store(place.kpte, mk_table(base))
    yield from flush_tlb_all(k)
    yield from spin_unlock(k.cpu, locks.pgd_lock)
    return True


def cpa_collapse_large_pages(k: Kernel, locks: CpaLocks, addr: int, numpages: int) -> Steps[None]:
    """Collapse each PMD's pages that were touched, flush, and free the tables that they had."""
    token = yield from k.mitigation.before_collapse(k.in_role(COLLAPSE))
    holds_cpa_lock = k.mitigation.functions.collapse_holds_cpa_lock
    if holds_cpa_lock:
        yield from spin_lock(k.cpu, locks.cpa_lock)
    yield from __cpa_collapse_large_pages(k, locks, addr, numpages)
    if holds_cpa_lock:
        yield from spin_unlock(k.cpu, locks.cpa_lock)
    yield from k.mitigation.after_collapse(k.in_role(COLLAPSE), token)


def __cpa_collapse_large_pages(k: Kernel, locks: CpaLocks, addr: int, numpages: int) -> Steps[None]:
    end = addr + numpages * k.geometry.size(Level.PTE)
    addr &= ~(k.geometry.size(Level.PMD) - 1)
    pgtables: Pgtables = ()
    while addr < end:
        pgtables = yield from collapse_large_pages(k, locks, addr, pgtables)
        addr += k.geometry.size(Level.PMD)
    if pgtables:
        yield from flush_tlb_all(k)
        token = yield from k.mitigation.before_collapse_free(k.in_role(COLLAPSE))
        index = 0
        while index < len(pgtables):
            yield from pagetable_free(k, pgtables[index][0], pgtables[index][1])
            index += 1
        yield from k.mitigation.after_collapse_free(k.in_role(COLLAPSE), token)


def collapse_large_pages(k: Kernel, locks: CpaLocks, addr: int, pgtables: Pgtables) -> Steps[Pgtables]:
    """Collapse the pages of one PMD, and then the PMDs of its PUD; return the tables to be freed, with those before."""
    yield from spin_lock(k.cpu, locks.pgd_lock)
    pudp = yield from _pud_offset(k, addr)
    if pudp is not None:
        pud = yield Load(pudp)
        if pxd_table(pud):
            pmdp = pxd_pgtable(pud) + k.geometry.index(Level.PMD, addr)
            pmd = yield Load(pmdp)
            if pxd_table(pmd):
                before = pgtables
                pgtables = yield from collapse_pmd_page(k, pmdp, pmd, pgtables)
                if pgtables != before:
                    pgtables = yield from collapse_pud_page(k, pudp, pud, pgtables)
    yield from spin_unlock(k.cpu, locks.pgd_lock)
    return pgtables


def collapse_pmd_page(k: Kernel, pmdp: Address, pmd: int, pgtables: Pgtables) -> Steps[Pgtables]:
    """Set one block over a PTE table whose pages are alike and next to each other; return the tables to be freed."""
    first = yield from _first_of_a_block(k, pxd_pgtable(pmd), Level.PTE, Level.PMD)
    if first is None:
        return pgtables
    old_pmd = yield Load(pmdp)
    # set_pmd()
    yield Store(pmdp, first)
    return ((pxd_pgtable(old_pmd), Level.PMD), *pgtables)


def collapse_pud_page(k: Kernel, pudp: Address, pud: int, pgtables: Pgtables) -> Steps[Pgtables]:
    """Set one block over a PMD table of blocks that are alike and next to each other; return the tables to be freed."""
    first = yield from _first_of_a_block(k, pxd_pgtable(pud), Level.PMD, Level.PUD)
    if first is None:
        return pgtables
    # set_pud()
    yield Store(pudp, first)
    return ((pxd_pgtable(pud), Level.PUD), *pgtables)


def _first_of_a_block(k: Kernel, table: Address, level: Level, block: Level) -> Steps[int | None]:
    """Return the first entry of a table if all of it can be one entry of the level `block`, else None."""
    first = yield Load(table)
    pfn = pxd_pfn(first)
    if not pxd_leaf(first) or not k.geometry.aligned(block, pfn << k.geometry.page_shift):
        return None
    pfninc = k.geometry.size(level) >> k.geometry.page_shift
    index = 1
    while index < k.geometry.ptrs[level]:
        entry = yield Load(table + index)
        if pxd_flags(entry) != pxd_flags(first) or pxd_pfn(entry) != pfn + index * pfninc:
            return None
        index += 1
    return int(first)


def lookup_address(k: Kernel, address: int) -> Steps[Place]:
    """Return where the entry is that maps an address (_lookup_address_cpa)."""
    level, table = Level.PGD, k.init_mm.pgd
    while True:
        kpte = table + k.geometry.index(level, address)
        if level == Level.PTE:
            return Place(kpte, level)
        entry = yield Load(kpte)
        if pxd_none(entry):
            return Place(0, level)
        if pxd_leaf(entry):
            return Place(kpte, level)
        level, table = k.geometry.below(level), pxd_pgtable(entry)


def _pud_offset(k: Kernel, addr: int) -> Steps[Address | None]:
    """Return the address of addr's PUD, or None where there is no table for it."""
    level, entryp = Level.PGD, k.init_mm.pgd + k.geometry.index(Level.PGD, addr)
    while level < Level.PUD:
        entry = yield Load(entryp)
        if pxd_none(entry):
            return None
        level = k.geometry.below(level)
        entryp = pxd_pgtable(entry) + k.geometry.index(level, addr)
    return entryp


def _changed(entry: int, change: Change) -> int:
    """Return a leaf with its protection changed."""
    return mk_leaf(pxd_pfn(entry), pxd_pgprot(entry) & ~change.mask_clr | change.mask_set)
