"""arm64 (arch/arm64/mm/{mmu,ptdump,hugetlbpage}.c, include/asm/{vmalloc,tlbflush,pgtable}.h; Linux 6.12 and 6.18)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.arch import Architecture, DumpRow
from fuzzvm.kernel.arch.arm64 import hot_remove, pageattr
from fuzzvm.kernel.arch.arm64.flush import flush_tlb_kernel_pgtable
from fuzzvm.kernel.dump_text import dump_text
from fuzzvm.kernel.interrupts import csd_lock_wait
from fuzzvm.kernel.patching import patch_text
from fuzzvm.kernel.pgtable import (
    PROT_DEVICE,
    PROT_EXEC,
    PROT_WRITE,
    PTE_CONT,
    Geometry,
    Level,
    mk_leaf,
    ptep_get_and_clear,
    pxd_cont,
    pxd_leaf,
    pxd_none,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.machine.ops import (
    Address,
    Barrier,
    Fence,
    InterruptAll,
    Load,
    Order,
    Steps,
    Store,
    Tlbi,
)
from fuzzvm.machine.tlb import Reach, Scope, TlbRules, break_before_make

if TYPE_CHECKING:
    from fuzzvm.kernel.functions import Functions
    from fuzzvm.kernel.kernel import Boot, Kernel


LEVELS: dict[str, tuple[int, ...]] = {"4K": (3, 4, 5), "16K": (2, 3, 4), "64K": (2, 3)}
"""CONFIG_PGTABLE_LEVELS by page size, over all CONFIG_ARM64_VA_BITS; five levels are LPA2's 52 bits of 4K pages."""

CONTIGUOUS: dict[int, tuple[int, int]] = {12: (16, 16), 14: (128, 32), 16: (32, 32)}
"""CONT_PTES and CONT_PMDS by page shift (CONFIG_ARM64_CONT_{PTE,PMD}_SHIFT)."""


