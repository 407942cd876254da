"""Which page maps where, kept as a dict of pages: what the model of page tables is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import (
    PTE_CONT,
    Geometry,
    Level,
    TableLabel,
    pxd_leaf,
    pxd_none,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
)
from fuzzvm.machine.machine import Machine


class Page(NamedTuple):
    """What one page of virtual addresses maps to, and the level of the entry that maps it."""

    pfn: int
    prot: int
    level: Level


class Row(NamedTuple):
    """A row of the dump in pages; `prot` is None for a hole."""

    start: int
    end: int
    level: Level
    prot: int | None


class AlreadyMappedError(Exception):
    """A range was mapped over a mapping."""


class UnseenError(Exception):
    """A range was mapped over a mapping, and vmap_pte_range() does not see it: it looks at the first PTE of a block."""


class CutError(Exception):
    """Part of a contiguous block was unmapped."""


@dataclass
class Reference:
    """vmap_range and vunmap_range on pages numbered from the beginning of the vmalloc area."""

    geometry: Geometry
    huge: bool = True
    blocks: tuple[Level, ...] = (Level.PUD, Level.PMD)
    """Levels that may map a block, where they are."""
    pages: dict[int, Page] = field(default_factory=dict)
    tables: set[tuple[Level, int]] = field(default_factory=set)
    """Level and first page of every table but the root."""
    freed: int = 0
    """Tables that promotions have replaced."""

    def span(self, level: Level) -> int:
        """Return the pages that one entry of a level maps."""
        return self.geometry.size(level) >> self.geometry.page_shift

    def table_of(self, level: Level, page: int) -> tuple[Level, int]:
        return level, page - page % (self.span(level) * self.geometry.ptrs[level])

    def level_of(self, page: int, start: int, end: int, pfn: int, max_level: Level) -> Level:
        """Return the level of the largest entry that may map a page: shift, size and both alignments."""
        for level in self.blocks:
            # where PMD is folded, a PMD block is an entry of the root
            as_asked_for = Level.PMD if level is Level.PGD else level
            if not self.huge or as_asked_for < max_level or self.geometry.folded(level):
                continue
            span = self.span(level)
            first = page - page % span
            if start <= first and first + span <= end and (pfn + first - start) % span == 0:
                return level
        return Level.PTE

    def in_contiguous_block(self, page: int, start: int, end: int, pfn: int) -> bool:
        """Return whether a page that a PTE maps is in a block of them: the block in the range, both alignments."""
        block = self.geometry.cont_ptes
        first = page - page % block
        return block > 1 and start <= first and first + block <= end and (pfn + first - start) % block == 0

    def vmap(
        self, start: int, nr_pages: int, pfn: int, prot: int, max_level: Level, *, contiguous: bool = True
    ) -> None:
        end = start + nr_pages
        mapped = {page for page in range(start, end) if page in self.pages}
        if mapped:
            block = self.geometry.cont_ptes
            runs = {
                page
                for page in mapped
                if self.level_of(page, start, end, pfn, max_level) is Level.PTE
                and contiguous
                and self.in_contiguous_block(page, start, end, pfn)
            }
            if mapped == runs and not any(page % block == 0 for page in mapped):
                raise UnseenError
            raise AlreadyMappedError
        for page in range(start, end):
            level = self.level_of(page, start, end, pfn, max_level)
            run = level is Level.PTE and contiguous and self.in_contiguous_block(page, start, end, pfn)
            self.pages[page] = Page(pfn + page - start, prot | PTE_CONT if run else prot, level)
            first = page - page % self.span(level)
            replaced = {
                table for table in self.tables if table[0] > level and first <= table[1] < first + self.span(level)
            }
            self.freed += len(replaced)
            self.tables -= replaced
            self.tables |= {
                self.table_of(upper, page)
                for upper in Level
                if Level.PGD < upper <= level and not self.geometry.folded(upper)
            }

    def vunmap(self, start: int, nr_pages: int) -> None:
        """Unmap pages, and of a block that is touched all of it; the tables stay. Raises CutError."""
        for page in (start - 1, start + nr_pages - 1):
            inside = (page + 1) % self.geometry.cont_ptes and page in self.pages and page + 1 in self.pages
            if inside and self.pages[page].prot & self.pages[page + 1].prot & PTE_CONT:
                raise CutError
        for page in range(start, start + nr_pages):
            if page in self.pages:
                span = self.span(self.pages[page].level)
                first = page - page % span
                for other in range(first, first + span):
                    self.pages.pop(other, None)

    def rows(self) -> list[Row]:
        """Return the rows of a dump of everything."""
        rows: list[Row] = []
        page = 0
        last = (self.geometry.end - self.geometry.base) >> self.geometry.page_shift
        while page < last:
            mapped = self.pages.get(page)
            if mapped is not None:
                level, prot = mapped.level, mapped.prot
            else:
                # a hole is as deep as the deepest table that has an entry for it
                level, prot = Level.PGD, None
                for lower in Level:
                    if self.table_of(lower, page) in self.tables:
                        level = lower
            following = page - page % self.span(level) + self.span(level)
            if rows and (rows[-1].level, rows[-1].prot) == (level, prot):
                rows[-1] = rows[-1]._replace(end=following)
            else:
                rows.append(Row(page, following, level, prot))
            page = following
        return rows


def translate(machine: Machine, kernel: Kernel, page: int) -> Page | None:
    """Walk the model's page tables for one page, as hardware would."""
    geometry = kernel.geometry
    addr = geometry.base + (page << geometry.page_shift)
    table = kernel.init_mm.pgd
    for level in Level:
        if geometry.folded(level):
            continue
        entry = machine.memory.peek(table + ((addr >> geometry.shifts[level]) % geometry.ptrs[level]))
        assert isinstance(entry, int)
        if pxd_none(entry):
            return None
        if pxd_leaf(entry):
            offset = (addr % geometry.size(level)) >> geometry.page_shift
            return Page(pxd_pfn(entry) + offset, pxd_pgprot(entry), level)
        table = pxd_pgtable(entry)
    raise AssertionError("a PTE points to a table")


def live_tables(machine: Machine, kernel: Kernel) -> set[tuple[Level, int]]:
    """Return level and first page of every table that is allocated, but the root."""
    allocator = machine.allocator
    labels = [a.label for a in allocator.allocations if a.number not in allocator.dead]
    return {
        (label.level, (label.va - kernel.geometry.base) >> kernel.geometry.page_shift)
        for label in labels
        if isinstance(label, TableLabel) and label.level is not Level.PGD
    }
