"""Kernel mappings: vmap_range with its promotion to blocks, and vunmap_range (mm/vmalloc.c, Linux 6.12 and 6.18).

`vunmap_range` clears entries and leaves the empty tables. That is why the next huge mapping of the range finds a
table to free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.kernel.errors import MAP_OVER_MAPPING, PARTIAL_UNMAP
from fuzzvm.kernel.gfp import NO_MEMORY, pagetable_alloc
from fuzzvm.kernel.hooks import answer
from fuzzvm.kernel.locking.exclusive import spin_lock, spin_unlock
from fuzzvm.kernel.mmap_lock import PROMOTION
from fuzzvm.kernel.pgtable import (
    Level,
    TableLabel,
    mk_leaf,
    mk_table,
    ptep_get_and_clear,
    pxd_leaf,
    pxd_none,
    pxd_pgtable,
)
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Annotation, Barrier, Fence, Free, Load, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

ENOMEM = 12


@dataclass(frozen=True, slots=True)
class PromotionBegins(Annotation):
    """This CPU has found a table in the place of the block that it is about to map, and nobody else knows of it yet."""


@dataclass(frozen=True, slots=True)
class PromotionEnds(Annotation):
    """The block of this CPU is set and the table freed, or the promotion given up."""


# Tables on the way down


def pxd_alloc(k: Kernel, parent: Address, level: Level, addr: int) -> Steps[Address | None]:
    """Return the address of addr's entry in the table of that level, which `parent` points to or is made to.

    As in __pmd_alloc(): the new table is installed under page_table_lock, unless another CPU was first. None where
    there is no memory for it.
    """
    entry = yield Load(parent)
    if pxd_none(entry):
        label = TableLabel(level, k.geometry.table_start(level, addr))
        table = yield from pagetable_alloc(k, k.geometry.ptrs[level], label)
        if table == NO_MEMORY:
            return None
        yield from spin_lock(k.cpu, k.page_table_lock)
        entry = yield Load(parent)
        if pxd_none(entry):
            # smp_wmb(): the table is empty before it can be reached
            yield Fence(Barrier.DMB_ISHST)
            entry = mk_table(table)
            yield from k.arch.set_pxd(k, parent, entry)
            yield from spin_unlock(k.cpu, k.page_table_lock)
        else:
            yield from spin_unlock(k.cpu, k.page_table_lock)
            yield Free(table)
    if pxd_leaf(entry):
        raise ModelError(MAP_OVER_MAPPING, f"{addr:#x} lies in a block that is mapped", address=parent)
    return pxd_pgtable(entry) + k.geometry.index(level, addr)


def pgd_offset_k(k: Kernel, addr: int) -> Address:
    """Return the address of addr's entry in the root table."""
    return k.init_mm.pgd + k.geometry.index(Level.PGD, addr)


def p4d_alloc(k: Kernel, pgdp: Address, addr: int) -> Steps[Address | None]:
    """Return the address of addr's P4D entry; the PGD entry itself where P4D is folded."""
    if k.geometry.folded(Level.P4D):
        return pgdp
    return (yield from pxd_alloc(k, pgdp, Level.P4D, addr))


def pud_alloc(k: Kernel, p4dp: Address, addr: int) -> Steps[Address | None]:
    """Return the address of addr's PUD entry; the P4D entry itself where PUD is folded."""
    if k.geometry.folded(Level.PUD):
        return p4dp
    return (yield from pxd_alloc(k, p4dp, Level.PUD, addr))


def pmd_alloc(k: Kernel, pudp: Address, addr: int) -> Steps[Address | None]:
    """Return the address of addr's PMD entry; the PUD entry itself where PMD is folded."""
    if k.geometry.folded(Level.PMD):
        return pudp
    return (yield from pxd_alloc(k, pudp, Level.PMD, addr))


def pte_alloc_kernel(k: Kernel, pmdp: Address, addr: int) -> Steps[Address | None]:
    """Return the address of addr's PTE."""
    return (yield from pxd_alloc(k, pmdp, Level.PTE, addr))


# Mapping


