"""What a walk notes: rows of entries alike, and a word to the oracles for each mapping (note_page() in ptdump.c)."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.kernel.arch import DumpRow
from fuzzvm.kernel.pgtable import Level, pxd_leaf, pxd_pgprot
from fuzzvm.machine.ops import Annotation, Steps
from fuzzvm.machine.program import Printed


class Rows(tuple[DumpRow, ...], Printed):
    """What a walk has noted, in the order of addresses. Nothing but the text that user space reads is made of it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class WalkBegins(Annotation):
    """The walk of this CPU begins: mmap_lock is held, nothing has been read."""


@dataclass(frozen=True, slots=True)
class MappingNoted(Annotation):
    """The walk of this CPU reports that an entry of this level and value maps this address."""

    level: Level
    addr: int
    entry: int


@dataclass(frozen=True, slots=True)
class WalkEnds(Annotation):
    """The walk of this CPU has read its last entry."""


def note_page(rows: Rows, addr: int, end: int, level: Level, entry: int) -> Steps[Rows]:
    """Return the rows with one entry more, merged into the last row where level and protection are the same."""
    if entry:
        yield MappingNoted(level, addr, entry)
    if rows:
        last = rows[-1]
        if last.level == level and pxd_pgprot(last.entry) == pxd_pgprot(entry) and pxd_leaf(last.entry) == bool(entry):
            return Rows((*rows[:-1], DumpRow(last.start, end, last.level, last.entry)))
    return Rows((*rows, DumpRow(addr, end, level, entry)))
