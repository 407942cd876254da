"""What must hold of page tables, walks, locks and keys, as a property of the runs of one booted kernel."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.oracles import Oracles, Remembered
from fuzzvm.kernel.regions import Regions
from fuzzvm.machine.allocator import Allocator
from fuzzvm.machine.property import Property, World


class PageTableProperty(Property):
    """The oracles of one kernel; `booted` has the objects that are there when a run begins.

    `boot` is what oracles have remembered of the boot: what TLBs may hold is all of it that a run begins with.
    """

    def __init__(self, kernel: Kernel, booted: Allocator, boot: Remembered) -> None:
        self.kernel = kernel
        self.initial = Remembered(tlb=boot.tlb)
        # an IOMMU is hardware as well
        self.hardware = kernel.tlb or kernel.unmarked_tables is not None
        self._labels = {one.number: one.label for one in booted.allocations}

    def observer(self, world: World) -> Oracles:
        return Oracles(world, self.kernel)

    def observed(self, allocated: Iterable[Hashable] | None = None) -> Regions:
        return Regions(self.kernel.geometry, self._labels, allocated)

    def renamed(self, remembered: Remembered, names: Sequence[int]) -> Remembered:
        return remembered.renamed(names)
