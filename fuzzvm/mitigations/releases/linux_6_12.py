"""Linux 6.12: arm64 keeps ptdump and huge vmap apart by its configuration, x86_64 does nothing."""

from collections.abc import Mapping
from typing import ClassVar

from fuzzvm.kernel.cover_points import COLLAPSE, PROMOTION, TABLE_FREED, WALKED_TABLE_FREED
from fuzzvm.kernel.functions import Functions
from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.mitigations.releases.release import KASAN, Release

NAME = "linux-6.12"


class _Arm64(Mitigation):
    """CONFIG_PTDUMP_DEBUGFS disables blocks (arch/arm64/include/asm/vmalloc.h)."""

    name = NAME
    one_walker = "safe"
    two_walkers = "safe"
    removals: ClassVar[Mapping[str, Verdict]] = {"try_remove_memory": "safe", "kexec_load": "bug", **KASAN}
    functions = Functions(huge_vmap_beside_ptdump=False)
    gives_up = frozenset({PROMOTION, TABLE_FREED, WALKED_TABLE_FREED})


class _X86(Mitigation):
    """Tables are freed at once. There is no collapse, so a change of protection only ever splits."""

    name = NAME
    one_walker = "bug"
    two_walkers = "bug"
    other_mm = "bug"
    collapse = "safe"
    attributes = "safe"
    removals: ClassVar[Mapping[str, Verdict]] = {"try_remove_memory": "bug", **KASAN}
    lookups: ClassVar[Mapping[str, Verdict]] = {
        "read_kcore": "safe",
        "text_poke": "safe",
        "perf_page_size": "safe",
        "perf_page_size invlpgb": "safe",
        "spurious_kernel_fault": "safe",
        "spurious_kernel_fault invlpgb": "safe",
    }
    functions = Functions(collapses=False)
    gives_up = frozenset({COLLAPSE})


class Linux612(Release):
    """The last long-term release before any of the fixes."""

    name = NAME
    summary = "arm64 has no huge vmap with ptdump configured; x86_64 frees at once, no collapse"
    sources = "6.12; the fix of 2026 came to its stable tree as well, and Debian's 6.12.117 has it"
    schemes: ClassVar[Mapping[str, type[Mitigation]]] = {"arm64": _Arm64, "x86_64": _X86}
