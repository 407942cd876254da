"""Page-table entries and geometry (include/linux/pgtable.h, Documentation/mm/page_tables.rst).

An entry is an integer: none is 0, a table entry is the table's address with its type, a leaf (block or page) is a
page frame number with its type and protection. Types and protection bits are the model's own; what the dump prints
for them is the architecture's.

A contiguous block is a run of leaves of one level, aligned to its own size, whose entries all carry PTE_CONT and map
memory that is contiguous and aligned alike: hardware may hold it in one TLB entry (Arm ARM D8.7.1). How many entries
make a block is the architecture's; a geometry with one entry a block has none.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from fuzzvm.machine.ops import OFFSET_BITS, Address, Rmw, Value, object_of

TABLE = 1
LEAF = 2
_TYPE_MASK = 3

PROT_WRITE = 1 << 4
PROT_EXEC = 1 << 5
PROT_DEVICE = 1 << 6
PTE_CONT = 1 << 12
"""Says that an entry is part of a contiguous block. A bit of the protection, as in arm64's pgprot_t."""
_PROT_MASK = PROT_WRITE | PROT_EXEC | PROT_DEVICE | PTE_CONT

PAGE_KERNEL = PROT_WRITE
PAGE_KERNEL_RO = 0
PAGE_KERNEL_ROX = PROT_EXEC
PAGE_KERNEL_EXEC = PROT_WRITE | PROT_EXEC


class Level(enum.IntEnum):
    """Levels as ptdump counts them: the depth of an entry below the root (mm/ptdump.c)."""

    PGD = 0
    P4D = 1
    PUD = 2
    PMD = 3
    PTE = 4


_LEVELS = tuple(Level)


def mk_table(table: Address) -> int:
    """Return the entry that points to a table."""
    return table | TABLE


def mk_leaf(pfn: int, prot: int) -> int:
    """Return the entry that maps a page frame, a block's first one at the levels above PTE."""
    return pfn << OFFSET_BITS | prot | LEAF


def pxd_none(entry: int) -> bool:
    """Whether an entry is empty."""
    return entry == 0


def pxd_table(entry: int) -> bool:
    """Whether an entry points to a table."""
    return entry & _TYPE_MASK == TABLE


def pxd_leaf(entry: int) -> bool:
    """Whether an entry maps memory."""
    return entry & _TYPE_MASK == LEAF


def pxd_pgtable(entry: int) -> Address:
    """Return the table that a table entry points to."""
    return entry & ~_TYPE_MASK


def table_pointed_to(value: Value) -> int:
    """Return the number of the object that a loaded value points to: a table entry's table, 0 for all else."""
    return object_of(value) if isinstance(value, int) and value > 0 and pxd_table(value) else 0


def pxd_pfn(entry: int) -> int:
    """Return the first page frame number that a leaf maps."""
    return entry >> OFFSET_BITS


def pxd_pgprot(entry: int) -> int:
    """Return the protection bits of a leaf."""
    return entry & _PROT_MASK


def pxd_cont(entry: int) -> bool:
    """Whether an entry is part of a contiguous block."""
    return pxd_leaf(entry) and entry & PTE_CONT != 0


def pxd_flags(entry: int) -> int:
    """Return all of a leaf but its page frame number: two pages can be one block only where it is the same."""
    return entry & ((1 << OFFSET_BITS) - 1)


def pgprot_wx(prot: int) -> bool:
    """Whether a protection is both writable and executable."""
    return prot & PAGE_KERNEL_EXEC == PAGE_KERNEL_EXEC


@dataclass(frozen=True, slots=True)
class _Clear:
    # no plain function: its repr, which a trace's digest takes in, would hold where it lies in memory
    def __call__(self, old: int) -> int:
        return 0


