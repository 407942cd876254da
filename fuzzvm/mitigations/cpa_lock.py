"""What was proposed for x86's CPA in August and September 2026 (arch/x86/mm/pat/set_memory.c).

"x86/mm/pat: Acquire init_mm write lock on collapse to avoid UAF" and "x86/mm/pat: Acquire init_mm read lock on
attribute changes to avoid UAF". They came after a read lock around the free of a collapse, which keeps ptdump away and
nobody else: a change of protection that has looked up a page goes through a table that a collapse beside it has freed.
The locks lie here where those titles say; the patches may draw the sections closer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.machine.ops import Steps


class CpaLock(Mitigation):
    """init_mm's mmap_lock for writing around a collapse, for reading around a change of attributes.

    vmap's promotion is not its business: that is another patch of the series, and the two go together.
    """

    name = "cpa-lock"
    summary = "write lock around CPA's collapse, read lock around attribute changes (x86, 2026)"
    one_walker = "bug"
    two_walkers = "bug"
    other_mm = "bug"
    collapse = "safe"

    def before_change_attr(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)

    def after_change_attr(self, k: Kernel, token: None) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)

    def before_collapse(self, k: Kernel) -> Steps[None]:
        yield from mmap_write_lock(k, k.init_mm)

    def after_collapse(self, k: Kernel, token: None) -> Steps[None]:
        yield from mmap_write_unlock(k, k.init_mm)
