"""Which version of a kernel function a kernel has, where releases differ and the model knows more than one."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.machine.program import Constant


@dataclass(frozen=True)
class Functions(Constant):
    """The choices of one kernel. As it stands here it is the kernel that mitigations are tried on.

    That is Linux 6.12 with all that the race takes: arm64 maps blocks beside ptdump, and x86_64 collapses pages into
    blocks, which came with 6.15.
    """

    huge_vmap_beside_ptdump: bool = True
    """Whether arm64's arch_vmap_pmd_supported and arch_vmap_pud_supported leave CONFIG_PTDUMP_DEBUGFS aside.

    False is arch/arm64/include/asm/vmalloc.h to 6.17: no blocks where ptdump is configured, as it is in the model.
    """
    pud_free_detaches_first: bool = False
    """Whether x86_64's pud_free_pmd_page clears the PUD before it looks at the PMDs, and leaves these as they are.

    False is arch/x86/mm/pgtable.c of 6.12: each PMD is saved and cleared, and then the PUD. True is 7.3.
    """
    collapses: bool = True
    """Whether x86_64's set_memory_rox collapses pages into blocks (cpa_collapse_large_pages)."""
    collapse_holds_cpa_lock: bool = False
    """Whether cpa_lock is held over collapse, flush and free (__cpa_collapse_large_pages of 7.3)."""
    flushes_all_at_limit: bool = False
    """Whether arm64's flush_tlb_kernel_range flushes all TLBs for MAX_DVM_OPS pages already, as in 6.18 and 7.3.

    False is arch/arm64/include/asm/tlbflush.h of 6.12: for more pages than that.
    """
    splits_kernel_mappings: bool = False
    """Whether arm64's set_memory_* splits blocks at the ends of a range, and then walks it with no lock (since 6.18).

    False is arch/arm64/mm/pageattr.c of 6.12: apply_to_page_range, which stops at a block.
    """
    split_spares_kfence: bool = False
    """Whether arm64's split returns for pages of KFENCE's pool before it takes its mutex (since November 2025)."""
    hot_add_constructs: bool = False
    """Whether the tables that arm64 makes for added memory have their constructor (since 6.16)."""
    hot_remove_destructs: bool = False
    """Whether arm64's hot-remove calls the destructor of a table before it frees it (since 7.1)."""
    split_constructs: bool = False
    """Whether CPA's split_large_page allocates its table as a page table, with its constructor (7.3)."""
    hot_remove_unlinks_first: bool = False
    """Whether x86_64's hot-remove and KASAN clear and flush an entry before they free its table: in no release."""
    text_poke_locks_init_mm: bool = False
    """Whether text poking holds init_mm's lock while it looks up a page of code in the vmalloc area (x86_64, 7.3)."""


BASE = Functions()
"""What mitigations are tried on."""