def vmap_pte_range(
    k: Kernel, pmdp: Address, addr: int, end: int, phys_addr: int, prot: int, max_page_shift: int
) -> Steps[int]:
    """Map a range with PTEs, in contiguous blocks where the architecture has them and they fit; return 0 or -ENOMEM.

    Raises ModelError map-over-mapping where a page, or the first one of a block, is mapped already.
    """
    page_size = k.geometry.size(Level.PTE)
    pfn = phys_addr >> k.geometry.page_shift
    ptep = yield from pte_alloc_kernel(k, pmdp, addr)
    if ptep is None:
        return -ENOMEM
    # arch_enter_lazy_mmu_mode()
    lazy = k.lazy_mmu
    while addr != end:
        pte = yield Load(ptep)
        if not pxd_none(pte):
            raise ModelError(MAP_OVER_MAPPING, f"{addr:#x} is mapped already", address=ptep)
        size = k.arch.arch_vmap_pte_range_map_size(k, addr, end, pfn, max_page_shift)
        if size != page_size:
            entry = k.arch.arch_make_huge_pte(k, mk_leaf(pfn, prot), size)
            yield from k.arch.set_huge_pte_at(k, addr, ptep, entry, size, lazy=lazy)
        elif lazy:
            yield from k.arch.set_pte_lazily(k, ptep, mk_leaf(pfn, prot))
        else:
            yield from k.arch.set_pxd(k, ptep, mk_leaf(pfn, prot))
        pfn += size >> k.geometry.page_shift
        ptep += size >> k.geometry.page_shift
        addr += size
    if lazy:
        yield from k.arch.arch_leave_lazy_mmu_mode(k)
    return 0


def _block_fits(k: Kernel, level: Level, addr: int, end: int, phys_addr: int, max_page_shift: int) -> bool:
    """Whether one entry of that level can map the range: shift, size, and both alignments."""
    geometry = k.geometry
    return (
        max_page_shift >= geometry.shifts[level]
        and end - addr == geometry.size(level)
        and geometry.aligned(level, addr)
        and geometry.aligned(level, phys_addr)
        and answer(k.mitigation, "huge_vmap_allowed", k.mitigation.huge_vmap_allowed())
    )


def _warn_on_leaf(entry: int, pxdp: Address, addr: int) -> None:
    """Refuse to promote what is a block already: VM_WARN_ON() in arm64's pmd_free_pte_page, a wild free on x86."""
    if pxd_leaf(entry):
        raise ModelError(MAP_OVER_MAPPING, f"{addr:#x} is mapped by a block already", address=pxdp)


def vmap_try_huge_pmd(
    k: Kernel, pmdp: Address, addr: int, end: int, phys_addr: int, prot: int, max_page_shift: int
) -> Steps[bool]:
    """Map a range by one PMD entry if that is possible, freeing the PTE table in its place; return whether it was."""
    if not k.arch.arch_vmap_pmd_supported(k) or not _block_fits(k, Level.PMD, addr, end, phys_addr, max_page_shift):
        return False
    pmd = yield Load(pmdp)
    block = mk_leaf(phys_addr >> k.geometry.page_shift, prot)
    if pxd_none(pmd):
        yield from k.arch.set_pxd(k, pmdp, block)
        return True
    _warn_on_leaf(pmd, pmdp, addr)
    yield PromotionBegins()
    go_on = yield from k.mitigation.before_promotion(k.in_role(PROMOTION), Level.PMD)
    if not answer(k.mitigation, "before_promotion", go_on):
        yield PromotionEnds()
        return False
    freed = yield from k.arch.pmd_free_pte_page(k, pmdp, addr)
    if freed:
        yield from k.arch.set_pxd(k, pmdp, block)
    yield from k.mitigation.after_promotion(k.in_role(PROMOTION), Level.PMD)
    yield PromotionEnds()
    return bool(freed)


def vmap_pmd_range(
    k: Kernel, pudp: Address, addr: int, end: int, phys_addr: int, prot: int, max_page_shift: int
) -> Steps[int]:
    """Map a range that one PUD entry covers; return 0 or -ENOMEM."""
    pmdp = yield from pmd_alloc(k, pudp, addr)
    if pmdp is None:
        return -ENOMEM
    while addr != end:
        following = k.geometry.addr_end(Level.PMD, addr, end)
        huge = yield from vmap_try_huge_pmd(k, pmdp, addr, following, phys_addr, prot, max_page_shift)
        if not huge:
            err = yield from vmap_pte_range(k, pmdp, addr, following, phys_addr, prot, max_page_shift)
            if err:
                return int(err)
        pmdp += 1
        phys_addr += following - addr
        addr = following
    return 0


