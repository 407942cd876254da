"""TLB flushes by IPI (arch/x86/mm/tlb.c, Linux 6.12). An INVLPG clears the paging-structure caches as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import InterruptAll, Steps, Tlbi

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

TLB_SINGLE_PAGE_FLUSH_CEILING = 33
"""Pages past which a range is not flushed one by one."""


def flush_tlb_kernel_range(k: Kernel, start: int, end: int, point: str = "") -> Steps[None]:
    """Flush a range on every CPU: by page, or all of it where it is long. `point` is that of each invalidation."""
    # on_each_cpu(do_kernel_range_flush): an IPI to all, INVLPG for each page there
    if end - start > TLB_SINGLE_PAGE_FLUSH_CEILING * k.geometry.size(Level.PTE):
        # do_flush_tlb_all(): CR4.PGE off and on again
        yield Tlbi("mov cr4", 0, point)
        start = end
    addr = start
    while addr < end:
        yield Tlbi("invlpg", addr, point)
        addr += k.geometry.size(Level.PTE)
    yield InterruptAll("flush-ipi")


def flush_tlb_all(k: Kernel) -> Steps[None]:
    """Flush everything on every CPU."""
    # on_each_cpu(do_flush_tlb_all)
    yield Tlbi("mov cr4", 0)
    yield InterruptAll()
