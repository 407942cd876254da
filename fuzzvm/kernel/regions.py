"""Which page tables the oracles read, by region of the address space, for partial-order reduction.

Oracles read page tables by address: what is mapped at one, what a table maps, what a write takes away. So writes to
entries that map different addresses do not concern each other, nor do they concern a look at yet another address.
A region is what one table of the lowest level maps. Those where vmalloc begins are told apart, and all behind them are
one: a look at any of these is taken for one at all of them, which only says that more concerns each other than does.

Tables are where their labels say: page tables that are linked elsewhere would be read where no footprint tells.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from fuzzvm.kernel.iommu_sva import IommuInvalidated
from fuzzvm.kernel.mmap_lock import AssertLocked, AssertWriteLocked
from fuzzvm.kernel.pgtable import Geometry, Level, TableLabel, pxd_pgtable, pxd_table
from fuzzvm.kernel.ptdump_notes import MappingNoted, WalkBegins, WalkEnds
from fuzzvm.machine.ops import Address, Annotation, Value, object_of, offset_of
from fuzzvm.machine.property import Look, Observed

Region = tuple[str, int]

MOST = 256
"""Regions that are told apart, the last of which is the rest. Scenarios count their pages from where vmalloc begins."""


class Regions(Observed):
    """The regions of one kernel's address space; `boot` has the label of each object from boot by its number.

    Any other table has one of the labels in `allocated`; where these are not given, it may be anywhere.
    """

    def __init__(
        self, geometry: Geometry, boot: Mapping[int, Hashable], allocated: Iterable[Hashable] | None = None
    ) -> None:
        self._geometry = geometry
        self._unit = geometry.size(Level.PTE) * geometry.ptrs[Level.PTE]
        self._count = geometry.size(Level.PGD) * geometry.ptrs[Level.PGD] // self._unit
        """Tables of the lowest level that there is room for."""
        self.all: list[Region] = [("tables", number) for number in range(min(self._count, MOST))]
        self._labels = boot
        self._allocated: set[TableLabel] | None = None
        self._of_allocated = self.all
        if allocated is not None:
            self._allocated = {label for label in allocated if isinstance(label, TableLabel)}
            self._of_allocated = _union(map(self._of_label, self._allocated))

    def store(self, address: Address) -> list[Region]:
        return self.of_entry(address)

    def free(self, address: Address) -> list[Region]:
        return self.of_table(address)

    def annotation(self, annotation: Annotation) -> Look:
        match annotation:
            case AssertWriteLocked(lock) | AssertLocked(lock):
                return Look([lock.address])
            case MappingNoted(_, addr):
                # a mapping that others take away is remembered as one that was there
                return Look([self.at(addr)], lasting=True)
            case IommuInvalidated():
                return Look(self.all)
            case WalkBegins():
                return Look(self.all, readable=True)
            case WalkEnds():
                return Look(self.all, lasting=True)
        return Look()

    def at(self, addr: int) -> Region:
        """Return the region of an address of the kernel's."""
        return ("tables", min(self._number(addr), MOST - 1))

    def of_table(self, address: Address) -> list[Region]:
        """Return the regions that a table maps something in; all if it is no table that is known."""
        number = object_of(address)
        if number not in self._labels:
            return self._of_allocated
        label = self._labels[number]
        return self._of_label(label) if isinstance(label, TableLabel) else self.all

    def of_entry(self, address: Address) -> list[Region]:
        """Return the regions that an entry maps something in."""
        label = self._labels.get(object_of(address))
        if not isinstance(label, TableLabel):
            return self.of_table(address)
        size = self._geometry.size(label.level)
        return self._between(label.va + offset_of(address) * size, size)

    def check(self, address: Address, value: Value) -> None:
        """Raise AssertionError if an entry leads to a table of another part of the address space.

        Seen of entries and tables that are there from boot: that kernel code links tables where they are labelled is
        up to it, and a mitigation has no say in it.
        """
        if isinstance(value, int) and pxd_table(value) and object_of(pxd_pgtable(value)) in self._labels:
            label = self._labels.get(object_of(address))
            if isinstance(label, TableLabel) and label.level < Level.PTE:
                table = self.of_table(pxd_pgtable(value))
                assert set(table) <= set(self.of_entry(address)), f"an entry of {label} leads to a table of elsewhere"

    def knows(self, label: Hashable) -> bool:
        return self._allocated is None or not isinstance(label, TableLabel) or label in self._allocated

    def _of_label(self, label: TableLabel) -> list[Region]:
        return self._between(label.va, self._geometry.size(label.level) * self._geometry.ptrs[label.level])

    def _between(self, addr: int, size: int) -> list[Region]:
        first = self._number(addr)
        behind = first + max(1, size // self._unit)
        if behind > self._count:
            # what is mapped below vmalloc comes last, and a table may begin there
            return _union([self._numbered(first, self._count), self._numbered(0, behind - self._count)])
        return self._numbered(first, behind)

    def _number(self, addr: int) -> int:
        """Return which region an address is in, from where vmalloc begins to the end of the root table, and around."""
        return (addr - self._geometry.base) // self._unit % self._count

    def _numbered(self, first: int, behind: int) -> list[Region]:
        return [("tables", number) for number in range(min(first, MOST - 1), min(behind, MOST))]


def _union(found: Iterable[list[Region]]) -> list[Region]:
    return sorted({region for regions in found for region in regions})
