"""Which part of the address space a page-table entry maps, as far as that can be known of its location alone.

Oracles read page tables by address: what is mapped at one, what a table maps, what a write takes away. So writes to
entries that map different addresses do not concern each other, nor do they concern a look at yet another address.
A region is what one table of the lowest level maps. Those where vmalloc begins are told apart, and all behind them are
one: a look at any of these is taken for one at all of them, which only says that more concerns each other than does.

Tables are where their labels say: page tables that are linked elsewhere would be read where no footprint tells.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from fuzzvm.explore.automaton import Automaton
from fuzzvm.explore.exhaustive.needs import OutdatedError
from fuzzvm.kernel.pgtable import Level, TableLabel, pxd_pgtable, pxd_table
from fuzzvm.machine.ops import Address, Alloc, object_of, offset_of
from fuzzvm.scenario.system import System

Region = tuple[str, int]

MOST = 256
"""Regions that are told apart, the last of which is the rest. Scenarios count their pages from where vmalloc begins."""


class Regions:
    """The regions of one system.

    Tables of boot have their labels. Any other may be any that is allocated in `automata`, which are assumed to be
    whole; where these are not given, it may be anywhere.
    """

    def __init__(self, system: System, automata: Sequence[Automaton] | None = None) -> None:
        geometry = self._geometry = system.kernel.geometry
        self._unit = geometry.size(Level.PTE) * geometry.ptrs[Level.PTE]
        self._count = geometry.size(Level.PGD) * geometry.ptrs[Level.PGD] // self._unit
        """Tables of the lowest level that there is room for."""
        self.all: list[Region] = [("tables", number) for number in range(min(self._count, MOST))]
        """Every region."""
        self._labels = {one.number: one.label for one in system.booted().allocator.allocations}
        self._allocated: set[TableLabel] | None = None
        self._of_allocated = self.all
        if automata is not None:
            ops = [node.op for automaton in automata for node in automaton.nodes]
            labels = [op.label for op in ops if isinstance(op, Alloc)]
            self._allocated = {label for label in labels if isinstance(label, TableLabel)}
            self._of_allocated = _union(map(self._of_label, self._allocated))

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

    def check(self, address: Address, value: Hashable) -> None:
        """Raise AssertionError if an entry leads to a table of another part of the address space.

        Seen of entries and tables that are there from boot: that kernel code links tables where they are labelled is
        up to it, and a mitigation has no say in it.
        """
        if isinstance(value, int) and pxd_table(value) and object_of(pxd_pgtable(value)) in self._labels:
            label = self._labels.get(object_of(address))
            if isinstance(label, TableLabel) and label.level < Level.PTE:
                table = self.of_table(pxd_pgtable(value))
                assert set(table) <= set(self.of_entry(address)), f"an entry of {label} leads to a table of elsewhere"

    def learn(self, label: Hashable) -> None:
        """Take note of an allocation. Raises OutdatedError for a table that was not known of."""
        if self._allocated is not None and isinstance(label, TableLabel) and label not in self._allocated:
            raise OutdatedError

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
