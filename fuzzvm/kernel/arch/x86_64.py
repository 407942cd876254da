"""x86_64 (arch/x86/mm/pgtable.c, dump_pagetables.c, kernel/alternative.c; Linux 6.12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.arch import Architecture, DumpRow
from fuzzvm.kernel.dump_text import dump_text
from fuzzvm.kernel.errors import MAP_OVER_MAPPING
from fuzzvm.kernel.pgtable import (
    PROT_DEVICE,
    PROT_EXEC,
    PROT_WRITE,
    Level,
    pxd_leaf,
    pxd_none,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, InterruptAll, Load, Steps, Store, Tlbi
from fuzzvm.machine.tlb import Reach, Scope, TlbRules, size_with_another_change

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


TLB_SINGLE_PAGE_FLUSH_CEILING = 33
"""Pages past which a range is not flushed one by one (arch/x86/mm/tlb.c)."""


class X86(Architecture):
    """x86-64 with four levels."""

    name = "x86_64"
    memory = "tso"
    page_shifts: ClassVar[dict[str, int]] = {"4K": 12}
    levels = (4,)
    vmalloc_start = 0xFFFF_C900_0000_0000
    # efi_sync_low_kernel_mappings()
    mms_sharing_kernel_tables = ("efi_mm",)
    tlb = TlbRules(
        operations={
            # and all paging-structure caches, whatever the address (SDM vol. 3A 4.10.4.1)
            "invlpg": Scope(Reach.COVERING, Reach.ALL),
            "mov cr4": Scope(Reach.ALL, Reach.ALL),
        },
        broadcast=False,
        conflict=size_with_another_change,
    )

    def arch_vmap_p4d_supported(self) -> bool:
        return False

    def arch_vmap_pud_supported(self) -> bool:
        # boot_cpu_has(X86_FEATURE_GBPAGES)
        return True

    def arch_vmap_pmd_supported(self) -> bool:
        # boot_cpu_has(X86_FEATURE_PSE)
        return True

    def set_pxd(self, k: Kernel, pxdp: Address, entry: int) -> Steps[None]:
        yield Store(pxdp, entry)

    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        pmd = yield Load(pmdp)
        token = yield from k.mitigation.before_clear(k, Level.PMD)
        yield Store(pmdp, 0)
        # INVLPG clears the paging-structure caches
        yield from self.flush_tlb_kernel_range(k, addr, addr + k.geometry.size(Level.PTE))
        yield from k.mitigation.before_free(k, Level.PMD, token)
        yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)
        yield from k.mitigation.after_free(k, Level.PMD, token)
        return True

    def pud_free_pmd_page(self, k: Kernel, pudp: Address, addr: int) -> Steps[bool]:
        pud = yield Load(pudp)
        table = pxd_pgtable(pud)
        token = yield from k.mitigation.before_clear(k, Level.PUD)
        # pmd_sv: the entries are saved and cleared first, and the tables freed only after the flush
        saved: tuple[int, ...] = ()
        index = 0
        while index < k.geometry.ptrs[Level.PMD]:
            pmd = yield Load(table + index)
            saved = (*saved, pmd)
            if pxd_leaf(pmd):
                # the kernel does not look, and would free the page that the block maps
                raise ModelError(MAP_OVER_MAPPING, f"a block of {addr:#x} is replaced while mapped", address=table)
            if not pxd_none(pmd):
                yield Store(table + index, 0)
            index += 1
        yield Store(pudp, 0)
        yield from self.flush_tlb_kernel_range(k, addr, addr + k.geometry.size(Level.PTE))
        yield from k.mitigation.before_free(k, Level.PUD, token)
        index = 0
        while index < len(saved):
            if pxd_table(saved[index]):
                yield from k.mitigation.free_table(k, pxd_pgtable(saved[index]), Level.PMD)
            index += 1
        yield from k.mitigation.free_table(k, table, Level.PUD)
        yield from k.mitigation.after_free(k, Level.PUD, token)
        return True

    def p4d_free_pud_page(self, k: Kernel, p4dp: Address, addr: int) -> Steps[bool]:
        # 512 GB blocks are not there yet: arch/x86/mm/pgtable.c has a stub that returns 0
        yield from ()
        return False

    def flush_tlb_kernel_range(self, k: Kernel, start: int, end: int) -> Steps[None]:
        # on_each_cpu(do_kernel_range_flush): an IPI to all, INVLPG for each page there
        if end - start > TLB_SINGLE_PAGE_FLUSH_CEILING * k.geometry.size(Level.PTE):
            # do_flush_tlb_all(): CR4.PGE off and on again
            yield Tlbi("mov cr4", 0)
            start = end
        addr = start
        while addr < end:
            yield Tlbi("invlpg", addr)
            addr += k.geometry.size(Level.PTE)
        yield InterruptAll()

    def patch_text(self, k: Kernel, site: Address, instruction: int) -> Steps[None]:
        yield Store(site, instruction)

    def patch_text_sync(self, k: Kernel) -> Steps[None]:
        # text_poke_sync()
        yield InterruptAll()

    def format_dump(self, rows: Sequence[DumpRow]) -> str:
        return dump_text(rows, units="BKMGTPE", markers=("vmalloc() Area", "Vmemmap"), describe=_describe)


def _describe(row: DumpRow) -> str:
    """Return attributes and level as printk_prot() prints them."""
    level = row.level.name.lower()
    if not row.entry:
        return " " * 30 + level
    prot = pxd_pgprot(row.entry)
    fields = [
        "   ",
        "RW" if prot & PROT_WRITE else "ro",
        "   ",
        "PCD" if prot & PROT_DEVICE else "   ",
        "PSE" if row.level < Level.PTE else "   ",
        "   ",
        "GLB",
        "x " if prot & PROT_EXEC else "NX",
        level,
    ]
    return " ".join(fields)


ARCHITECTURE = X86()
