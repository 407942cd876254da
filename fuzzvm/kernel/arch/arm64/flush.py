"""The flush that follows the clear of an entry whose table goes away (arch/arm64/include/asm/tlbflush.h)."""

from __future__ import annotations

from fuzzvm.kernel.arch import FLUSH_TLBI
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Barrier, Fence, Steps, Tlbi


def flush_tlb_kernel_pgtable(addr: int, level: Level) -> Steps[None]:
    """Invalidate the walk caches' view of a table whose entry was cleared, and order the clear before what follows.

    `level` is that of the entry.
    """
    yield Fence(Barrier.DSB_ISHST, "flush-dsb-ishst")
    yield Tlbi("vaae1is", addr, FLUSH_TLBI.get(level, ""))
    yield Fence(Barrier.DSB_ISH, "flush-dsb-ish")
    yield Fence(Barrier.ISB, "flush-isb")
