"""Linux 6.18: arm64's static key; x86_64 does nothing, and collapses pages into blocks since 6.15."""

from collections.abc import Mapping
from typing import ClassVar

from fuzzvm.kernel.functions import Functions
from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.mitigations.releases.release import KASAN, Release
from fuzzvm.mitigations.static_key import StaticKeyMitigation

NAME = "linux-6.18"


class _Arm64(StaticKeyMitigation):
    """arm64_ptdump_lock_key (arch/arm64/mm/mmu.c, ptdump.c)."""

    name = NAME
    removals: ClassVar[Mapping[str, Verdict]] = {"try_remove_memory": "bug", "kexec_load": "bug", **KASAN}
    functions = Functions(
        flushes_all_at_limit=True, splits_kernel_mappings=True, split_spares_kfence=True, hot_add_constructs=True
    )


class _X86(Mitigation):
    """Tables are freed at once, those of a collapse as well, with no lock of init_mm."""

    name = NAME
    one_walker = "bug"
    two_walkers = "bug"
    other_mm = "bug"
    collapse = "bug"
    attributes = "bug"
    removals: ClassVar[Mapping[str, Verdict]] = {"try_remove_memory": "bug", **KASAN}
    lookups: ClassVar[Mapping[str, Verdict]] = {
        "read_kcore": "bug",
        "text_poke": "bug",
        "perf_page_size": "safe",
        "perf_page_size invlpgb": "bug",
        "spurious_kernel_fault": "safe",
        "spurious_kernel_fault invlpgb": "bug",
    }


class Linux618(Release):
    """The release with the static key."""

    name = NAME
    summary = "arm64 has the counted static key; x86_64 frees at once, and collapses without a lock"
    sources = "6.18, as it was tagged"
    schemes: ClassVar[Mapping[str, type[Mitigation]]] = {"arm64": _Arm64, "x86_64": _X86}
