"""arm64 as all kernels so far print it: leaf entries and holes (arch/arm64/mm/ptdump.c, pte_bits; Linux 4.6 to 6.18).

    0xffff800080010000-0xffff800080200000        1984K PTE       RW NX SHD AF        CON     UXN    MEM/NORMAL
    0xffff800080200000-0xffff800080400000           2M PMD       ro NX SHD AF            BLK UXN    MEM/NORMAL
    0xffff800080400000-0xffff800084000000          60M PMD

F is an entry without its valid bit, of which the other bits still stand. With folded levels a block of the PUD level,
before 6.9 of any level, is called PGD. Up to 6.14 BLK was the table bit being clear, since then it is the type of a
block; a row that is mapped reads the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from fuzzvm.dump.entry import Entry, Kind, Level
from fuzzvm.dump.layouts import Layout, unknown_words

MEMORY = ("MEM/NORMAL", "MEM/NORMAL-NC", "MEM/NORMAL-TAGGED", "DEVICE/nGnRnE", "DEVICE/nGnRE", "DEVICE/GRE")
KNOWN = frozenset({"F", "USR", "ro", "RW", "x", "NX", "SHD", "AF", "NG", "CON", "BLK", "UXN", "GP", *MEMORY})
_IN_KIND = frozenset({"CON", "BLK"})


class Arm64Layout(Layout):
    """What arm64's layouts share: the level first, nothing more for a hole."""

    architecture = "arm64"
    page_sizes = (4 << 10, 16 << 10, 64 << 10)
    known: ClassVar[frozenset[str]]
    """The words that it prints."""

    def parse(self, words: Sequence[str]) -> Entry | None:
        if not words or words[0] not in Level.__members__:
            return None
        level, attributes = Level[words[0]], words[1:]
        if not attributes:
            return Entry(level, Kind.HOLE)
        unknown = unknown_words(attributes, self.known)
        return None if unknown is None else self.parse_attributes(level, attributes, unknown)

    @abstractmethod
    def parse_attributes(self, level: Level, attributes: Sequence[str], unknown: tuple[str, ...]) -> Entry | None:
        """Return what a row that is no hole says, or None if no kernel prints it."""


class Arm64(Arm64Layout):
    """Leaf rows only."""

    name = "arm64"
    known = KNOWN

    def parse_attributes(self, level: Level, attributes: Sequence[str], unknown: tuple[str, ...]) -> Entry | None:
        # s390 prints levels in the same way, but none of these
        if not any(word in ("AF", "F") or word in MEMORY for word in attributes):
            return None
        if len(set(attributes)) < len(attributes) or ("RW" in attributes) == ("ro" in attributes):
            return None
        return leaf(level, attributes, writable="RW" in attributes, executable="x" in attributes, unknown=unknown)

    def complete(self, words: Sequence[str]) -> bool:
        return bool(words) and words[-1] in MEMORY


def leaf(
    level: Level, attributes: Sequence[str], *, writable: bool, executable: bool, unknown: tuple[str, ...]
) -> Entry:
    """Return the entry of a row that is no table, by the words that all arm64 layouts have."""
    if "F" in attributes:
        kind = Kind.HOLE
    elif level == Level.PTE:
        kind = Kind.CONTIGUOUS_PAGE if "CON" in attributes else Kind.PAGE
    else:
        kind = Kind.CONTIGUOUS_BLOCK if "CON" in attributes else Kind.BLOCK
    device = any(word.startswith("DEVICE/") for word in attributes)
    shown = tuple(word for word in attributes if word not in _IN_KIND)
    return Entry(level, kind, shown, writable, executable, device, unknown)


LAYOUT = Arm64()