class Arm64(Architecture):
    """AArch64; the object itself is of a kernel with 4K pages, `configured` gives that of another geometry."""

    name = "arm64"
    memory = "arm64"
    page_shifts: ClassVar[dict[str, int]] = {"4K": 12, "16K": 14, "64K": 16}
    levels = LEVELS["4K"]
    vmalloc_start = 0xFFFF_8000_0000_0000
    has_contiguous_blocks = True
    tlb = TlbRules(
        operations={
            "vaae1is": Scope(Reach.COVERING, Reach.COVERING),
            # the last level only
            "vaale1is": Scope(Reach.COVERING, Reach.NONE),
            "vmalle1is": Scope(Reach.ALL, Reach.ALL),
        },
        broadcast=True,
        conflict=break_before_make,
    )

    def __init__(self, page_shift: int = 12) -> None:
        self._page_shift = page_shift

    def levels_with(self, page_size: str) -> tuple[int, ...]:
        return LEVELS[page_size]

    def contiguous_entries(self, page_shift: int, fanout: int) -> tuple[int, int]:
        # a table is a page of 8-byte entries. A fan-out that is scaled down has no natural block: a sixteenth of it is
        # less than an entry, so blocks are there only where the scenario asks for them
        return CONTIGUOUS[page_shift] if fanout == 1 << (page_shift - 3) else (1, 1)

    def configured(self, geometry: Geometry) -> Arm64:
        return type(self)(geometry.page_shift)

    def attach(self, boot: Boot, functions: Functions) -> pageattr.Arm64Data | None:
        return pageattr.Arm64Data(boot.lock("pgtable_split_lock")) if functions.splits_kernel_mappings else None

    # <asm/vmalloc.h>

    def arch_vmap_p4d_supported(self, k: Kernel) -> bool:
        return False

    def arch_vmap_pud_supported(self, k: Kernel) -> bool:
        # pud_sect_supported(): 4K pages. With three levels the PUD is the root's entry, which vmap leaves alone here
        return self._page_shift == 12 and k.mitigation.functions.huge_vmap_beside_ptdump

    def arch_vmap_pmd_supported(self, k: Kernel) -> bool:
        return k.mitigation.functions.huge_vmap_beside_ptdump

    def arch_vmap_pte_range_map_size(self, k: Kernel, addr: int, end: int, pfn: int, max_page_shift: int) -> int:
        page_size, size = k.geometry.size(Level.PTE), k.geometry.cont_size(Level.PTE)
        if max_page_shift < k.geometry.cont_pte_shift or end - addr < size:
            return page_size
        return page_size if addr % size or (pfn << k.geometry.page_shift) % size else size

    def arch_vmap_pte_range_unmap_size(self, k: Kernel, addr: int, ptep: Address) -> Steps[int]:
        if k.geometry.cont_ptes == 1:
            return k.geometry.size(Level.PTE)
        pte = yield Load(ptep)
        return k.geometry.cont_size(Level.PTE) if pxd_cont(pte) else k.geometry.size(Level.PTE)

    def arch_vmap_pte_supported_shift(self, k: Kernel, size: int) -> int:
        return k.geometry.cont_pte_shift if size >= k.geometry.cont_size(Level.PTE) else k.geometry.page_shift

    # <asm/pgtable.h>

    def set_pxd(self, k: Kernel, pxdp: Address, entry: int) -> Steps[None]:
        yield Store(pxdp, entry)
        # emit_pte_barriers(): a valid kernel entry must be seen by the walks that follow, with no fault to retry them
        yield Fence(Barrier.DSB_ISHST)
        yield Fence(Barrier.ISB)

    def set_pte_lazily(self, k: Kernel, ptep: Address, pte: int) -> Steps[None]:
        # queue_pte_barriers(): TIF_LAZY_MMU_PENDING
        yield Store(ptep, pte)

    def arch_leave_lazy_mmu_mode(self, k: Kernel) -> Steps[None]:
        yield from emit_pte_barriers()

    # hugetlbpage.c

    def arch_make_huge_pte(self, k: Kernel, pte: int, size: int) -> int:
        _, ncontig = num_contig_ptes(k.geometry, size)
        return pte if ncontig == 1 else pte | PTE_CONT

    def set_huge_pte_at(
        self, k: Kernel, addr: int, ptep: Address, pte: int, size: int, *, lazy: bool = False
    ) -> Steps[None]:
        pgsize, ncontig = num_contig_ptes(k.geometry, size)
        if pxd_cont(pte):
            old = yield Load(ptep)
            if pxd_leaf(old):
                # valid to valid: hardware must not see two sizes, or two outputs, for one address (break-before-make)
                yield from self._clear_flush(k, addr, ptep, pgsize, ncontig)
        yield from self._set_ptes_anysz(k, ptep, pte, ncontig, pgsize, lazy=lazy)

    def huge_ptep_get_and_clear(self, k: Kernel, addr: int, ptep: Address, size: int) -> Steps[int]:
        _, ncontig = num_contig_ptes(k.geometry, size)
        return (yield from get_clear_contig(ptep, ncontig))

    def _clear_flush(self, k: Kernel, addr: int, ptep: Address, pgsize: int, ncontig: int) -> Steps[None]:
        yield from get_clear_contig(ptep, ncontig)
        # mm == &init_mm: flush_tlb_range() would name an ASID, which no kernel mapping has
        yield from self.flush_tlb_kernel_range(k, addr, addr + pgsize * ncontig)

    def _set_ptes_anysz(self, k: Kernel, ptep: Address, pte: int, nr: int, pgsize: int, *, lazy: bool) -> Steps[None]:
        prot, stride = pxd_pgprot(pte), pgsize >> k.geometry.page_shift
        index = 0
        while index < nr:
            # __set_pte_nosync()
            yield Store(ptep + index, mk_leaf(pxd_pfn(pte) + index * stride, prot))
            index += 1
        # __set_pte_complete(), hoisted out of the loop
        if not lazy:
            yield from emit_pte_barriers()

    # pageattr.c

    def update_range_prot(self, k: Kernel, start: int, end: int, set_mask: int, clear_mask: int) -> Steps[int]:
        if k.mitigation.functions.splits_kernel_mappings:
            return (yield from pageattr.update_range_prot(k, start, end, set_mask, clear_mask))
        return (yield from super().update_range_prot(k, start, end, set_mask, clear_mask))

    def kfence_protect_page(self, k: Kernel, addr: int) -> Steps[int]:
        return (yield from pageattr.kfence_protect_page(k, addr))

    # mmu.c

    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        pmd = yield Load(pmdp)
        if not pxd_table(pmd):
            return True
        token = yield from k.mitigation.before_clear(k, Level.PMD)
        yield Store(pmdp, 0, Order.PLAIN, "free-clear")
        yield from k.mitigation.after_clear(k, Level.PMD, token)
        yield from flush_tlb_kernel_pgtable(addr, Level.PMD)
        yield from k.mitigation.before_free(k, Level.PMD, token)
        yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)
        yield from k.mitigation.after_free(k, Level.PMD, token)
        return True

    def pud_free_pmd_page(self, k: Kernel, pudp: Address, addr: int) -> Steps[bool]:
        pud = yield Load(pudp)
        if not pxd_table(pud):
            return True
        table = pxd_pgtable(pud)
        if not k.mitigation.isolates_first:
            yield from self._free_pte_tables(k, table, addr)
        token = yield from k.mitigation.before_clear(k, Level.PUD)
        yield Store(pudp, 0, Order.PLAIN, "free-clear")
        yield from k.mitigation.after_clear(k, Level.PUD, token)
        yield from flush_tlb_kernel_pgtable(addr, Level.PUD)
        yield from k.mitigation.before_free(k, Level.PUD, token)
        if k.mitigation.isolates_first:
            yield from self._free_isolated_pte_tables(k, table, addr)
        yield from k.mitigation.free_table(k, table, Level.PUD)
        yield from k.mitigation.after_free(k, Level.PUD, token)
        return True

    def p4d_free_pud_page(self, k: Kernel, p4dp: Address, addr: int) -> Steps[bool]:
        # a P4D is never a block on arm64, so generic code does not get here
        yield from ()
        return False

    def _free_pte_tables(self, k: Kernel, table: Address, addr: int) -> Steps[None]:
        index = 0
        while index < k.geometry.ptrs[Level.PMD]:
            pmd = yield Load(table + index)
            if not pxd_none(pmd):
                yield from self.pmd_free_pte_page(k, table + index, addr + index * k.geometry.size(Level.PMD))
            index += 1

    def _free_isolated_pte_tables(self, k: Kernel, table: Address, addr: int) -> Steps[None]:
        # the PMD table is out of reach of new walkers, and the hook before its free has waited for the old ones
        index = 0
        while index < k.geometry.ptrs[Level.PMD]:
            pmd = yield Load(table + index)
            if pxd_table(pmd):
                yield Store(table + index, 0)
                yield from flush_tlb_kernel_pgtable(addr + index * k.geometry.size(Level.PMD), Level.PMD)
                yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)
            index += 1

    def arch_remove_memory(self, k: Kernel, start: int, end: int) -> Steps[None]:
        return hot_remove.remove_pgd_mapping(k, start, end)

    def flush_tlb_kernel_range(self, k: Kernel, start: int, end: int, point: str = "") -> Steps[None]:
        yield Fence(Barrier.DSB_ISHST)
        # MAX_DVM_OPS is PTRS_PER_PTE: past it, or from there on, flush_tlb_all()
        limit = k.geometry.ptrs[Level.PTE] * k.geometry.size(Level.PTE)
        if end - start > limit or (end - start == limit and k.mitigation.functions.flushes_all_at_limit):
            yield Tlbi("vmalle1is", 0, point)
            start = end
        addr = start
        while addr < end:
            yield Tlbi("vaale1is", addr, point)
            addr += k.geometry.size(Level.PTE)
        yield Fence(Barrier.DSB_ISH)
        yield Fence(Barrier.ISB)

    def arch_jump_label_transform(self, k: Kernel, sites: tuple[Address, ...], instruction: int) -> Steps[None]:
        index = 0
        while index < len(sites):
            yield from patch_text(sites[index], instruction)
            index += 1
        yield from self.patch_text_sync(k)

    def patch_text_sync(self, k: Kernel) -> Steps[None]:
        """Make every CPU see the text patched so far (arch_jump_label_transform_apply)."""
        # kick_all_cpus_sync()
        yield from csd_lock_wait(k)
        yield InterruptAll("patch-ipi")

    def format_dump(self, rows: Sequence[DumpRow]) -> str:
        return dump_text(rows, units="KMGTPE", markers=("vmalloc() area", "vmalloc() end"), describe=_describe)


