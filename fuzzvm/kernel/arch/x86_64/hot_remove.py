"""Hot-remove of the linear map (arch/x86/mm/init_64.c, Linux 6.12, the same in 7.3).

A table that has become empty is freed first, and the entry that leads to it is cleared after that, under
page_table_lock; that is flushed at the very end. Tables of the linear map have no constructor, and none of the flags by
which a work item would free them later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.arch.x86_64.tlbflush import flush_tlb_all
from fuzzvm.kernel.locking.exclusive import spin_lock, spin_unlock
from fuzzvm.kernel.memory_hotplug import free_page, is_empty
from fuzzvm.kernel.pgtable import Level, pxd_leaf, pxd_none, pxd_pgtable
from fuzzvm.machine.ops import Address, Load, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def remove_pagetable(k: Kernel, start: int, end: int) -> Steps[None]:
    """Unmap a range of the linear map and free its tables, then flush (kernel_physical_mapping_remove)."""
    yield from remove_table(k, Level.PGD, k.init_mm.pgd, start, end)
    yield from flush_tlb_all(k)


def remove_table(k: Kernel, level: Level, table: Address, addr: int, end: int) -> Steps[None]:
    """Remove the part of a table that maps a range (remove_p4d_table down to remove_pte_table).

    Blocks are removed whole; a range that ends in one leaves it.
    """
    while addr != end:
        following = k.geometry.addr_end(level, addr, end)
        entryp = table + k.geometry.index(level, addr)
        entry = yield Load(entryp)
        if pxd_leaf(entry):
            if following - addr == k.geometry.size(level):
                yield from clear_entry(k, entryp)
        elif not pxd_none(entry):
            below = k.geometry.below(level)
            yield from remove_table(k, below, pxd_pgtable(entry), addr, following)
            # what the root leads to stays, as other roots lead to it as well
            if level != Level.PGD:
                yield from free_table(k, entryp, pxd_pgtable(entry), below)
        addr = following
    if level == Level.PTE:
        yield from flush_tlb_all(k)


def free_table(k: Kernel, entryp: Address, table: Address, level: Level) -> Steps[None]:
    """Free a table that is empty, and then clear the entry that leads to it (free_pte_table, free_pmd_table).

    `level` is that of the table's entries.
    """
    empty = yield from is_empty(k, table, level)
    if not empty:
        return
    if k.mitigation.functions.hot_remove_unlinks_first:
        yield from clear_entry(k, entryp)
        yield from flush_tlb_all(k)
    # free_pagetable(): no destructor
    yield from free_page(table, destructed=False)
    if not k.mitigation.functions.hot_remove_unlinks_first:
        yield from clear_entry(k, entryp)


def clear_entry(k: Kernel, entryp: Address) -> Steps[None]:
    """Clear an entry under page_table_lock."""
    yield from spin_lock(k.cpu, k.page_table_lock)
    yield Store(entryp, 0)
    yield from spin_unlock(k.cpu, k.page_table_lock)
