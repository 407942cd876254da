"""Who looks up what maps one address of the kernel's, with or without a lock (Linux 7.3).

`vmalloc_to_page` (mm/vmalloc.c) takes no lock: who calls it has to own the mapping. /proc/kcore calls it for what
others own, under the lock of the areas alone. perf's `perf_get_pgtable_size` (kernel/events/core.c) walks with
interrupts off, and so does x86_64's `spurious_kernel_fault`, whose fault has disabled them. Hibernation asks
`kernel_page_present` of pages of the linear map, under no lock of page tables. Text poking takes init_mm's lock since
7.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.interrupts import local_irq_restore, local_irq_save
from fuzzvm.kernel.locking.exclusive import spin_lock, spin_unlock
from fuzzvm.kernel.locking.rcu import rcu_read_lock, rcu_read_unlock
from fuzzvm.kernel.mmap_lock import LOOKUP, mmap_read_lock, mmap_read_unlock
from fuzzvm.kernel.pagewalk_rereads import pte_offset_kernel
from fuzzvm.kernel.pgtable import PROT_WRITE, Level, pxd_leaf, pxd_none, pxd_pfn, pxd_pgprot, pxd_pgtable, pxd_table
from fuzzvm.machine.ops import Load, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def vmalloc_to_page(k: Kernel, addr: int) -> Steps[int]:
    """Return the page frame that an address is mapped to, 0 where it is not mapped.

    The kernel's C reads an entry above the PTE as `*pmd`, once for each question that it asks of it: for none, for a
    block, for a bad table, and for the table below. A compiler may make fewer loads of these. With `walk_rereads` the
    model reads as often, else once. Raises ModelError bad-table-pointer where what is read last is no table.
    """
    level, table = Level.PGD, k.init_mm.pgd
    while level < Level.PTE:
        entryp = table + k.geometry.index(level, addr)
        entry = yield Load(entryp)
        if pxd_none(entry):
            return 0
        if k.walk_rereads:
            entry = yield Load(entryp)
        if pxd_leaf(entry):
            return pxd_pfn(entry) + (addr % k.geometry.size(level) >> k.geometry.page_shift)
        if k.walk_rereads:
            # pmd_bad()
            entry = yield Load(entryp)
            if not pxd_table(entry):
                return 0
            entry = yield Load(entryp)
            entry = pte_offset_kernel(entry, addr, entryp)
        level, table = k.geometry.below(level), pxd_pgtable(entry)
    pte = yield Load(table + k.geometry.index(Level.PTE, addr))
    return pxd_pfn(pte) if pxd_leaf(pte) else 0


def _reader_begins(k: Kernel) -> Steps[None]:
    """Begin what RCU takes for a read-side section: preemption or interrupts off (include/linux/rcupdate.h)."""
    if k.rcu is not None:
        yield from rcu_read_lock(k.cpu, k.rcu)


def _reader_ends(k: Kernel) -> Steps[None]:
    if k.rcu is not None:
        yield from rcu_read_unlock(k.cpu, k.rcu)


def aligned_vread_iter(k: Kernel, addr: int, count: int) -> Steps[None]:
    """Look up each page of a range and copy it, as a read of /proc/kcore does (vread_iter).

    vmap_node's busy.lock is held: the area is not freed meanwhile. What maps it may change.
    """
    assert k.busy_lock is not None
    yield from spin_lock(k.cpu, k.busy_lock)
    yield from _reader_begins(k)
    end = addr + count
    while addr < end:
        yield from vmalloc_to_page(k, addr)
        # copy_page_to_iter_nofault()
        addr += k.geometry.size(Level.PTE)
    yield from _reader_ends(k)
    yield from spin_unlock(k.cpu, k.busy_lock)


def poke_vmalloc_pages(k: Kernel, addr: int) -> Steps[None]:
    """Look up the page of code that is about to be poked (arch/x86/kernel/alternative.c); in 7.3 under a lock."""
    locks = k.mitigation.functions.text_poke_locks_init_mm
    if locks:
        yield from mmap_read_lock(k, k.init_mm, LOOKUP)
    yield from vmalloc_to_page(k, addr)
    if locks:
        yield from mmap_read_unlock(k, k.init_mm, LOOKUP)


def perf_get_page_size(k: Kernel, addr: int) -> Steps[int]:
    """Return the bytes that the entry of an address maps, 0 where it is not mapped.

    With interrupts off and no lock, each entry read once: a table is free for good only after an IPI to all CPUs, where
    its TLB flush sends one. The task is a kernel thread, so that the mm is init_mm.
    """
    flags = yield from local_irq_save(k)
    yield from _reader_begins(k)
    size = yield from perf_get_pgtable_size(k, addr)
    yield from _reader_ends(k)
    yield from local_irq_restore(k, flags)
    return int(size)


def perf_get_pgtable_size(k: Kernel, addr: int) -> Steps[int]:
    """Return the bytes that the entry of an address in init_mm maps, 0 where it is not mapped."""
    level, table = Level.PGD, k.init_mm.pgd
    while True:
        entry = yield Load(table + k.geometry.index(level, addr))
        if pxd_none(entry):
            return 0
        if pxd_leaf(entry):
            return k.geometry.size(level)
        level, table = k.geometry.below(level), pxd_pgtable(entry)


def do_kern_addr_fault(k: Kernel, addr: int) -> Steps[bool]:
    """Handle a write that was denied by a TLB or the page tables; return whether that was spurious: it is tried again.

    (arch/x86/mm/fault.c.) A fault of the kernel's is handled with interrupts off: its gate disables them, and
    exc_page_fault() enables them for user addresses alone.
    """
    flags = yield from local_irq_save(k)
    yield from _reader_begins(k)
    spurious = yield from spurious_kernel_fault(k, addr)
    yield from _reader_ends(k)
    yield from local_irq_restore(k, flags)
    return bool(spurious)


def spurious_kernel_fault(k: Kernel, addr: int) -> Steps[bool]:
    """Return whether the page tables of init_mm allow a write to an address (arch/x86/mm/fault.c).

    Upper entries are read as `*pmd`: to see that they are present, that they are no block, and for the table below; the
    PTE twice, and the PMD once more at last. With `walk_rereads` each of these is a load, as in vmalloc_to_page().
    """
    level, table = Level.PGD, k.init_mm.pgd
    above = table
    while level < Level.PTE:
        above = table + k.geometry.index(level, addr)
        entry = yield Load(above)
        if pxd_none(entry):
            return False
        if k.walk_rereads:
            entry = yield Load(above)
        if pxd_leaf(entry):
            return _may_write(entry)
        if k.walk_rereads:
            entry = yield Load(above)
            entry = pte_offset_kernel(entry, addr, above)
        level, table = k.geometry.below(level), pxd_pgtable(entry)
    pte = yield Load(table + k.geometry.index(Level.PTE, addr))
    if pxd_none(pte):
        return False
    if k.walk_rereads:
        pte = yield Load(table + k.geometry.index(Level.PTE, addr))
    if not _may_write(pte):
        return False
    if k.walk_rereads:
        # "Make sure we have permissions in PMD": a table's entry allows everything
        pmd = yield Load(above)
        return pxd_table(pmd) or _may_write(pmd)
    return True


def _may_write(entry: int) -> bool:
    return pxd_leaf(entry) and bool(pxd_pgprot(entry) & PROT_WRITE)


def kernel_page_present(k: Kernel, addr: int) -> Steps[bool]:
    """Return whether a page of the linear map is mapped: hibernation asks so while it counts pages (saveable_page).

    hibernate() holds device_hotplug_lock, as who takes memory out does; a device's memory goes without it. x86_64 asks
    lookup_address(), which reads an upper entry for none, for a block, for its presence, and for the table below; arm64
    once with READ_ONCE(), and in pmd_offset() for the table below. With `walk_rereads` each of these is a load.
    """
    level, table = Level.PGD, k.init_mm.pgd
    while level < Level.PTE:
        entryp = table + k.geometry.index(level, addr)
        entry = yield Load(entryp)
        if pxd_none(entry):
            return False
        if k.walk_rereads and not k.arch.reads_entries_once:
            entry = yield Load(entryp)
        if pxd_leaf(entry):
            return True
        if k.walk_rereads:
            if not k.arch.reads_entries_once:
                entry = yield Load(entryp)
                if pxd_none(entry):
                    return False
            entry = yield Load(entryp)
            entry = pte_offset_kernel(entry, addr, entryp)
        level, table = k.geometry.below(level), pxd_pgtable(entry)
    pte = yield Load(table + k.geometry.index(Level.PTE, addr))
    return pxd_leaf(pte)
