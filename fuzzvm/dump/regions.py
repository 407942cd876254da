"""Which region rows belong to: what the marker lines say of it.

arm64 marks begin and end of each ("Modules start", "Modules end"; "vmalloc() area", "vmalloc() end"), x86 only where
the next begins, but for "End Modules". note_page() prints a marker behind the row that reaches it, at most two at once
on arm64 and one on x86: where more lie within one hole, the others come late.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

OUTSIDE: Final = "(outside)"
"""Rows before the first marker, and between an end and the next begin."""

MAX_REGIONS: Final = 500

_END = re.compile(r"(?:^End )|(?: [Ee]nd$)")
_BEGIN = re.compile(r" [Ss]tart$")
_VMALLOC = re.compile(r"vmalloc\(\)", re.IGNORECASE)


@dataclass(slots=True)
class Region:
    """A region by its name, with the addresses that its rows reach from and to; both 0 where it has none."""

    name: str
    start: int = 0
    end: int = 0

    @property
    def vmalloc(self) -> bool:
        """Whether this is vmalloc space."""
        return _VMALLOC.match(self.name) is not None

    def extend(self, start: int, end: int) -> None:
        """Let it reach as far as rows from start to end."""
        if not self.end:
            self.start = start
        self.end = end


class Regions:
    """The regions in the order in which they come, and the one that rows belong to now."""

    def __init__(self) -> None:
        self.current = Region(OUTSIDE)
        self.all: dict[str, Region] = {OUTSIDE: self.current}

    def mark(self, marker: str) -> bool:
        """Go on as a marker says; return whether that is possible: a file of nothing but markers is none."""
        name = OUTSIDE if _END.search(marker) else _BEGIN.sub("", marker)
        if name not in self.all:
            if len(self.all) >= MAX_REGIONS:
                return False
            self.all[name] = Region(name)
        self.current = self.all[name]
        return True
