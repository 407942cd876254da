"""The pairs that may meet: every walker of the kernel's page tables beside everything that frees one.

Each pair is a scenario of two CPUs, called `pair-<arch>-<freer>-<walker>`, or the reason why the two are not meant to
meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from fuzzvm.kernel.efi import NAME as EFI_MM
from fuzzvm.kernel.process_mm import NAME as CURRENT_MM
from fuzzvm.scenario.calls import (
    Call,
    CatKernelPageTables,
    CatPageTables,
    CheckWxPages,
    KernelPagePresent,
    PerfPageSize,
    ReadKcore,
    SetMemoryRo,
    SetMemoryRox,
    SpuriousKernelFault,
    TextPoke,
    Vmap,
    Vunmap,
)
from fuzzvm.scenario.hotplug_calls import (
    HugetlbVmemmapOptimizeFolio,
    KexecLoad,
    PagemapRangeFails,
    PageunmapRange,
    TryRemoveMemory,
)
from fuzzvm.scenario.scenario import Scenario

ALL = ("arm64", "x86_64")
X86 = ("x86_64",)
ARM = ("arm64",)

OWNED = "who looks an address up has it mapped, and a promotion takes only what nobody has mapped"
APART = "each of the two has a part of the kernel's addresses to itself, with no table in common below the upper ones"
VMALLOC, LINEAR, SHADOW = "vmalloc area", "linear map and vmemmap", "shadow of KASAN"
"""Parts of the kernel's addresses. The model has one area, which stands for the part that a pair meets in."""


@dataclass(frozen=True)
class Walker:
    """Code that reads page tables. `owned` says that it looks up what is mapped and in use, and walks nothing else.

    `calls` makes it look at the two pages from one on, where it owns these. `parts` are those that it walks in.
    """

    name: str
    summary: str
    source: str
    calls: Callable[[int], tuple[Call, ...]]
    archs: tuple[str, ...] = ALL
    owned: bool = False
    parts: tuple[str, ...] = (VMALLOC, LINEAR, SHADOW)
    invlpgb: bool = False


@dataclass(frozen=True)
class Freer:
    """Code that frees page tables. `unmapped` says that nothing may be mapped where it does.

    `spared` is the first of two pages that somebody else may own: in the range that it changes, or next to what it
    takes away.
    """

    name: str
    summary: str
    source: str
    setup: tuple[Call, ...]
    calls: tuple[Call, ...]
    archs: tuple[str, ...] = ALL
    unmapped: bool = False
    part: str = VMALLOC
    spared: int = 0


class Pair(NamedTuple):
    """A freer beside a walker: the scenario, or `reason` says why there is none."""

    arch: str
    freer: Freer
    walker: Walker
    scenario: Scenario | None
    reason: str = ""


WALKERS = (
    Walker(
        "ptdump", "a read of kernel_page_tables", "mm/ptdump.c: ptdump_walk_pgd", lambda _: (CatKernelPageTables(),)
    ),
    Walker("check-wx", "a read of check_wx_pages", "mm/ptdump.c: check_wx_show", lambda _: (CheckWxPages(),)),
    Walker(
        "efi-dump",
        "a read of page_tables/efi, whose root leads to the kernel's tables",
        "arch/x86/mm/debug_pagetables.c: ptdump_efi_show",
        lambda _: (CatPageTables(EFI_MM),),
        X86,
    ),
    Walker(
        "current-dump",
        "a read of page_tables/current_kernel: the mm of the process that reads",
        "arch/x86/mm/debug_pagetables.c: ptdump_curknl_show",
        lambda _: (CatPageTables(CURRENT_MM),),
        X86,
    ),
    Walker(
        "attributes",
        "a change of protection, which looks up the entry of each page and may split a block",
        "arch/x86/mm/pat/set_memory.c: __change_page_attr; arch/arm64/mm/pageattr.c: update_range_prot",
        lambda page: (SetMemoryRo(page + 1, 1),),
        owned=True,
        parts=(VMALLOC, LINEAR),
    ),
    Walker(
        "text-poke",
        "patching code in the vmalloc area, such as a module's",
        "arch/x86/kernel/alternative.c: poke_vmalloc_pages",
        lambda page: (TextPoke(page + 1),),
        X86,
        owned=True,
        parts=(VMALLOC,),
    ),
    Walker(
        "kcore",
        "a read of /proc/kcore, which looks up each page of an area",
        "mm/vmalloc.c: vread_iter, vmalloc_to_page",
        lambda page: (ReadKcore(page, 2),),
        owned=True,
        parts=(VMALLOC,),
    ),
    Walker(
        "perf",
        "a sample with PERF_SAMPLE_CODE_PAGE_SIZE, interrupts off",
        "kernel/events/core.c: perf_get_pgtable_size",
        lambda page: (PerfPageSize(page + 1),),
        owned=True,
        parts=(VMALLOC, LINEAR),
    ),
    Walker(
        "perf-invlpgb",
        "the same on a CPU whose TLB flushes are broadcast (INVLPGB)",
        "kernel/events/core.c: perf_get_pgtable_size; arch/x86/mm/tlb.c: flush_tlb_all",
        lambda page: (PerfPageSize(page + 1),),
        X86,
        owned=True,
        parts=(VMALLOC, LINEAR),
        invlpgb=True,
    ),
    Walker(
        "spurious-fault",
        "a write that is denied, whose fault asks with interrupts off whether the page tables deny it",
        "arch/x86/mm/fault.c: do_kern_addr_fault, spurious_kernel_fault",
        lambda page: (SpuriousKernelFault(page + 1),),
        X86,
        owned=True,
        parts=(VMALLOC, LINEAR),
    ),
    Walker(
        "spurious-fault-invlpgb",
        "the same on a CPU whose TLB flushes are broadcast (INVLPGB)",
        "arch/x86/mm/fault.c: spurious_kernel_fault; arch/x86/mm/tlb.c: flush_tlb_all",
        lambda page: (SpuriousKernelFault(page + 1),),
        X86,
        owned=True,
        parts=(VMALLOC, LINEAR),
        invlpgb=True,
    ),
    Walker(
        "kernel-page-present",
        "hibernation asks whether a page is mapped, with no lock of page tables",
        "kernel/power/snapshot.c: saveable_page; set_memory.c of x86, pageattr.c of arm64: kernel_page_present",
        lambda page: (KernelPagePresent(page + 1),),
        owned=True,
        parts=(LINEAR,),
    ),
    Walker(
        "kexec-load",
        "kexec_load copies the tables of the linear map, with no lock of memory hotplug",
        "arch/arm64/kernel/machine_kexec.c: machine_kexec_post_load; arch/arm64/mm/trans_pgd.c: trans_pgd_create_copy",
        lambda _: (KexecLoad(),),
        ARM,
        parts=(LINEAR,),
    ),
    Walker(
        "vmemmap-remap",
        "remapping of the struct pages of a huge page, which splits blocks",
        "mm/hugetlb_vmemmap.c: vmemmap_remap_range",
        lambda page: (HugetlbVmemmapOptimizeFolio(page, 2),),
        owned=True,
        parts=(LINEAR,),
    ),
)

