"""arm64 (arch/arm64/mm/mmu.c, ptdump.c, include/asm/{vmalloc,tlbflush,pgtable}.h; Linux 6.12 and 6.18)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.arch import Architecture, DumpRow
from fuzzvm.kernel.dump_text import dump_text
from fuzzvm.kernel.pgtable import (
    PROT_DEVICE,
    PROT_EXEC,
    PROT_WRITE,
    Level,
    pxd_none,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.machine.ops import (
    Address,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    InterruptAll,
    Load,
    Steps,
    Store,
    Tlbi,
)

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


class Arm64(Architecture):
    """AArch64 with 4K pages, three or four levels."""

    name = "arm64"
    memory = "arm64"
    page_shifts: ClassVar[dict[str, int]] = {"4K": 12}
    levels = (3, 4)
    vmalloc_start = 0xFFFF_8000_0000_0000

    def arch_vmap_p4d_supported(self) -> bool:
        return False

    def arch_vmap_pud_supported(self) -> bool:
        # pud_sect_supported(): 4K pages; with three levels there is no PUD to be a block
        return True

    def arch_vmap_pmd_supported(self) -> bool:
        return True

    def set_pxd(self, k: Kernel, pxdp: Address, entry: int) -> Steps[None]:
        yield Store(pxdp, entry)
        # a valid kernel entry must be seen by the walks that follow, with no fault to retry them
        yield Fence(Barrier.DSB_ISHST)
        yield Fence(Barrier.ISB)

    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        pmd = yield Load(pmdp)
        if not pxd_table(pmd):
            return True
        token = yield from k.mitigation.before_clear(k, Level.PMD)
        yield Store(pmdp, 0)
        yield from flush_tlb_kernel_pgtable(k, addr)
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
        yield Store(pudp, 0)
        yield from flush_tlb_kernel_pgtable(k, addr)
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
                yield from flush_tlb_kernel_pgtable(k, addr + index * k.geometry.size(Level.PMD))
                yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)
            index += 1

    def flush_tlb_kernel_range(self, k: Kernel, start: int, end: int) -> Steps[None]:
        yield Fence(Barrier.DSB_ISHST)
        # MAX_DVM_OPS is PTRS_PER_PTE: past it flush_tlb_all()
        if end - start > k.geometry.ptrs[Level.PTE] * k.geometry.size(Level.PTE):
            yield Tlbi("vmalle1is", 0)
            start = end
        addr = start
        while addr < end:
            yield Tlbi("vaale1is", addr)
            addr += k.geometry.size(Level.PTE)
        yield Fence(Barrier.DSB_ISH)
        yield Fence(Barrier.ISB)

    def arch_jump_label_transform(self, k: Kernel, sites: tuple[Address, ...], instruction: int) -> Steps[None]:
        index = 0
        while index < len(sites):
            yield from self.patch_text(k, sites[index], instruction)
            index += 1
        yield from self.patch_text_sync(k)

    def patch_text(self, k: Kernel, site: Address, instruction: int) -> Steps[None]:
        """Replace the instruction at a code location (arch_jump_label_transform_queue)."""
        # aarch64_insn_patch_text_nosync: write, then caches_clean_inval_pou
        yield Store(site, instruction)
        yield CacheMaintenance(CacheOperation.DC_CVAU, site)
        yield Fence(Barrier.DSB_ISH)
        yield CacheMaintenance(CacheOperation.IC_IVAU, site)
        yield Fence(Barrier.DSB_ISH)
        yield Fence(Barrier.ISB)

    def patch_text_sync(self, k: Kernel) -> Steps[None]:
        """Make every CPU see the text patched so far (arch_jump_label_transform_apply)."""
        # kick_all_cpus_sync()
        yield InterruptAll()

    def format_dump(self, rows: Sequence[DumpRow]) -> str:
        return dump_text(rows, units="KMGTPE", markers=("vmalloc() area", "vmalloc() end"), describe=_describe)


def flush_tlb_kernel_pgtable(k: Kernel, addr: int) -> Steps[None]:
    """Invalidate the walk caches' view of a table whose entry was cleared, and order the clear before what follows."""
    yield Fence(Barrier.DSB_ISHST)
    yield Tlbi("vaae1is", addr)
    yield Fence(Barrier.DSB_ISH)
    yield Fence(Barrier.ISB)


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
        "   ",
        "   " if row.level == Level.PTE else "BLK",
        "UXN",
        "  ",
        "DEVICE/nGnRE" if prot & PROT_DEVICE else "MEM/NORMAL",
    ]
    return " ".join([row.level.name, *fields])


ARCHITECTURE = Arm64()
