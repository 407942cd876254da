"""Page tables read from outside, with no steps: what maps an address, and all that a table maps.

`read` returns the value of a location, as memory holds it or as somebody sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from fuzzvm.kernel.pgtable import Geometry, Level, pxd_leaf, pxd_pgtable, pxd_table
from fuzzvm.machine.ops import Address, Value

Read = Callable[[Address], Value]


class Mapping(NamedTuple):
    """An entry that maps memory: its level, the first address that it maps, its value."""

    level: Level
    addr: int
    entry: int


class Visited(NamedTuple):
    """A table on the way to what maps an address: its level, its address, and the entry in it, 0 where it is none."""

    level: Level
    table: Address
    entry: int


def path(geometry: Geometry, root: Address, addr: int, read: Read) -> list[Visited]:
    """Return the tables that the walk of an address goes through, the root first."""
    level, table = Level.PGD, root
    visited: list[Visited] = []
    while True:
        value = read(table + geometry.index(level, addr))
        entry = value if isinstance(value, int) else 0
        visited.append(Visited(level, table, entry))
        if level == Level.PTE or not pxd_table(entry):
            return visited
        level, table = geometry.below(level), pxd_pgtable(entry)


def mappings(geometry: Geometry, level: Level, table: Address, start: int, end: int, read: Read) -> Iterator[Mapping]:
    """Yield what part of a range is mapped by, through a table of a level, in ascending order of address.

    The range lies in what the table maps. Mappings that begin before it or end after it are among them.
    """
    shift, mask = geometry.shifts[level], geometry.ptrs[level] - 1
    while start < end:
        number = start >> shift
        following = min((number + 1) << shift, end)
        entry = read(table + (number & mask))
        if isinstance(entry, int) and entry:
            yield from mappings_at(geometry, level, entry, start, following, read)
        start = following


def mappings_at(geometry: Geometry, level: Level, entry: int, start: int, end: int, read: Read) -> Iterator[Mapping]:
    """Yield what part of a range is mapped by, through an entry of a level; as `mappings`."""
    if pxd_leaf(entry):
        yield Mapping(level, start & ~(geometry.size(level) - 1), entry)
    elif pxd_table(entry) and level < Level.PTE:
        yield from mappings(geometry, geometry.below(level), pxd_pgtable(entry), start, end, read)


def linked_tables(geometry: Geometry, root: Address, read: Read, level: Level = Level.PGD) -> Iterator[Address]:
    """Yield a table, by default a root, and every table that entries lead to from there; `level` is its entries'."""
    todo = [(level, root)]
    while todo:
        level, table = todo.pop()
        yield table
        if level < Level.PTE:
            for index in range(geometry.ptrs[level]):
                entry = read(table + index)
                if isinstance(entry, int) and pxd_table(entry):
                    todo.append((geometry.below(level), pxd_pgtable(entry)))
