"""How a range of addresses is mapped, and how many TLB entries it takes: read from the page tables, from outside.

A block or a contiguous block is one entry; a page that is neither takes one to itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fuzzvm.kernel.pgtable import Geometry, Level, TableLabel, pxd_cont
from fuzzvm.kernel.tables import Mapping, mappings
from fuzzvm.machine.machine import Machine


@dataclass
class Reach:
    """Bytes mapped, by kind (`block`, `contiguous`, `page`) and level, and the TLB entries that they take."""

    bytes: dict[tuple[str, Level], int] = field(default_factory=dict)
    tlb_entries: int = 0

    def of(self, kind: str) -> int:
        """Return the bytes mapped by entries of one kind, at any level."""
        return sum(size for (its_kind, _), size in self.bytes.items() if its_kind == kind)

    @property
    def mapped(self) -> int:
        """Bytes mapped by anything."""
        return sum(self.bytes.values())

    def add(self, other: Reach) -> None:
        """Count another one in."""
        for key, size in other.bytes.items():
            self.bytes[key] = self.bytes.get(key, 0) + size
        self.tlb_entries += other.tlb_entries

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        kinds: dict[str, dict[str, int]] = {"block": {}, "contiguous": {}, "page": {}}
        for (kind, level), size in sorted(self.bytes.items()):
            kinds[kind][level.name] = size
        return {"bytes": kinds, "tlb_entries": self.tlb_entries}


def leaves(machine: Machine, geometry: Geometry, start: int, end: int) -> list[Mapping]:
    """Return the entries of init_mm that map part of a range, in ascending order of address."""
    # init_mm's root is the first table there is
    tables = (one for one in machine.allocator.allocations if isinstance(one.label, TableLabel))
    return list(mappings(geometry, Level.PGD, next(tables).address, start, end, machine.memory.peek))


def reach_of(geometry: Geometry, found: Iterable[Mapping]) -> Reach:
    """Return what entries in ascending order of address map, and the TLB entries that they take."""
    reach = Reach()
    block = None
    for leaf in found:
        size = geometry.size(leaf.level)
        if pxd_cont(leaf.entry):
            kind = "contiguous"
            mine = (leaf.level, leaf.addr // geometry.cont_size(leaf.level))
            reach.tlb_entries += mine != block
            block = mine
        else:
            kind = "page" if leaf.level is Level.PTE else "block"
            reach.tlb_entries += 1
        reach.bytes[kind, leaf.level] = reach.bytes.get((kind, leaf.level), 0) + size
    return reach


def mapped_areas(machine: Machine, geometry: Geometry) -> list[tuple[int, int, Reach]]:
    """Return the ranges without a hole that the page tables map: first address, end, and their reach, in order."""
    found: list[tuple[int, int, list[Mapping]]] = []
    for leaf in leaves(machine, geometry, geometry.base, geometry.end):
        end = leaf.addr + geometry.size(leaf.level)
        if found and found[-1][1] == leaf.addr:
            found[-1][2].append(leaf)
            found[-1] = (found[-1][0], end, found[-1][2])
        else:
            found.append((leaf.addr, end, [leaf]))
    return [(start, end, reach_of(geometry, its_leaves)) for start, end, its_leaves in found]