def emit_pte_barriers() -> Steps[None]:
    """Make the entries written so far visible to the table walker, and drop what was fetched before."""
    yield Fence(Barrier.DSB_ISHST)
    yield Fence(Barrier.ISB)


def num_contig_ptes(geometry: Geometry, size: int) -> tuple[int, int]:
    """Return the bytes that each entry of a mapping of `size` bytes maps, and how many entries it has."""
    for level in (Level.PMD, Level.PTE):
        if geometry.cont(level) > 1 and size == geometry.cont_size(level):
            return geometry.size(level), geometry.cont(level)
    return size, 1


def get_clear_contig(ptep: Address, ncontig: int) -> Steps[int]:
    """Clear the entries of a block one by one, with no flush; return what the first one was."""
    pte = yield ptep_get_and_clear(ptep)
    index = 1
    while index < ncontig:
        yield ptep_get_and_clear(ptep + index)
        index += 1
    return int(pte)


def _describe(row: DumpRow) -> str:
    """Return level and attributes as dump_prot() prints them; a hole has a level only."""
    if not row.entry:
        return f"{row.level.name}"
    prot = pxd_pgprot(row.entry)
    fields = [
        " ",
        "   ",
        "RW" if prot & PROT_WRITE else "ro",
        "x " if prot & PROT_EXEC else "NX",
        "SHD",
        "AF",
        "  ",
        "CON" if pxd_cont(row.entry) else "   ",
        "   " if row.level == Level.PTE else "BLK",
        "UXN",
        "  ",
        "DEVICE/nGnRE" if prot & PROT_DEVICE else "MEM/NORMAL",
    ]
    # an entry of the root is a block only where all levels to PMD are folded into it; ptdump notes it as the lowest
    # one's, and a hole as the root's (real_depth())
    level = Level.PMD if row.level == Level.PGD else row.level
    return " ".join([level.name, *fields])


ARCHITECTURE = Arm64()
