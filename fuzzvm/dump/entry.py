"""What one row of a dump says: a run of entries of one level, alike in their attributes."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Level(enum.IntEnum):
    """Levels as ptdump counts them (mm/ptdump.c): the depth of an entry below the root.

    The same as those of fuzzvm.kernel, which this layer may not import.
    """

    PGD = 0
    P4D = 1
    PUD = 2
    PMD = 3
    PTE = 4


class Kind(enum.Enum):
    """What the entries of a row are."""

    HOLE = "hole"
    """None at all, or such that map nothing (arm64's F)."""
    TABLE = "table"
    """Descriptors of tables; the rows that follow say what those map."""
    PAGE = "page"
    CONTIGUOUS_PAGE = "contiguous page"
    """PTEs with the contiguous bit: CONT_PTES of them share a TLB entry."""
    BLOCK = "block"
    CONTIGUOUS_BLOCK = "contiguous block"
    """Blocks with the contiguous bit: CONT_PMDS of them share a TLB entry."""

    @property
    def mapped(self) -> bool:
        """Whether such entries map memory."""
        return self not in (Kind.HOLE, Kind.TABLE)

    @property
    def block(self) -> bool:
        """Whether such entries map memory above the PTE level."""
        return self in (Kind.BLOCK, Kind.CONTIGUOUS_BLOCK)

    @property
    def contiguous(self) -> bool:
        """Whether such entries carry the contiguous bit."""
        return self in (Kind.CONTIGUOUS_PAGE, Kind.CONTIGUOUS_BLOCK)


@dataclass(frozen=True, slots=True)
class Entry:
    """Level, kind and attributes of a row's entries.

    `attributes` are the words as printed, in their order, without those that `level` and `kind` hold. `unknown` are
    those among them that no kernel known here prints. The hash is taken once: a large dump asks for it often.
    """

    level: Level
    kind: Kind
    attributes: tuple[str, ...] = ()
    writable: bool = False
    executable: bool = False
    device: bool = False
    unknown: tuple[str, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.level, self.kind.value, self.attributes)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def wx(self) -> bool:
        """Whether the row's entries are writable and executable, as note_prot_wx() and note_wx() ask of them."""
        return self.kind.mapped and self.writable and self.executable

    @property
    def name(self) -> str:
        """Level and kind in few letters: PTE, PTE CON, PMD, PMD CON."""
        return f"{self.level.name} CON" if self.kind.contiguous else self.level.name
