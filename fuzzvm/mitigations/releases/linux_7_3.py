"""Linux 7.3: the trylock of vmalloc, ptdump's second lock, and the locks of CPA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from fuzzvm.kernel.functions import Functions
from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock
from fuzzvm.mitigations.cpa_lock import CpaLock
from fuzzvm.mitigations.ptdump_locks_init_mm import PtdumpLocksInitMm
from fuzzvm.mitigations.releases.release import KASAN, Release
from fuzzvm.mitigations.stacked import stack
from fuzzvm.mitigations.vmap_trylock import VmapTrylock

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.machine.ops import Steps

NAME = "linux-7.3"


class _CpaLock(CpaLock):
    """As `cpa-lock`, but the read lock is dropped while the page of a split is allocated (split_large_page).

    An allocation may reclaim, and a shrinker may come back to CPA.
    """

    def before_split_alloc(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)

    def after_split_alloc(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)


class _Arm64(stack((VmapTrylock, PtdumpLocksInitMm), NAME)):  # type: ignore[misc]
    """mm/vmalloc.c and mm/ptdump.c. What arm64 frees with is as in 6.12: the key of 6.18 is gone."""

    name = NAME
    one_walker = "safe"
    two_walkers = "safe"
    removals: ClassVar[Mapping[str, Verdict]] = {"try_remove_memory": "safe", "kexec_load": "bug", **KASAN}
    functions = Functions(
        flushes_all_at_limit=True,
        splits_kernel_mappings=True,
        split_spares_kfence=True,
        hot_add_constructs=True,
        hot_remove_destructs=True,
    )


class _X86(stack((VmapTrylock, PtdumpLocksInitMm, _CpaLock), NAME)):  # type: ignore[misc]
    """mm/vmalloc.c, mm/ptdump.c, arch/x86/mm/pgtable.c and arch/x86/mm/pat/set_memory.c."""

    name = NAME
    one_walker = "safe"
    two_walkers = "safe"
    other_mm = "safe"
    collapse = "safe"
    attributes = "safe"
    removals: ClassVar[Mapping[str, Verdict]] = {"try_remove_memory": "bug", **KASAN}
    lookups: ClassVar[Mapping[str, Verdict]] = {
        "read_kcore": "bug",
        "text_poke": "safe",
        "perf_page_size": "safe",
        "perf_page_size invlpgb": "bug",
        "spurious_kernel_fault": "safe",
        "spurious_kernel_fault invlpgb": "bug",
    }
    functions = Functions(
        pud_free_detaches_first=True, collapse_holds_cpa_lock=True, split_constructs=True, text_poke_locks_init_mm=True
    )


class Linux73(Release):
    """The newest release that is modelled."""

    name = NAME
    summary = "trylock around promotion, ptdump locks init_mm too, CPA collapses under the write lock"
    sources = "7.3.4, Debian's linux-source-7.3"
    schemes: ClassVar[Mapping[str, type[Mitigation]]] = {"arm64": _Arm64, "x86_64": _X86}
