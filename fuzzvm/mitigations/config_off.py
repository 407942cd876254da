"""arm64 until 2025: CONFIG_PTDUMP_DEBUGFS disables huge vmap (arch/arm64/include/asm/vmalloc.h, Linux 6.12)."""

from fuzzvm.kernel.hooks import Mitigation


class ConfigOff(Mitigation):
    """No promotion, so vmap never replaces a table, whoever walks: safe, at the price of every block mapping it had.

    CPA's collapse does not ask whether vmap may use blocks.
    """

    name = "config-off"
    summary = "CONFIG_PTDUMP_DEBUGFS disables huge vmap"
    one_walker = "safe"
    two_walkers = "safe"
    other_mm = "safe"
    collapse = "bug"

    def huge_vmap_allowed(self) -> bool:
        return False
