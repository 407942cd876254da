"""Hot-remove of the linear map: first what maps memory, then the tables that are empty (arch/arm64/mm/mmu.c, 7.3).

Each table is freed after its entry is cleared and flushed, and as a page: no work item frees it later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.arch.arm64.flush import flush_tlb_kernel_pgtable
from fuzzvm.kernel.memory_hotplug import free_page, is_empty
from fuzzvm.kernel.pgtable import Level, pxd_leaf, pxd_none, pxd_pgtable
from fuzzvm.machine.ops import Address, Load, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def remove_pgd_mapping(k: Kernel, start: int, end: int) -> Steps[None]:
    """Unmap a range of the linear map and free its tables (__remove_pgd_mapping)."""
    yield from unmap_hotplug_range(k, start, end)
    yield from free_empty_table(k, Level.PGD, k.init_mm.pgd, start, end)


def unmap_hotplug_range(k: Kernel, start: int, end: int) -> Steps[None]:
    """Clear all that maps a range, then flush it: `free_mapped` is false for the linear map."""
    yield from unmap_hotplug_table(k, Level.PGD, k.init_mm.pgd, start, end)
    yield from k.arch.flush_tlb_kernel_range(k, start, end)


def unmap_hotplug_table(k: Kernel, level: Level, table: Address, addr: int, end: int) -> Steps[None]:
    """Clear the part of a table that maps a range (unmap_hotplug_p4d_range down to unmap_hotplug_pte_range)."""
    while addr != end:
        following = k.geometry.addr_end(level, addr, end)
        entryp = table + k.geometry.index(level, addr)
        entry = yield Load(entryp)
        if pxd_leaf(entry):
            yield Store(entryp, 0)
        elif not pxd_none(entry):
            yield from unmap_hotplug_table(k, k.geometry.below(level), pxd_pgtable(entry), addr, following)
        addr = following


def free_empty_table(k: Kernel, level: Level, table: Address, addr: int, end: int) -> Steps[None]:
    """Free the tables below a range that are empty (free_empty_p4d_table down to free_empty_pte_table).

    `pgtable_range_aligned` is left out: the linear map begins and ends where its tables do.
    """
    while addr != end:
        following = k.geometry.addr_end(level, addr, end)
        entryp = table + k.geometry.index(level, addr)
        entry = yield Load(entryp)
        if not pxd_none(entry):
            below = k.geometry.below(level)
            if below < Level.PTE:
                yield from free_empty_table(k, below, pxd_pgtable(entry), addr, following)
            empty = yield from is_empty(k, pxd_pgtable(entry), below)
            if empty:
                # pmd_clear()
                yield Store(entryp, 0)
                yield from flush_tlb_kernel_pgtable(addr, level)
                yield from free_hotplug_pgtable_page(k, pxd_pgtable(entry))
        addr = following


def free_hotplug_pgtable_page(k: Kernel, table: Address) -> Steps[None]:
    """Free a table's page; without its destructor until 2026."""
    yield from free_page(table, destructed=k.mitigation.functions.hot_remove_destructs)
