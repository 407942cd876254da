"""The scheme that was merged for Linux 6.18 (arch/arm64/mm/mmu.c, ptdump.c: arm64_ptdump_lock_key)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.kernel.jump_label import StaticKey, static_branch_dec, static_branch_inc, static_branch_unlikely
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock
from fuzzvm.kernel.pgtable import Level

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Boot, Kernel
    from fuzzvm.kernel.mmap_lock import Mm
    from fuzzvm.machine.ops import Steps

SITES = {Level.PMD: "pmd_free_pte_page", Level.PUD: "pud_free_pmd_page"}


class StaticKeyMitigation(Mitigation):
    """A walk turns the key on; only then the freeing side takes mmap_lock and drops it again before it frees.

    Either the freeing side sees the key, and waits for the walk to end; or the walk began after the entry was
    cleared, and finds it empty. A walk of another mm turns the key on too, but the lock that the freeing side then
    waits for is init_mm's, which that walk does not hold. The key is in arm64's pmd_free_pte_page and
    pud_free_pmd_page alone: CPA's collapse on x86 frees through neither, and walks the race with nothing against it.
    """

    name = "static-key"
    summary = "counted key, inc/dec around the walk (merged for 6.18)"
    one_walker = "safe"
    two_walkers: ClassVar[Verdict | None] = "safe"
    other_mm = "bug"
    collapse: ClassVar[Verdict | None] = "bug"
    isolates_first = True

    key: StaticKey

    def attach(self, boot: Boot) -> None:
        self.key = boot.static_key("arm64_ptdump_lock_key", tuple(SITES.values()))

    def before_free(self, k: Kernel, level: Level, token: None) -> Steps[None]:
        taken = yield from static_branch_unlikely(k, self.key, SITES[level])
        if taken:
            yield from mmap_read_lock(k, k.init_mm)
            yield from mmap_read_unlock(k, k.init_mm)

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from static_branch_inc(k, self.key)

    def after_walk(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        yield from static_branch_dec(k, self.key)
