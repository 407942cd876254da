"""Where the model's pages lie on the real kernel, and the real page-table entries that map them.

The model's tables have few entries, the kernel's fill a page: 512 with 4K pages. A page of the model is the path of
indices that leads to it; the same path through the kernel's tables is its place in the window, which is aligned so that
all indices below the window's own are 0. A range that covers a table of the model to its end covers the kernel's to its
end.
"""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.kernel.pgtable import Geometry, Level
from fuzzvm.realkernel.arch import Arch
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.gdb import Gdb
from fuzzvm.realkernel.symbols import Symbols

ENTRY_SHIFT = 3
"""Shift of the size of an entry, eight bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A page-table entry: its level, and the first page of the model that it maps."""

    level: Level
    page: int

    def __str__(self) -> str:
        return f"{self.level.name.lower()} entry of page {self.page}"


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the vmalloc area that stands for the model's. `start` is a real address."""

    geometry: Geometry
    start: int

    @property
    def bits(self) -> int:
        """Return the bits of an index into a table that fills a page."""
        return self.geometry.page_shift - ENTRY_SHIFT

    def address(self, page: int) -> int:
        """Return the real address of a page of the model. Raises NoCounterpartError for one before the first."""
        if page < 0:
            raise NoCounterpartError("an address below the vmalloc area has no counterpart")
        offset = 0
        for depth, level in enumerate(self._levels()):
            shift = self.geometry.shifts[level] - self.geometry.page_shift
            index = page >> shift
            if level != Level.PGD:
                index &= self.geometry.ptrs[level] - 1
            offset += index << (self.geometry.page_shift + self.bits * depth)
        return self.start + offset

    def block(self, level: Level) -> int:
        """Return the real size of what one entry of a level maps."""
        return 1 << self.shift(level)

    def shift(self, level: Level) -> int:
        """Return the shift of an entry of a level on the real kernel; a folded level has its parent's."""
        while self.geometry.folded(level):
            level = Level(level - 1)
        return self.geometry.page_shift + self.bits * self._levels().index(level)

    def entry(self, level: Level, va: int) -> Entry:
        """Return the entry of a level that maps an address of the model."""
        start = va & ~(self.geometry.size(level) - 1)
        return Entry(level, (start - self.geometry.base) >> self.geometry.page_shift)

    def path(self, level: Level) -> list[Level]:
        """Return the levels from the root down to this one, those that are not folded."""
        return [other for other in reversed(self._levels()) if other <= level]

    def _levels(self) -> list[Level]:
        """Return the levels that have tables of their own, PTE first."""
        return [level for level in reversed(Level) if not self.geometry.folded(level)]


class Tables:
    """The kernel's own page tables, walked from the root through physical memory, and as the kernel addresses them."""

    def __init__(self, arch: Arch, symbols: Symbols, gdb: Gdb, levels: int, page_shift: int) -> None:
        self._arch = arch
        self._va_bits = arch.va_bits(page_shift, levels)
        self._gdb = gdb
        self._root = symbols.address(arch.root, "swapper_pg_dir")
        if arch.name == "x86_64":
            # no relocation: __START_KERNEL_map, and __PAGE_OFFSET_BASE_L4 or _L5
            self._root_physical = self._root - 0xFFFF_FFFF_8000_0000
            self._linear = 0xFF11_0000_0000_0000 if levels == 5 else 0xFFFF_8880_0000_0000
        else:
            self._root_physical = self._root - self._word(symbols.address("kimage_voffset"))
            # __phys_to_virt(): (phys - PHYS_OFFSET) | PAGE_OFFSET
            self._linear = (-(1 << self._va_bits) - self._word(symbols.address("memstart_addr"))) & (1 << 64) - 1

    def _word(self, address: int) -> int:
        return int.from_bytes(self._gdb.memory(0, address, 8), "little")

    def find(self, window: Window, entry: Entry) -> int | None:
        """Return the address at which the kernel accesses an entry, None while there is no table for it."""
        address = window.address(entry.page)
        table, virtual = self._root_physical, self._root
        path = window.path(entry.level)
        for level in path:
            shift = window.shift(level)
            # the root has as many entries as the address has bits left for it
            offset = ((address >> shift) & (1 << min(window.bits, self._va_bits - shift)) - 1) << ENTRY_SHIFT
            if level == entry.level:
                return virtual + offset
            value = self._gdb.physical(table + offset)
            if not self._arch.is_table(value, shift):
                return None
            table = self._arch.table(value)
            virtual = (table + self._linear) & (1 << 64) - 1
        return None

    def below(self, window: Window, entry: Entry) -> int | None:
        """Return the address at which the kernel accesses the table below an entry, None while there is none."""
        levels = window.path(Level.PTE)
        lower = levels[levels.index(entry.level) + 1]
        first = self.find(window, Entry(lower, entry.page))
        return None if first is None else first & -(1 << window.geometry.page_shift)
