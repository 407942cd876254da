"""Rows and markers of a dump, in bulk.

A dump of 200 MB has two million rows, so that nothing may be done for each that can be done for many: a block is
searched by one regular expression, addresses become numbers together, and what stands behind an address (size, level,
attributes) is parsed once for each text that there is. Only where a row does not fit is each looked at by itself.

A line may have anything in front of the row, so that timestamps of dmesg and hosts of journalctl need no care.
"""

from __future__ import annotations

import re
import sys
from array import array
from binascii import unhexlify
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import le, ne, sub
from typing import Final, NamedTuple, TypeAlias

from fuzzvm.dump.entry import Entry, Kind
from fuzzvm.dump.errors import Caution, DumpError
from fuzzvm.dump.layouts import Layout, detect
from fuzzvm.dump.source import Block, blocks, display_name

SMALLEST_PAGE: Final = 4 << 10
ADDRESSES: Final = 1 << 64

# what stands behind is kept, so it has a length; the longest that a kernel prints is half of this
_ROW = re.compile(rb"0x([0-9a-f]{16})-0x([0-9a-f]{16}) +([^\n]{0,200})\n")
_MARKER = re.compile(rb"---\[ ([^\n]{1,60}?) \]---")
# not the memory map that a boot log begins with: [mem 0x0000000000001000-0x0000000000001fff]
_ALMOST_A_ROW = re.compile(rb"^(?!.*\[mem ).*(?:0x[0-9a-f]{4,16}-|[0-9a-f]{4}-0x[0-9a-f])")
_SIZE = re.compile(rb"([0-9]{1,20})([BKMGTPE])")
_LOST = re.compile(rb"\*\* (\d{1,9}) printk messages dropped \*\*|\.\.\. (\d{1,9}) entr(?:y|ies) skipped \.\.\.")

_SAMPLE: Final = 500
_LOOKED_AT: Final = 400
_MAX_TAILS: Final = 1 << 15
_MAX_ENTRIES: Final = 1 << 11
_MAX_CAUTIONS: Final = 20
_BAD: Final = -1


class Rows(NamedTuple):
    """Rows that follow each other: no start lies before the end of a row that maps or is a hole.

    Addresses in bytes, `ends` exclusive. `tails` are what stands behind, to look up in `Reader.entry_of` and
    `Reader.size_of` before the next rows are asked for.
    """

    starts: Sequence[int]
    ends: Sequence[int]
    tails: Sequence[bytes]


class Marker(NamedTuple):
    """The line that names what follows."""

    line: int
    name: str


Event: TypeAlias = Rows | Marker


@dataclass
class Reading:
    """What was met besides rows, and in how many lines."""

    lines: int = 0
    rows: int = 0
    skipped: int = 0
    """Lines that look like rows and are none that a kernel prints."""
    others: int = 0
    """Lines that are neither rows nor markers."""
    gaps: int = 0
    gap_bytes: int = 0
    truncated_first: bool = False
    truncated_last: bool = False
    cautions: list[Caution] = field(default_factory=list)

    def caution(self, line: int, message: str) -> None:
        """Remember a caution, unless there are too many to be read."""
        if len(self.cautions) < _MAX_CAUTIONS:
            self.cautions.append(Caution(line, message))


