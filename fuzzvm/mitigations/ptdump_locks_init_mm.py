"""The walk's half of the fix of 2026 (mm/ptdump.c, ptdump_walk_pgd; as in Debian's 6.12.117)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import AssertWriteLocked, mmap_write_lock_nested, mmap_write_unlock

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.kernel.mmap_lock import Mm
    from fuzzvm.machine.ops import Steps


class PtdumpLocksInitMm(Mitigation):
    """A walk of another mm takes init_mm's mmap_lock as well, inside that mm's own.

    Alone it changes nothing for anybody: the freeing side takes no lock. It is there to be stacked, and
    `vmap-trylock+ptdump-locks-init-mm` is what was merged.
    """

    name = "ptdump-locks-init-mm"
    summary = "a walk of another mm locks init_mm too; for stacking (2026; merged with vmap-trylock)"
    one_walker = "bug"
    two_walkers = "bug"
    other_mm = "bug"
    collapse = "bug"

    def walk_locked(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        if mm != k.init_mm:
            yield from mmap_write_lock_nested(k, k.init_mm)
        # walk_page_range_debug()
        yield AssertWriteLocked(k.init_mm.mmap_lock, k.role.assertion)

    def walk_unlocking(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        if mm != k.init_mm:
            yield from mmap_write_unlock(k, k.init_mm)