def vmap_try_huge_pud(
    k: Kernel, pudp: Address, addr: int, end: int, phys_addr: int, prot: int, max_page_shift: int
) -> Steps[bool]:
    """Map a range by one PUD entry if that is possible, freeing the tables in its place; return whether it was."""
    if k.geometry.folded(Level.PUD) or not k.arch.arch_vmap_pud_supported(k):
        return False
    if not _block_fits(k, Level.PUD, addr, end, phys_addr, max_page_shift):
        return False
    pud = yield Load(pudp)
    block = mk_leaf(phys_addr >> k.geometry.page_shift, prot)
    if pxd_none(pud):
        yield from k.arch.set_pxd(k, pudp, block)
        return True
    _warn_on_leaf(pud, pudp, addr)
    yield PromotionBegins()
    go_on = yield from k.mitigation.before_promotion(k.in_role(PROMOTION), Level.PUD)
    if not answer(k.mitigation, "before_promotion", go_on):
        yield PromotionEnds()
        return False
    freed = yield from k.arch.pud_free_pmd_page(k, pudp, addr)
    if freed:
        yield from k.arch.set_pxd(k, pudp, block)
    yield from k.mitigation.after_promotion(k.in_role(PROMOTION), Level.PUD)
    yield PromotionEnds()
    return bool(freed)


def vmap_pud_range(
    k: Kernel, p4dp: Address, addr: int, end: int, phys_addr: int, prot: int, max_page_shift: int
) -> Steps[int]:
    """Map a range that one P4D entry covers; return 0 or -ENOMEM."""
    pudp = yield from pud_alloc(k, p4dp, addr)
    if pudp is None:
        return -ENOMEM
    while addr != end:
        following = k.geometry.addr_end(Level.PUD, addr, end)
        huge = yield from vmap_try_huge_pud(k, pudp, addr, following, phys_addr, prot, max_page_shift)
        if not huge:
            err = yield from vmap_pmd_range(k, pudp, addr, following, phys_addr, prot, max_page_shift)
            if err:
                return int(err)
        pudp += 1
        phys_addr += following - addr
        addr = following
    return 0


def vmap_try_huge_p4d(
    k: Kernel, p4dp: Address, addr: int, end: int, phys_addr: int, prot: int, max_page_shift: int
) -> Steps[bool]:
    """Map a range by one P4D entry if that is possible, freeing the tables in its place; return whether it was."""
    if k.geometry.folded(Level.P4D) or not k.arch.arch_vmap_p4d_supported(k):
        return False
    if not _block_fits(k, Level.P4D, addr, end, phys_addr, max_page_shift):
        return False
    p4d = yield Load(p4dp)
    block = mk_leaf(phys_addr >> k.geometry.page_shift, prot)
    if pxd_none(p4d):
        yield from k.arch.set_pxd(k, p4dp, block)
        return True
    _warn_on_leaf(p4d, p4dp, addr)
    yield PromotionBegins()
    go_on = yield from k.mitigation.before_promotion(k.in_role(PROMOTION), Level.P4D)
    if not answer(k.mitigation, "before_promotion", go_on):
        yield PromotionEnds()
        return False
    freed = yield from k.arch.p4d_free_pud_page(k, p4dp, addr)
    if freed:
        yield from k.arch.set_pxd(k, p4dp, block)
    yield from k.mitigation.after_promotion(k.in_role(PROMOTION), Level.P4D)
    yield PromotionEnds()
    return bool(freed)


def vmap_p4d_range(
    k: Kernel, pgdp: Address, addr: int, end: int, phys_addr: int, prot: int, max_page_shift: int
) -> Steps[int]:
    """Map a range that one PGD entry covers; return 0 or -ENOMEM."""
    p4dp = yield from p4d_alloc(k, pgdp, addr)
    if p4dp is None:
        return -ENOMEM
    while addr != end:
        following = k.geometry.addr_end(Level.P4D, addr, end)
        huge = yield from vmap_try_huge_p4d(k, p4dp, addr, following, phys_addr, prot, max_page_shift)
        if not huge:
            err = yield from vmap_pud_range(k, p4dp, addr, following, phys_addr, prot, max_page_shift)
            if err:
                return int(err)
        p4dp += 1
        phys_addr += following - addr
        addr = following
    return 0


def vmap_range(k: Kernel, addr: int, end: int, phys_addr: int, prot: int, max_page_shift: int) -> Steps[int]:
    """Map [addr, end) to physical memory, with entries that map up to 1 << max_page_shift bytes each.

    Return 0, or -ENOMEM where a table could not be allocated: what was mapped by then stays, and the caller unmaps it.

    Raises ModelError map-over-mapping where part of the range is mapped already.
    """
    pgdp = pgd_offset_k(k, addr)
    while addr != end:
        following = k.geometry.addr_end(Level.PGD, addr, end)
        err = yield from vmap_p4d_range(k, pgdp, addr, following, phys_addr, prot, max_page_shift)
        if err:
            return int(err)
        pgdp += 1
        phys_addr += following - addr
        addr = following
    return 0


