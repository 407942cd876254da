"""Freeing the tables that a block replaces (arch/x86/mm/pgtable.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.arch import FLUSH_TLBI
from fuzzvm.kernel.arch.x86_64.tlbflush import flush_tlb_kernel_range
from fuzzvm.kernel.errors import MAP_OVER_MAPPING
from fuzzvm.kernel.pgtable import Level, pxd_leaf, pxd_none, pxd_pgtable, pxd_table
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Load, Order, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def pmd_free_pte_page(k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
    """Clear a PMD, flush, and free the PTE table (Linux 6.12, the same in 7.3)."""
    pmd = yield Load(pmdp)
    token = yield from k.mitigation.before_clear(k, Level.PMD)
    yield Store(pmdp, 0, Order.PLAIN, "free-clear")
    yield from k.mitigation.after_clear(k, Level.PMD, token)
    # INVLPG clears the paging-structure caches
    yield from flush_tlb_kernel_range(k, addr, addr + k.geometry.size(Level.PTE), FLUSH_TLBI[Level.PMD])
    yield from k.mitigation.before_free(k, Level.PMD, token)
    yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)
    yield from k.mitigation.after_free(k, Level.PMD, token)
    return True


def pud_free_pmd_page(k: Kernel, pudp: Address, addr: int) -> Steps[bool]:
    """Clear a PUD, flush, and free the PMD table with its PTE tables.

    In Linux 6.12 each PMD is saved and cleared before the PUD is (`pmd_sv`), so that an old walker finds holes. In 7.3
    the PMDs stay as they are: they lead an old walker to tables that are being freed.
    """
    pud = yield Load(pudp)
    table = pxd_pgtable(pud)
    token = yield from k.mitigation.before_clear(k, Level.PUD)
    detaches_first = k.mitigation.functions.pud_free_detaches_first
    saved: tuple[int, ...] = ()
    index = 0
    while not detaches_first and index < k.geometry.ptrs[Level.PMD]:
        pmd = yield Load(table + index)
        saved = (*saved, pmd)
        _refuse_block(pmd, table, addr)
        if not pxd_none(pmd):
            yield Store(table + index, 0, Order.PLAIN, "free-clear")
        index += 1
    yield Store(pudp, 0, Order.PLAIN, "free-clear")
    yield from k.mitigation.after_clear(k, Level.PUD, token)
    yield from flush_tlb_kernel_range(k, addr, addr + k.geometry.size(Level.PTE), FLUSH_TLBI[Level.PUD])
    yield from k.mitigation.before_free(k, Level.PUD, token)
    index = 0
    while index < k.geometry.ptrs[Level.PMD]:
        if detaches_first:
            pmd = yield Load(table + index)
            _refuse_block(pmd, table, addr)
        else:
            pmd = saved[index]
        if pxd_table(pmd):
            yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)
        index += 1
    yield from k.mitigation.free_table(k, table, Level.PUD)
    yield from k.mitigation.after_free(k, Level.PUD, token)
    return True


def _refuse_block(pmd: int, table: Address, addr: int) -> None:
    """Raise ModelError map-over-mapping: the kernel does not look, and would free the page that the block maps."""
    if pxd_leaf(pmd):
        raise ModelError(MAP_OVER_MAPPING, f"a block of {addr:#x} is replaced while mapped", address=table)