FREERS = (
    Freer(
        "promotion-pmd",
        "vmap replaces an empty PTE table by a block",
        "mm/vmalloc.c: vmap_try_huge_pmd",
        (Vmap(0, 2, "pte"), Vunmap(0, 2)),
        (Vmap(0, 2, "pmd"),),
        unmapped=True,
    ),
    Freer(
        "promotion-pud",
        "vmap replaces a PMD table and the tables below it by a block",
        "mm/vmalloc.c: vmap_try_huge_pud",
        (Vmap(0, 4, "pte"), Vunmap(0, 4)),
        (Vmap(0, 4, "pud"),),
        unmapped=True,
    ),
    Freer(
        "collapse-pmd",
        "set_memory_rox collapses the pages of a table into a block",
        "arch/x86/mm/pat/set_memory.c: collapse_pmd_page",
        (Vmap(0, 2, "pte"),),
        (SetMemoryRox(0, 2),),
        X86,
    ),
    Freer(
        "collapse-pud",
        "set_memory_rox collapses a table of blocks into a block, and the pages of one of them first",
        "arch/x86/mm/pat/set_memory.c: collapse_pud_page",
        (Vmap(0, 4, "pmd"), SetMemoryRox(0, 1)),
        (SetMemoryRox(0, 4),),
        X86,
    ),
    Freer(
        "hot-remove",
        "memory is taken out, and the tables of its linear map that are empty then",
        "arch/x86/mm/init_64.c: remove_pagetable; arch/arm64/mm/mmu.c: free_empty_tables",
        (Vmap(0, 4, "pte"),),
        (TryRemoveMemory(0, 2),),
        part=LINEAR,
        spared=2,
    ),
    Freer(
        "kasan-shadow",
        "the shadow of a device's memory that goes away",
        "mm/kasan/init.c: kasan_remove_zero_shadow; mm/memremap.c: pageunmap_range",
        (Vmap(0, 4, "pte"),),
        (PageunmapRange(0, 2),),
        part=SHADOW,
        spared=2,
    ),
    Freer(
        "kasan-shadow-unlocked",
        "the same where the memory could not be added, with no lock held",
        "mm/kasan/init.c: kasan_remove_zero_shadow; mm/memremap.c: pagemap_range",
        (Vmap(0, 4, "pte"),),
        (PagemapRangeFails(0, 2),),
        part=SHADOW,
        spared=2,
    ),
)


@cache
def pairs(arch: str) -> tuple[Pair, ...]:
    """Return every pair that an architecture has, by freer and then by walker."""
    return tuple(
        _pair(arch, freer, walker)
        for freer in FREERS
        for walker in WALKERS
        if arch in freer.archs and arch in walker.archs
    )


def _pair(arch: str, freer: Freer, walker: Walker) -> Pair:
    if freer.part not in walker.parts:
        return Pair(arch, freer, walker, None, APART)
    if freer.unmapped and walker.owned:
        return Pair(arch, freer, walker, None, OWNED)
    scenario = Scenario(
        arch=arch,
        page_size="4K",
        levels=4,
        fanout=2,
        setup=freer.setup,
        cpus=(freer.calls, walker.calls(freer.spared)),
        name=f"pair-{arch}-{freer.name}-{walker.name}",
        summary=f"{freer.summary}, beside {walker.summary}",
        invlpgb=walker.invlpgb,
    )
    return Pair(arch, freer, walker, scenario)


@cache
def scenarios() -> dict[str, Scenario]:
    """Return the scenarios of all pairs by name."""
    found = (pair.scenario for arch in ALL for pair in pairs(arch))
    return {scenario.name: scenario for scenario in found if scenario is not None}
