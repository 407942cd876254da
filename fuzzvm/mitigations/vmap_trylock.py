"""The generic fix of 2026 for every architecture (mm/vmalloc.c, vmap_try_huge_*; as in Debian's 6.12.117)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import mmap_read_trylock, mmap_read_unlock

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.kernel.pgtable import Level
    from fuzzvm.machine.ops import Steps


class VmapTrylock(Mitigation):
    """init_mm's mmap_lock is held for reading around the whole promotion; where it is not free at once, no promotion.

    A walk of another mm holds that one's lock and not init_mm's, so nothing keeps it and a promotion apart: the fix
    was merged together with the other half, `ptdump-locks-init-mm`.
    """

    name = "vmap-trylock"
    summary = "mmap_read_trylock around promotion, or small pages (2026; merged with ptdump-locks-init-mm)"
    one_walker = "safe"
    two_walkers = "safe"
    other_mm = "bug"
    collapse = "bug"

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        return (yield from mmap_read_trylock(k, k.init_mm))

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)
