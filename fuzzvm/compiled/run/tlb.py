"""What TLBs and walk caches may hold while compiled code changes the kernel's page tables.

Tables of an image have 512 to 8,192 entries, of which a scenario writes few. So a walk looks at those alone that are
not zero at boot or that somebody has written since. Entries of the last level are followed where the calls of boot have
written them; all others map single pages, and no walk goes on from them (docs/decisions/0025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.isa.access import Access
from fuzzvm.compiled.run.arm64 import descriptor
from fuzzvm.compiled.run.memory_map import MemoryMap
from fuzzvm.compiled.run.units import Unit
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.tlb import HeldCopies, Reader
from fuzzvm.machine.ops import Address, Value, address_of, object_of, offset_of
from fuzzvm.machine.tlb import Entry, TlbRules

ENTRY_SHIFT = 3
ENTRY = 1 << ENTRY_SHIFT
ARCH = "arm64"
"""The architecture whose images are followed."""
_NAMES = ("PTE", "PMD", "PUD", "PGD")
"""What entries are called, by how many levels are below them."""
_TTL = 0xF << 44
"""Bits of a TLBI's operand that limit it to one level (FEAT_TTL, Arm ARM D8.14)."""


def rules() -> TlbRules:
    """Return the rules of the architecture."""
    found = architectures.get(ARCH).tlb
    assert found is not None
    return found


def check_followed(access: Access) -> None:
    """Raise ImageError for a TLBI of which it is not known what it invalidates."""
    if access.request.operation not in rules().operations:
        raise ImageError(f"{access.instruction.text!r}: what it invalidates is not followed")
    if access.address is not None and access.address & _TTL:
        raise ImageError(f"{access.instruction.text!r} of one level alone is not followed")


@dataclass(frozen=True, eq=False)
class Followed:
    """The entries that walks look at: it grows, and nothing depends on what it has beyond the entries that are there.

    `root` is init_mm's root table. `written` has the offsets of entries that are not zero at boot or were written, by
    table; with more of them a walk finds the same. `last_level` has the entries that the calls of boot have written:
    the only ones of the last level that are followed.
    """

    memory: MemoryMap
    root: Address
    written: dict[Address, set[int]] = field(default_factory=dict)
    last_level: set[Address] = field(default_factory=set)

    @classmethod
    def of(cls, memory: MemoryMap, root: Address) -> Followed:
        """Return those of an image whose calls of boot have not been made."""
        size = 1 << memory.layout.page_shift
        there = {offset for offset in range(0, size, ENTRY) if memory.initial(Unit(root + offset, ENTRY))}
        return cls(memory, root, {root: there})

    def wrote(self, address: Address) -> None:
        """Take note that a location of a table may not be zero."""
        offset = offset_of(address)
        if offset < 1 << self.memory.layout.page_shift:
            self.written.setdefault(address_of(object_of(address)), set()).add(offset)

    def wrote_at_boot(self, address: Address) -> None:
        """Take note that the calls of boot write a location."""
        self.wrote(address)
        self.last_level.add(address)

    def follows(self, address: Address, before: int, after: int) -> bool:
        """Return whether a write to a location of a table may change what hardware finds there.

        `before` is what stands there at boot. A link between tables is watched whether or not TLBs are followed.
        """
        return address in self.last_level or any(self.memory.arch.leaf(one) == "block" for one in (before, after))


class ImageTables:
    """An image's page tables as a walker reads them: the `Format` of `machine.tlb`; levels count from the root."""

    def __init__(self, followed: Followed, memory: Callable[[], Reader]) -> None:
        self._followed = followed
        self._map = followed.memory
        self._memory = memory
        self._last = self._map.image.manifest.levels - 1
        self.root = Entry(self._map.layout.page_offset, 1 << 64, -1, followed.root)

    def size(self, level: int) -> int:
        """Return how many bytes an entry of a level maps."""
        page_shift = self._map.layout.page_shift
        return 1 << page_shift + (page_shift - ENTRY_SHIFT) * (self._last - level)

    def level_name(self, level: int) -> str:
        """Return what entries of a level are called."""
        return _NAMES[self._last - level]

    def entries(self, pointer: Entry) -> Iterator[Entry]:
        """Yield the copies that can be made now of the valid entries of the table that a copy leads to."""
        level = pointer.level + 1
        for offset in sorted(self._followed.written.get(pointer.table, ())):
            copy = self.copy(level, pointer, offset, self._content(pointer.table + offset))
            if copy is not None:
                yield copy

    def copy(self, level: int, pointer: Entry, offset: int, content: int) -> Entry | None:
        """Return the copy that can be made of what a table holds at an offset, None where it is not valid.

        Of a root that is smaller than a page, what lies behind its last entry maps nothing.
        """
        size = self.size(level)
        start = pointer.start + (offset >> ENTRY_SHIFT) * size
        if offset % ENTRY or start >= pointer.end:
            return None
        if level == self._last and pointer.table + offset not in self._followed.last_level:
            return None
        found = descriptor(content, size, last=level == self._last)
        if found is None:
            return None
        if not found.table:
            return Entry(start, start + size, level, 0, *found[1:])
        table = self._map.object_at(found.output)
        # an entry that leads to no page of the kernel's is wild: whoever walks by it finds that
        return None if table is None else Entry(start, start + size, level, table)

    def _content(self, address: Address) -> int:
        value = self._memory().peek(address)
        return self._map.initial(Unit(address, ENTRY)) ^ (value if isinstance(value, int) else 0)


class ImageTlbs(HeldCopies):
    """What TLBs and walk caches may hold while an image's code runs."""

    def __init__(self, followed: Followed, cpus: int, memory: Callable[[], Reader]) -> None:
        self._followed = followed
        self._entries = ImageTables(followed, memory)
        super().__init__(self._entries, rules(), cpus)

    def wrote(self, address: Address, old: Value, new: Value) -> None:
        """Take in a location of a table that has changed for every CPU: the difference to boot that it holds.

        Raises ModelError tlb-conflict, stale-translation.
        """
        if old == new or offset_of(address) >> self._followed.memory.layout.page_shift:
            return
        initial = self._followed.memory.initial(Unit(address, ENTRY))
        before, after = (initial ^ (value if isinstance(value, int) else 0) for value in (old, new))
        table = address_of(object_of(address))
        for pointer in self._leading_to(table):
            level, offset = pointer.level + 1, offset_of(address)
            written = self._entries.copy(level, pointer, offset, after)
            if written is not None and not written.table and not self._entries.copy(level, pointer, offset, before):
                self._check_mapped_again(table, written)
        self._filled(table)

    def _leading_to(self, table: Address) -> list[Entry]:
        """Return the copies that a walk may come to a table by, one for each place that it has."""
        if table == self._entries.root.table:
            return [self._entries.root]
        return sorted({entry for _, entry, _ in self._tlbs.leads_to(table)})
