"""The fifth proposal of 2025 (v5): a flag that each walk turns on and off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.jump_label import static_branch_disable, static_branch_enable
from fuzzvm.mitigations.static_key import StaticKeyMitigation

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.kernel.mmap_lock import Mm
    from fuzzvm.machine.ops import Steps


class StaticKeyEnable(StaticKeyMitigation):
    """As `static-key`, but enable and disable do not count: the first of two walkers to end turns the key off."""

    name = "static-key-enable"
    summary = "flag key, enable/disable around the walk (2025 v5)"
    two_walkers = "bug"

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from static_branch_enable(k, self.key)

    def after_walk(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        yield from static_branch_disable(k, self.key)