class Reader:
    """Reads one dump, once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = display_name(path)
        self.reading = Reading()
        self.layout: Layout | None = None
        self.entry_of: dict[bytes, Entry] = {}
        """What tails say; for those of the rows last yielded, and perhaps some before."""
        self.size_of: dict[bytes, int] = {}
        """The bytes of a row by its tail."""
        self._entries: dict[Entry, Entry] = {}
        self._unknown: set[str] = set()
        self._inclusive = False
        self._table_tails: set[bytes] = set()
        self._position: int | None = None

    def events(self) -> Iterator[Event]:
        """Yield rows and markers as they come. Raises DumpError."""
        empty = True
        for block in blocks(self.path):
            empty = False
            if self.layout is None:
                self._look_at_first_rows(block)
            yield from self._block(block)
        if empty:
            raise DumpError(self.name, 1, "empty")
        if self.layout is None:
            raise DumpError(self.name, self.reading.lines, "no row of kernel_page_tables in the lines up to here")
        if not self.reading.rows:
            first = f": {self.reading.cautions[0].message}" if self.reading.cautions else ""
            line = self.reading.cautions[0].line if self.reading.cautions else self.reading.lines
            raise DumpError(self.name, line, f"no row that can be read{first}")

    def _look_at_first_rows(self, block: Block) -> None:
        """Choose the layout. A block without rows chooses none."""
        found = [match for match, _ in zip(_ROW.finditer(block.data), range(_SAMPLE), strict=False)]
        if not found:
            nul = block.data.find(b"\0")
            if self.reading.lines == 0 and nul >= 0:
                line = block.data.count(b"\n", 0, nul) + 1
                raise DumpError(self.name, line, "binary data, not the text of kernel_page_tables")
            return
        self._inclusive = 2 * sum(match[2].endswith(b"fff") for match in found) > len(found)
        self.layout = detect([_words(match[3])[1:] for match in found], self._inclusive)
        if self.layout is None:
            line = self.reading.lines + block.data.count(b"\n", 0, found[0].start()) + 1
            text = _shown(found[0][0])
            raise DumpError(self.name, line, f"rows of no layout known here (arm64, x86_64): {text}")

    def _block(self, block: Block) -> Iterator[Event]:
        data = block.data
        first = self.reading.lines
        count = data.count(b"\n")
        self.reading.lines += count
        begin = data.rfind(b"\n", 0, -1) + 1
        # nothing says whether all of a last line is there but the line itself
        if not block.terminated and self._cut_off(data[begin:]):
            self.reading.truncated_last = True
            data = data[:begin]
        found = _ROW.findall(data)
        if len(found) != count:
            yield from self._mixed_lines(first, data)
            return
        yield from self._rows(first + 1, found)

    def _cut_off(self, line: bytes) -> bool:
        row = _ROW.search(line)
        if row is None:
            return _ALMOST_A_ROW.search(line) is not None
        return self.layout is not None and not self.layout.complete(_words(row[3])[1:])

    def _mixed_lines(self, before: int, data: bytes) -> Iterator[Event]:
        """Yield the events of lines of which not all are rows; `before` lines stand before them."""
        done, line = 0, before
        rows: list[tuple[bytes, bytes, bytes]] = []
        for match in _ROW.finditer(data):
            between = data[done : match.start()]
            done = match.end()
            if b"\n" in between:
                yield from self._rows(line - len(rows) + 1, rows)
                rows = []
                *others, _ = between.split(b"\n")
                for other in others:
                    line += 1
                    yield from self._other(line, other)
            rows.append(match.groups())  # type: ignore[arg-type]
            line += 1
        yield from self._rows(line - len(rows) + 1, rows)
        for other in data[done:].split(b"\n")[:-1]:
            line += 1
            yield from self._other(line, other)

    def _other(self, line: int, text: bytes) -> Iterator[Event]:
        # where a line of a log says what it is
        text = text[:_LOOKED_AT]
        marker = _MARKER.search(text)
        if marker is not None:
            yield Marker(line, _shown(marker[1]))
        elif _ALMOST_A_ROW.search(text) is None or self.layout is None:
            self.reading.others += 1
            if (lost := _LOST.search(text)) is not None:
                self.reading.caution(line, f"{int(lost[1] or lost[2])} lines were left out here: {_shown(text)}")
        elif line == 1:
            self.reading.truncated_first = True
        else:
            self._skip(line, f"no row that can be read: {_shown(text)}")

    def _skip(self, line: int, why: str) -> None:
        self.reading.skipped += 1
        self.reading.caution(line, f"row skipped: {why}")

    def _rows(self, line: int, found: Sequence[tuple[bytes, bytes, bytes]]) -> Iterator[Rows]:
        """Yield the rows found in the lines from `line` on, as they are if all is as it should be."""
        if not found:
            return
        if len(self.size_of) > _MAX_TAILS:
            self.size_of.clear()
            self.entry_of.clear()
            self._table_tails.clear()
        first, last, tails = zip(*found, strict=True)
        starts, ends = _numbers(first), self._ends(last)
        sizes = list(map(self.size_of.get, tails))
        if None in sizes:
            for at, tail in enumerate(tails, start=line):
                if tail not in self.size_of:
                    self._parse(tail, at)
            sizes = list(map(self.size_of.get, tails))
        # where the next row may begin; a table's own rows begin where it does
        nexts = ends
        if tables := self._table_tails:
            nexts = [start if tail in tables else end for start, end, tail in zip(starts, ends, tails, strict=True)]
        earliest = [starts[0] if self._position is None else self._position, *nexts[:-1]]
        if (
            sizes != list(map(sub, ends, starts))
            or any(map((SMALLEST_PAGE - 1).__and__, starts))
            or not all(map(le, earliest, starts))
        ):
            yield from self._one_by_one(line, Rows(starts, ends, tails))
            return
        if earliest != starts:
            self._gaps(line, earliest, starts)
        self._position = nexts[-1]
        self.reading.rows += len(starts)
        yield Rows(starts, ends, tails)

    def _ends(self, texts: Sequence[bytes]) -> list[int]:
        ends = _numbers(texts)
        if self._inclusive:
            return [end + 1 for end in ends]
        # %016lx of the end of the address space
        return [end or ADDRESSES for end in ends] if 0 in ends else ends

    def _gaps(self, line: int, earliest: Sequence[int], starts: Sequence[int]) -> None:
        gaps = list(map(ne, earliest, starts))
        if not self.reading.gaps:
            at = gaps.index(True)
            text = f"a gap from {earliest[at]:#x} to {starts[at]:#x}: a kernel prints holes, so rows are missing"
            self.reading.caution(line + at, text)
        self.reading.gaps += sum(gaps)
        self.reading.gap_bytes += sum(starts) - sum(earliest)

    def _one_by_one(self, line: int, rows: Rows) -> Iterator[Rows]:
        """Yield what is right of rows of which some are wrong. Raises DumpError where the order is."""
        good: list[tuple[int, int, bytes]] = []
        for at, (start, end, tail) in enumerate(zip(*rows, strict=True), start=line):
            size = self.size_of[tail]
            if size == _BAD:
                self._skip(at, f"no kernel prints such a size, level or attributes: {_shown(tail)}")
                continue
            if end <= start:
                raise DumpError(self.name, at, f"the row ends at {end:#x}, where or before it begins ({start:#x})")
            table = tail in self._table_tails
            if size != end - start:
                self._skip(at, f"{size} bytes by its size, {end - start} by its range")
                continue
            if start % SMALLEST_PAGE:
                self._skip(at, f"begins at {start:#x}, within a page")
                continue
            position = start if self._position is None else self._position
            if start < position:
                raise DumpError(
                    self.name,
                    at,
                    f"the row begins at {start:#x}, before {position:#x}, where the one before it ends: rows overlap "
                    "or run backwards (are there two dumps in one file?)",
                )
            if start > position:
                self._gaps(at, [position], [start])
            self._position = start if table else end
            self.reading.rows += 1
            good.append((start, end, tail))
        if good:
            starts, ends, tails = zip(*good, strict=True)
            yield Rows(starts, ends, tails)

    def _parse(self, tail: bytes, line: int) -> None:
        """Remember what a tail says."""
        words = _words(tail)
        assert self.layout is not None
        size = _SIZE.fullmatch(words[0].encode()) if words else None
        entry = self.layout.parse(words[1:]) if size is not None else None
        if entry is not None and entry not in self._entries:
            if len(self._entries) >= _MAX_ENTRIES:
                raise DumpError(self.name, line, f"more than {_MAX_ENTRIES} sets of attributes: no dump has that many")
            self._entries[entry] = entry
            for word in entry.unknown:
                if word in self._unknown:
                    continue
                self._unknown.add(word)
                self.reading.caution(line, f"attribute {word} is not known here; read as saying nothing")
        number = 0 if size is None else int(size[1]) << (10 * b"BKMGTPE".index(size[2]))
        # version 3 of arm64-tables gives a table of a PGD the bytes of the table itself
        if entry is None or not number or (number % SMALLEST_PAGE and entry.kind is not Kind.TABLE):
            self.size_of[tail] = _BAD
            return
        self.size_of[tail] = number
        # the same object for what is equal, so that most comparisons end at once
        self.entry_of[tail] = self._entries[entry]
        if entry.kind is Kind.TABLE:
            self._table_tails.add(tail)


def _numbers(texts: Sequence[bytes]) -> list[int]:
    """Return the numbers of texts of 16 hexadecimal digits each."""
    values = array("Q")
    assert values.itemsize == 8
    values.frombytes(unhexlify(b"".join(texts)))
    if sys.byteorder == "little":
        values.byteswap()
    return values.tolist()


def _words(tail: bytes) -> list[str]:
    return tail.decode("ascii", "replace").split()


def _shown(text: bytes) -> str:
    """Return a text as a message may show it: short, in one line, and printable."""
    shown = " ".join("".join(c if c.isprintable() else "?" for c in text.decode("ascii", "replace")).split())
    return shown if len(shown) <= 100 else f"{shown[:100]}…"
