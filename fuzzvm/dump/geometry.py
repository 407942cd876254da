"""Page size and the bytes behind one TLB entry: known of x86, inferred from the rows on arm64.

An entry of a level begins and ends at multiples of its size, so what divides all rows of a level bounds the size from
above. Of the page sizes that no row contradicts the largest is taken, and the others are named: a run of 64K pages
looks like a run of 16 times as many 4K pages. In a whole dump vmalloc's guard pages settle it, since each ends a row.
Sources: arch/arm64/include/asm/pgtable-hwdef.h and arch/arm64/Kconfig (ARM64_CONT_PTE_SHIFT, ARM64_CONT_PMD_SHIFT),
Linux 6.12; Documentation/arch/x86/x86_64/mm.rst.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any, Final

from fuzzvm.dump.entry import Entry, Kind, Level
from fuzzvm.dump.layouts import Layout

K: Final = 1 << 10
M: Final = 1 << 20
G: Final = 1 << 30

LEVEL_SIZES: Final[Mapping[int, Mapping[Level, int]]] = {
    4 * K: {Level.PTE: 4 * K, Level.PMD: 2 * M, Level.PUD: G},
    16 * K: {Level.PTE: 16 * K, Level.PMD: 32 * M, Level.PUD: 64 * G},
    64 * K: {Level.PTE: 64 * K, Level.PMD: 512 * M, Level.PUD: 4 * K * G},
}
"""Bytes that an entry maps, by page size and level. Above PUD it depends on the number of levels."""

CONTIGUOUS: Final[Mapping[int, Mapping[Level, int]]] = {
    4 * K: {Level.PTE: 16, Level.PMD: 16},
    16 * K: {Level.PTE: 128, Level.PMD: 32},
    64 * K: {Level.PTE: 32, Level.PMD: 32},
}
"""CONT_PTES and CONT_PMDS, by page size."""

SCALED: Final = "blocks are finer than any page size has them; sizes are read from what divides the rows of a level"


def size_name(size: int) -> str:
    """Return bytes as the kernel prints them: exact, in the largest unit."""
    unit = 0
    while size and size % 1024 == 0 and unit < 6:
        size //= 1024
        unit += 1
    return f"{size}{'BKMGTPE'[unit]}"


def _alignment(sizes: int) -> int:
    """Return the largest power of two that divides all sizes of which this is the union; 0 if there are none."""
    return sizes & -sizes


@dataclass
class Evidence:
    """The sizes of all rows, joined bit by bit, for each level and kind: what divides them divides the union."""

    unions: dict[tuple[Level, Kind], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, entry: Entry, size: int) -> None:
        """Take a row's size into account."""
        self.unions[entry.level, entry.kind] |= size

    def alignment(self, level: Level, *kinds: Kind) -> int:
        """Return what divides all rows of a level and of these kinds (all but tables if none is named); 0: no rows."""
        wanted = kinds or [kind for kind in Kind if kind is not Kind.TABLE]
        union = 0
        for kind in wanted:
            union |= self.unions.get((level, kind), 0)
        return _alignment(union)

    def finest(self) -> int:
        """Return what divides all rows but those of tables; 0: no rows."""
        return _alignment(reduce(or_, (union for (_, kind), union in self.unions.items() if kind is not Kind.TABLE), 0))

    def against(self, page_size: int) -> str:
        """Return why pages cannot be of that size, or ''."""
        for level, size in LEVEL_SIZES[page_size].items():
            found = self.alignment(level)
            if found and found % size:
                return f"{level.name} rows come in multiples of {size_name(found)}"
            # a table's row has the size of one entry; those of lower versions give it the table's own bytes
            table = self.unions.get((level, Kind.TABLE), 0)
            if level != Level.PTE and table >= 4 * K and table != size:
                return f"a {level.name} table maps {size_name(table)}"
            contiguous = CONTIGUOUS[page_size].get(level, 1) * size
            found = self.alignment(level, Kind.CONTIGUOUS_PAGE, Kind.CONTIGUOUS_BLOCK)
            if found and found % contiguous:
                return f"contiguous {level.name} rows come in multiples of {size_name(found)}"
        return ""


class PageSizeError(ValueError):
    """The page size that was asked for is not that of the dump."""


@dataclass(frozen=True)
class Geometry:
    """Page size, how it is known, and what follows from it.

    `source` is option, architecture or inferred. `candidates` are all page sizes that no row contradicts; where every
    one is contradicted by blocks, those that no row is finer than. Blocks are then finer than any hardware's, as in
    fuzzvm's own dumps (`scaled`): their sizes are what divides the rows of a level, and may be too large.
    """

    page_size: int
    source: str
    candidates: tuple[int, ...]
    why: str
    scaled: bool
    evidence: Evidence

    @property
    def certain(self) -> bool:
        """Whether rows or architecture leave no doubt of the page size."""
        return self.candidates == (self.page_size,)

    def tlb_entry_bytes(self, entry: Entry) -> int:
        """Return the bytes that one TLB entry holds of such a mapping."""
        sizes = LEVEL_SIZES[self.page_size]
        if entry.level in sizes:
            size = sizes[entry.level]
            if entry.kind.contiguous:
                size *= CONTIGUOUS[self.page_size].get(entry.level, 1)
        else:
            # a folded level's block is called by a higher one: the largest block there is that fits
            size = sizes[Level.PUD] if self.page_size == 4 * K else sizes[Level.PMD]
            found = self.evidence.alignment(entry.level, entry.kind)
            if found % size:
                size = sizes[Level.PMD]
        # scaled down, blocks are as large as the rows allow
        found = self.evidence.alignment(entry.level, entry.kind)
        return max(self.page_size, min(size, found)) if found else size

    def to_data(self) -> dict[str, Any]:
        """Return it as strings, numbers and lists."""
        return {
            "bytes": self.page_size,
            "source": self.source,
            "certain": self.certain,
            "candidates": list(self.candidates),
            "scaled": self.scaled,
            "why": self.why,
        }


def infer(layout: Layout, evidence: Evidence, page_size: int | None) -> Geometry:
    """Return the geometry of a dump, of a given page size if it is not None.

    Raises PageSizeError if the rows or the architecture contradict it.
    """
    against = {size: evidence.against(size) for size in layout.page_sizes}
    candidates = tuple(size for size, reason in against.items() if not reason)
    scaled = not candidates
    if scaled:
        # a block of any size is a page at least
        pages = evidence.finest()
        candidates = tuple(size for size in layout.page_sizes if not pages % size) or layout.page_sizes[:1]
    if page_size is not None:
        if page_size not in layout.page_sizes:
            raise PageSizeError(f"{layout.architecture} has no pages of {size_name(page_size)}")
        if page_size not in candidates:
            raise PageSizeError(f"pages are not of {size_name(page_size)}: {against[page_size]}")
        return Geometry(page_size, "option", candidates, "as asked for", scaled, evidence)
    if len(layout.page_sizes) == 1:
        (only,) = layout.page_sizes
        return Geometry(only, "architecture", (only,), f"{layout.architecture} has no other", scaled, evidence)
    chosen = candidates[-1]
    reasons = [
        f"not {' or '.join(size_name(size) for size, other in against.items() if other == reason)}, since {reason}"
        for reason in dict.fromkeys(filter(None, against.values()))
    ]
    if scaled:
        why = SCALED
    elif len(candidates) == 1:
        why = "; ".join(reasons)
    else:
        why = "; ".join([f"{' or '.join(map(size_name, candidates))}, as no row is finer", *reasons])
    return Geometry(chosen, "inferred", candidates, why, scaled, evidence)
