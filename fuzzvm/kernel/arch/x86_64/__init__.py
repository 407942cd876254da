"""x86_64 (arch/x86/mm/pgtable.c, dump_pagetables.c; Linux 6.12). Each of its other parts is a file of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.arch import Architecture, DumpRow
from fuzzvm.kernel.arch.x86_64 import alternative, hot_remove, pgtable, set_memory, tlbflush
from fuzzvm.kernel.dump_text import dump_text
from fuzzvm.kernel.pgtable import (
    PROT_DEVICE,
    PROT_EXEC,
    PROT_WRITE,
    Level,
    pxd_pgprot,
)
from fuzzvm.machine.ops import Address, Steps, Store
from fuzzvm.machine.tlb import Reach, Scope, TlbRules, size_with_another_change

if TYPE_CHECKING:
    from fuzzvm.kernel.functions import Functions
    from fuzzvm.kernel.kernel import Boot, Kernel


@dataclass(frozen=True, slots=True)
class X86Data:
    """What there is on x86 alone: the locks of CPA, and what is being patched."""

    cpa: set_memory.CpaLocks
    bp_desc: Address


class X86(Architecture):
    """x86-64 with four or five levels (CONFIG_X86_5LEVEL)."""

    name = "x86_64"
    memory = "tso"
    page_shifts: ClassVar[dict[str, int]] = {"4K": 12}
    levels = (4, 5)
    vmalloc_start = 0xFFFF_C900_0000_0000
    collapses = True
    reads_entries_once = False
    # efi_sync_low_kernel_mappings(), pgd_ctor()
    mms_sharing_kernel_tables = ("efi_mm", "current_mm")
    branch = alternative.JMP8
    tlb = TlbRules(
        operations={
            # and all paging-structure caches, whatever the address (SDM vol. 3A 4.10.4.1)
            "invlpg": Scope(Reach.COVERING, Reach.ALL),
            "mov cr4": Scope(Reach.ALL, Reach.ALL),
        },
        broadcast=False,
        conflict=size_with_another_change,
    )

    def vmalloc_start_of(self, levels: int) -> int:
        # __VMALLOC_BASE_L5: as for the direct map, there is more room
        return 0xFFA0_0000_0000_0000 if levels == 5 else self.vmalloc_start

    def attach(self, boot: Boot, functions: Functions) -> X86Data:
        return X86Data(set_memory.make_locks(boot), boot.word("bp_desc"))

    def arch_vmap_p4d_supported(self, k: Kernel) -> bool:
        return False

    def arch_vmap_pud_supported(self, k: Kernel) -> bool:
        # boot_cpu_has(X86_FEATURE_GBPAGES)
        return True

    def arch_vmap_pmd_supported(self, k: Kernel) -> bool:
        # boot_cpu_has(X86_FEATURE_PSE)
        return True

    def set_pxd(self, k: Kernel, pxdp: Address, entry: int) -> Steps[None]:
        yield Store(pxdp, entry)

    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        return pgtable.pmd_free_pte_page(k, pmdp, addr)

    def pud_free_pmd_page(self, k: Kernel, pudp: Address, addr: int) -> Steps[bool]:
        return pgtable.pud_free_pmd_page(k, pudp, addr)

    def p4d_free_pud_page(self, k: Kernel, p4dp: Address, addr: int) -> Steps[bool]:
        # 512 GB blocks are not there yet: arch/x86/mm/pgtable.c has a stub that returns 0
        yield from ()
        return False

    def arch_remove_memory(self, k: Kernel, start: int, end: int) -> Steps[None]:
        return hot_remove.remove_pagetable(k, start, end)

    def flush_tlb_kernel_range(self, k: Kernel, start: int, end: int, point: str = "") -> Steps[None]:
        yield from tlbflush.flush_tlb_kernel_range(k, start, end, point)

    def set_memory_ro(self, k: Kernel, addr: int, numpages: int) -> Steps[int]:
        return (yield from set_memory.set_memory_ro(k, k.arch_data.cpa, addr, numpages))

    def set_memory_rox(self, k: Kernel, addr: int, numpages: int) -> Steps[int]:
        return (yield from set_memory.set_memory_rox(k, k.arch_data.cpa, addr, numpages))

    def arch_jump_label_transform(self, k: Kernel, sites: tuple[Address, ...], instruction: int) -> Steps[None]:
        # HAVE_JUMP_LABEL_BATCH: all sites of a key are queued, and then patched together
        opcode = alternative.encode(instruction)
        yield from alternative.text_poke_bp_batch(k, k.arch_data.bp_desc, sites, opcode)

    def trap(self, k: Kernel, site: Address, instruction: int) -> Steps[int]:
        return (yield from alternative.execute(k, k.arch_data.bp_desc, site, instruction))

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
