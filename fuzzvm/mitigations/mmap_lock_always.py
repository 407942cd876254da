"""The first proposal of 2025 ("arm64: Enable vmalloc-huge with ptdump", v1): read lock around each free.

That proposal was not about CPA's collapse on x86. What is done there is the same: the read lock from before the
collapse to after the free. ("x86/mm/pat: acquire mmap lock on page table free to avoid ptdump UAF", July 2026, took it
after the flush, around the free alone.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.kernel.pgtable import Level
    from fuzzvm.machine.ops import Steps


class MmapLockAlways(Mitigation):
    """init_mm's mmap_lock is held for reading around clear, flush and free: no walk of init_mm at the same time, ever.

    A walk of another mm holds that one's lock, which the freeing side never asks for.
    """

    name = "mmap-lock-always"
    summary = "read lock around clear, flush, free (2025 v1)"
    one_walker: ClassVar[Verdict | None] = "safe"
    two_walkers: ClassVar[Verdict | None] = "safe"
    other_mm: ClassVar[Verdict | None] = "bug"
    collapse = "safe"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)

    def after_free(self, k: Kernel, level: Level, token: None) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)

    def before_collapse(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)

    def after_collapse(self, k: Kernel, token: None) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)
