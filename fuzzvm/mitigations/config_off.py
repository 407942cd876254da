"""arm64 until 2025: CONFIG_PTDUMP_DEBUGFS disables huge vmap (arch/arm64/include/asm/vmalloc.h, Linux 6.12)."""

from fuzzvm.kernel.cover_points import PROMOTION, SPLIT, TABLE_FREED, WALKED_TABLE_FREED
from fuzzvm.kernel.hooks import Mitigation


class ConfigOff(Mitigation):
    """No promotion, so vmap never replaces a table, whoever walks: safe, at the price of every block mapping it had.

    CPA's collapse does not ask whether vmap may use blocks. Where vmap makes none there is none to be split either.
    """

    name = "config-off"
    summary = "CONFIG_PTDUMP_DEBUGFS disables huge vmap"
    one_walker = "safe"
    two_walkers = "safe"
    other_mm = "safe"
    collapse = "bug"
    gives_up = frozenset({PROMOTION, TABLE_FREED, WALKED_TABLE_FREED, SPLIT})

    def huge_vmap_allowed(self) -> bool:
        return False
