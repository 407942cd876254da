"""arm64 with table descriptors: indented by level, TBL rows above those of their tables.

    0xffff1b3980000000-0xffff1b39bfffffff               1G PUD   TBL    NX UXN      RW
      0xffff1b3980000000-0xffff1b39801fffff             2M PMD   TBL    NX UXN      RW
        0xffff1b3980000000-0xffff1b39801fffff           2M PTE       RW NX SHD AF NG         UXN    MEM/NORMAL

From the series "ptdump: add intermediate directory support" and "non-leaf ptdump" (linux-mm, 2024, versions 3 to 5),
which trees carry that took it; Linux up to 6.18 does not. The versions differ. 3: ends are exclusive, BLK or TBL comes
before the permissions, a block has two words more for a table's permissions (x where clear) and the table of a PGD a
range of a few bytes. 4: ends are the last byte. 5: as 4, in capitals (RO, X), and a table's own permissions are NX,
UXN, KRN, RO. A row of a table may reach past what follows it, and is no mapping.
"""

from __future__ import annotations

from collections.abc import Sequence

from fuzzvm.dump.entry import Entry, Kind, Level
from fuzzvm.dump.layouts.arm64 import KNOWN, MEMORY, Arm64Layout, leaf

_KNOWN = KNOWN | {"RO", "X", "TBL", "NXTbl", "UXNTbl", "KRN"}
_TABLE_ONLY = frozenset({"NXTbl", "UXNTbl"})
_EXECUTION = frozenset({"NX", "x", "X"})
_WRITING = frozenset({"RW", "ro", "RO"})
_SMALL = {"RO": "ro", "X": "x"}
"""Words that version 5 prints otherwise than all kernels."""


class Arm64Tables(Arm64Layout):
    """Rows of leaves and of tables."""

    name = "arm64-tables"
    known = _KNOWN

    def parse_attributes(self, level: Level, attributes: Sequence[str], unknown: tuple[str, ...]) -> Entry | None:
        if "TBL" in attributes:
            if level == Level.PTE or "BLK" in attributes:
                return None
            return Entry(level, Kind.TABLE, tuple(word for word in attributes if word != "TBL"), unknown=unknown)
        if sum(word in _WRITING for word in attributes) != 1:
            return None
        writable = "RW" in attributes
        # the first of them: version 3 prints x again for NXTbl and UXNTbl, which a block never has
        execution = next((word for word in attributes if word in _EXECUTION), "NX")
        # and above PMD it prints no more than those, so that whether such a block executes is not there to be read
        executable = execution != "NX" and ("UXN" in attributes or level >= Level.PMD)
        shown = []
        for word in attributes:
            if word not in _EXECUTION and word not in _TABLE_ONLY:
                shown.append(_SMALL.get(word, word))
            if word in _WRITING:
                # in the place that all kernels print it
                shown.append(_SMALL.get(execution, execution))
        return leaf(level, shown, writable=writable, executable=executable, unknown=unknown)

    def complete(self, words: Sequence[str]) -> bool:
        return bool(words) and (words[-1] in MEMORY or ("TBL" in words and words[-1] in ("RO", "RW")))

    def claims(self, rows: Sequence[Sequence[str]], inclusive: bool) -> int:
        if not inclusive and not any("TBL" in words for words in rows):
            return 0
        # one more than the layout without tables, which reads all other rows just as well
        return 1 + sum(self.parse(words) is not None for words in rows)


LAYOUT = Arm64Tables()