# Unmapping


def vunmap_pte_range(k: Kernel, pmd: int, addr: int, end: int) -> Steps[None]:
    """Clear the PTEs of a range, a contiguous block as a whole.

    Raises ModelError partial-unmap where a block begins before the range or ends after it. Entering lazy MMU mode, as
    the kernel does here, puts nothing off: an entry that is cleared has no barriers.
    """
    page_size = k.geometry.size(Level.PTE)
    ptep = pxd_pgtable(pmd) + k.geometry.index(Level.PTE, addr)
    while addr != end:
        size = yield from k.arch.arch_vmap_pte_range_unmap_size(k, addr, ptep)
        if size == page_size:
            yield ptep_get_and_clear(ptep)
        else:
            if addr & (size - 1):
                raise ModelError(PARTIAL_UNMAP, f"{addr:#x} is inside a contiguous block", address=ptep)
            yield from k.arch.huge_ptep_get_and_clear(k, addr, ptep, size)
            if end - addr < size:
                raise ModelError(PARTIAL_UNMAP, f"the contiguous block of {addr:#x} ends after {end:#x}", address=ptep)
        ptep += size >> k.geometry.page_shift
        addr += size


def vunmap_pmd_range(k: Kernel, pud: int, addr: int, end: int) -> Steps[None]:
    """Clear the entries of a range that one PUD entry covers."""
    if k.geometry.folded(Level.PMD):
        return (yield from vunmap_pte_range(k, pud, addr, end))
    while addr != end:
        following = k.geometry.addr_end(Level.PMD, addr, end)
        pmdp = pxd_pgtable(pud) + k.geometry.index(Level.PMD, addr)
        pmd = yield Load(pmdp)
        if pxd_leaf(pmd):
            yield Store(pmdp, 0)
        elif not pxd_none(pmd):
            yield from vunmap_pte_range(k, pmd, addr, following)
        addr = following


def vunmap_pud_range(k: Kernel, p4d: int, addr: int, end: int) -> Steps[None]:
    """Clear the entries of a range that one P4D entry covers."""
    if k.geometry.folded(Level.PUD):
        return (yield from vunmap_pmd_range(k, p4d, addr, end))
    while addr != end:
        following = k.geometry.addr_end(Level.PUD, addr, end)
        pudp = pxd_pgtable(p4d) + k.geometry.index(Level.PUD, addr)
        pud = yield Load(pudp)
        if pxd_leaf(pud):
            yield Store(pudp, 0)
        elif not pxd_none(pud):
            yield from vunmap_pmd_range(k, pud, addr, following)
        addr = following


def vunmap_p4d_range(k: Kernel, pgd: int, addr: int, end: int) -> Steps[None]:
    """Clear the entries of a range that one PGD entry covers."""
    if k.geometry.folded(Level.P4D):
        return (yield from vunmap_pud_range(k, pgd, addr, end))
    while addr != end:
        following = k.geometry.addr_end(Level.P4D, addr, end)
        p4dp = pxd_pgtable(pgd) + k.geometry.index(Level.P4D, addr)
        p4d = yield Load(p4dp)
        if pxd_leaf(p4d):
            yield Store(p4dp, 0)
        elif not pxd_none(p4d):
            yield from vunmap_pud_range(k, p4d, addr, following)
        addr = following


def vunmap_range_noflush(k: Kernel, addr: int, end: int) -> Steps[None]:
    """Clear the entries of a range and leave the tables, empty."""
    while addr != end:
        following = k.geometry.addr_end(Level.PGD, addr, end)
        pgdp = pgd_offset_k(k, addr)
        pgd = yield Load(pgdp)
        if pxd_leaf(pgd):
            # a PMD block, where PMD is folded into the root
            yield Store(pgdp, 0)
        elif not pxd_none(pgd):
            yield from vunmap_p4d_range(k, pgd, addr, following)
        addr = following


def vunmap_range(k: Kernel, addr: int, end: int) -> Steps[None]:
    """Unmap a range and flush it from the TLBs."""
    yield from vunmap_range_noflush(k, addr, end)
    yield from k.arch.flush_tlb_kernel_range(k, addr, end, "unmap-flush-tlbi")
