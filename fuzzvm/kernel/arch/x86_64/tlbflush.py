"""TLB flushes by IPI, or by broadcast where the CPU has INVLPGB (arch/x86/mm/tlb.c, Linux 6.12 and 7.3).

An INVLPG clears the paging-structure caches as well. INVLPGB and TLBSYNC interrupt nobody: what is flushed so waits for
no CPU that has interrupts off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.interrupts import csd_lock_wait
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Barrier, Fence, InterruptAll, Steps, Tlbi

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

TLB_SINGLE_PAGE_FLUSH_CEILING = 33
"""Pages past which a range is not flushed one by one."""


def flush_tlb_kernel_range(k: Kernel, start: int, end: int, point: str = "") -> Steps[None]:
    """Flush a range on every CPU: by page, or all of it where it is long. `point` is that of each invalidation."""
    # on_each_cpu(do_kernel_range_flush): an IPI to all, INVLPG for each page there
    if end - start > TLB_SINGLE_PAGE_FLUSH_CEILING * k.geometry.size(Level.PTE):
        # do_flush_tlb_all(): CR4.PGE off and on again
        yield Tlbi("invlpgb" if k.invlpgb else "mov cr4", 0, point)
        start = end
    addr = start
    while addr < end:
        yield Tlbi("invlpgb" if k.invlpgb else "invlpg", addr, point)
        addr += k.geometry.size(Level.PTE)
    if k.invlpgb:
        # TLBSYNC, a serialising instruction: it waits for all that this CPU has broadcast, and for nobody's interrupts
        yield Fence(Barrier.ISB, "flush-ipi")
    else:
        yield from csd_lock_wait(k)
        yield InterruptAll("flush-ipi")


def flush_tlb_all(k: Kernel) -> Steps[None]:
    """Flush everything on every CPU."""
    # on_each_cpu(do_flush_tlb_all)
    yield Tlbi("invlpgb" if k.invlpgb else "mov cr4", 0)
    if k.invlpgb:
        yield Fence(Barrier.ISB)
    else:
        yield from csd_lock_wait(k)
        yield InterruptAll()
