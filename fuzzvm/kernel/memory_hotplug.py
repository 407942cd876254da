"""Memory that is taken out: what is held meanwhile, and KASAN's shadow of it (mm/memory_hotplug.c, memremap.c; 7.3).

What maps the memory is the architecture's to remove (`Architecture.arch_remove_memory`). Who walks tables that are
not its own keeps hot-remove away with get_online_mems(): ptdump alone does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from fuzzvm.kernel.pgtable import Level, pxd_leaf, pxd_none, pxd_pgtable
from fuzzvm.machine.ops import Address, Annotation, Free, Load, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

HOTPLUG_LOCK = "hotplug-lock"
HOTPLUG_UNLOCK = "hotplug-unlock"


@dataclass(frozen=True, slots=True)
class FreedAsPage(Annotation):
    """A page table is about to be freed as a page and no more; `destructed` says whether pagetable_dtor() has run."""

    table: Address
    destructed: bool


def get_online_mems(k: Kernel) -> Steps[None]:
    """Keep memory from being taken out."""
    # percpu_down_read()
    yield from down_read(k.cpu, k.mem_hotplug_lock, HOTPLUG_LOCK)


def put_online_mems(k: Kernel) -> Steps[None]:
    """Let memory be taken out."""
    yield from up_read(k.cpu, k.mem_hotplug_lock, HOTPLUG_UNLOCK)


def mem_hotplug_begin(k: Kernel) -> Steps[None]:
    """Wait for all that keep memory from being taken out, and keep new ones waiting."""
    # percpu_down_write()
    yield from down_write(k.cpu, k.mem_hotplug_lock)


def mem_hotplug_done(k: Kernel) -> Steps[None]:
    """Let them go on."""
    yield from up_write(k.cpu, k.mem_hotplug_lock)


def try_remove_memory(k: Kernel, start: int, end: int) -> Steps[None]:
    """Remove the linear map of memory that is offline: nobody uses it."""
    yield from mem_hotplug_begin(k)
    yield from k.arch.arch_remove_memory(k, start, end)
    yield from mem_hotplug_done(k)


def pageunmap_range(k: Kernel, start: int, end: int) -> Steps[None]:
    """Remove the shadow of a device's memory that goes away; its linear map is not looked at here."""
    yield from mem_hotplug_begin(k)
    yield from kasan_remove_zero_shadow(k, start, end)
    yield from mem_hotplug_done(k)


def pagemap_range_fails(k: Kernel, start: int, end: int) -> Steps[None]:
    """Give up adding a device's memory, as arch_add_memory() has failed: its shadow is removed with no lock held.

    (mm/memremap.c, pagemap_range: err_add_memory stands behind mem_hotplug_done(); the same in 6.12 and 7.3.)
    """
    yield from mem_hotplug_begin(k)
    # kasan_add_zero_shadow() has been, and arch_add_memory() says -ENOMEM
    yield from mem_hotplug_done(k)
    yield from kasan_remove_zero_shadow(k, start, end)


# mm/kasan/init.c


def kasan_remove_zero_shadow(k: Kernel, start: int, end: int) -> Steps[None]:
    """Unmap a range of the shadow and free the tables that are empty then; it flushes nothing."""
    yield from kasan_remove_table(k, Level.PGD, k.init_mm.pgd, start, end)


def kasan_remove_table(k: Kernel, level: Level, table: Address, addr: int, end: int) -> Steps[None]:
    """Remove the part of a table that maps a range (kasan_remove_p4d_table down to kasan_remove_pte_table).

    All PTEs map the one early shadow page. Upper entries that lead to its shared tables are not modelled.
    """
    while addr != end:
        following = k.geometry.addr_end(level, addr, end)
        entryp = table + k.geometry.index(level, addr)
        entry = yield Load(entryp)
        if level == Level.PTE:
            if pxd_leaf(entry):
                # pte_clear()
                yield Store(entryp, 0)
        elif not pxd_none(entry):
            yield from kasan_remove_table(k, k.geometry.below(level), pxd_pgtable(entry), addr, following)
            yield from kasan_free_table(k, level, entryp, pxd_pgtable(entry), addr)
        addr = following


def kasan_free_table(k: Kernel, level: Level, entryp: Address, table: Address, addr: int) -> Steps[None]:
    """Free an empty table and then clear the entry of that level, in this order (kasan_free_pte and its like)."""
    empty = yield from is_empty(k, table, k.geometry.below(level))
    if not empty:
        return
    if k.mitigation.functions.hot_remove_unlinks_first:
        yield Store(entryp, 0)
        yield from k.arch.flush_tlb_kernel_range(k, addr, addr + k.geometry.size(Level.PTE))
    # pte_free_kernel(), pmd_free(), pud_free()
    yield from k.mitigation.free_table(k, table, level)
    if not k.mitigation.functions.hot_remove_unlinks_first:
        yield Store(entryp, 0)


def is_empty(k: Kernel, table: Address, level: Level) -> Steps[bool]:
    """Return whether all entries of a table are none, up to the first that is not."""
    index = 0
    while index < k.geometry.ptrs[level]:
        entry = yield Load(table + index)
        if not pxd_none(entry):
            return False
        index += 1
    return True


def free_page(table: Address, *, destructed: bool) -> Steps[None]:
    """Free the page of a table as any other page, at once: __free_pages(), or pagetable_free() where no flag is set."""
    yield FreedAsPage(table, destructed)
    yield Free(table)