def ptep_get_and_clear(ptep: Address) -> Rmw:
    """Return the operation that clears an entry and responds with what it was."""
    return Rmw(ptep, _Clear())


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an address is cut into indices. A folded level has no table of its own and one entry, its parent's.

    `shifts` and `ptrs` are indexed by Level; a folded level has its parent's shift and one entry.
    `base` is the first address in use. The root's first entry maps an address below it where the real index of `base`
    is not 0, as with the architectures' own fan-out of 512.
    `cont_ptes` and `cont_pmds` are the entries of a contiguous block at those levels (CONT_PTES, CONT_PMDS): powers of
    two below the fan-out, 1 where there are no such blocks.
    """

    page_shift: int
    shifts: tuple[int, ...]
    ptrs: tuple[int, ...]
    base: int
    cont_ptes: int = 1
    cont_pmds: int = 1

    @classmethod
    def make(
        cls, page_shift: int, levels: int, fanout: int, base: int, cont_ptes: int = 1, cont_pmds: int = 1
    ) -> Geometry:
        """Return the geometry with `levels` (2 to 5) levels of `fanout` entries each; fanout is a power of two.

        With fewer than five levels P4D is folded, with three PUD as well, with two PMD as well, as in
        asm-generic/pgtable-nop4d.h, pgtable-nopud.h and pgtable-nopmd.h.
        """
        folded = set(list(Level)[1 : 1 + len(Level) - levels])
        bits = fanout.bit_length() - 1
        shifts, ptrs, shift = [0] * 5, [1] * 5, page_shift
        for level in reversed(Level):
            if level in folded:
                continue
            shifts[level], ptrs[level] = shift, fanout
            shift += bits
        for level in sorted(folded):
            shifts[level] = shifts[level - 1]
        return cls(page_shift, tuple(shifts), tuple(ptrs), base, cont_ptes, cont_pmds)

    def folded(self, level: int) -> bool:
        """Whether a level has no table of its own."""
        return self.ptrs[level] == 1

    def below(self, level: int) -> Level:
        """Return the next level down that is not folded. `PGD - 1` stands for what leads to the root table."""
        level += 1
        while self.ptrs[level] == 1:
            level += 1
        return _LEVELS[level]

    def size(self, level: int) -> int:
        """Return the bytes that one entry of a level maps."""
        return 1 << self.shifts[level]

    def cont(self, level: int) -> int:
        """Return the entries of a contiguous block of a level; 1 where there is none."""
        return {Level.PTE: self.cont_ptes, Level.PMD: self.cont_pmds}.get(Level(level), 1)

    def cont_size(self, level: int) -> int:
        """Return the bytes that a contiguous block of a level maps (CONT_PTE_SIZE, CONT_PMD_SIZE)."""
        return self.size(level) * self.cont(level)

    @property
    def cont_pte_shift(self) -> int:
        """Shift of the size of a contiguous block of PTEs (CONT_PTE_SHIFT)."""
        return self.page_shift + self.cont_ptes.bit_length() - 1

    def index(self, level: int, addr: int) -> int:
        """Return the index of an address in its table of that level."""
        return (addr >> self.shifts[level]) & (self.ptrs[level] - 1)

    def addr_end(self, level: int, addr: int, end: int) -> int:
        """Return the end of the entry that addr lies in, or `end` if that comes first (pXd_addr_end)."""
        boundary = ((addr >> self.shifts[level]) + 1) << self.shifts[level]
        return min(boundary, end)

    @property
    def end(self) -> int:
        """Address after the last one that the root maps."""
        return self.table_start(Level.PGD, self.base) + self.size(Level.PGD) * self.ptrs[Level.PGD]

    def table_start(self, level: int, addr: int) -> int:
        """Return the address that the first entry of addr's table of that level maps."""
        return addr & ~(self.size(level) * self.ptrs[level] - 1)

    def aligned(self, level: int, addr: int) -> bool:
        """Whether an address is aligned to an entry of that level."""
        return addr & (self.size(level) - 1) == 0


@dataclass(frozen=True, slots=True)
class TableLabel:
    """What a page-table page is: the level of its entries and the address that its first entry maps.

    `mm` is whose root it is; all other tables are the kernel's, whichever root leads to them. `constructed` says that
    its constructor has run (pagetable_pte_ctor) whatever hot-add does.
    """

    level: Level
    va: int
    mm: str = "init_mm"
    constructed: bool = field(default=False, repr=False)

    def __str__(self) -> str:
        of = f"{self.va:#x}" if self.mm == "init_mm" else f"{self.mm}"
        return f"the {self.level.name} table of {of}"


@dataclass(frozen=True, slots=True)
class StaticLabel:
    """What an object that is never freed is: a lock, a key, a patched site."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class LockLabel(StaticLabel):
    """What the word of a lock is. `unused` says what it means that it holds 0."""

    unused: str = "free"

    __str__ = StaticLabel.__str__


@dataclass(frozen=True, slots=True)
class CodeLabel(StaticLabel):
    """What a patched site is; it holds an instruction."""

    __str__ = StaticLabel.__str__
