"""Two fixes of July 2026 for CPA's collapse (arch/x86/mm/pat/set_memory.c): each right alone, and wrong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.functions import Functions
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.machine.ops import Steps


class CollapseFreeLock(Mitigation):
    """init_mm's mmap_lock for reading around the free, which keeps ptdump away: it may sleep."""

    name = "collapse-free-lock"
    summary = "read lock around the free of a collapse (x86, July 2026)"

    def before_collapse_free(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)

    def after_collapse_free(self, k: Kernel, token: None) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)


class CollapseCpaLock(Mitigation):
    """The spinlock cpa_lock over collapse, flush and free, which keeps other changes of CPA away."""

    name = "collapse-cpa-lock"
    summary = "cpa_lock over a whole collapse (x86, July 2026)"
    functions = Functions(collapse_holds_cpa_lock=True)
