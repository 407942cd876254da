"""Schemes that make sets, and whose order nobody sees."""

from __future__ import annotations

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Barrier, Fence, Steps
from tests.verify.determinism.steady import Locked


class AsksAndSortsSets(Locked):
    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        first = min({"one", "other"})
        if level in {Level.PMD, Level.PUD} and first in {"one", "other"}:
            yield Fence(Barrier.DSB_ISH if first == "one" else Barrier.DSB_ISHST)
