"""What a dump's mappings are, and what they cost: bytes by level and kind, block share, TLB entries, W+X ranges."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fuzzvm.dump.entry import Entry, Kind, Level
from fuzzvm.dump.errors import DumpError
from fuzzvm.dump.geometry import SCALED, Evidence, Geometry, PageSizeError, infer
from fuzzvm.dump.layouts import Layout
from fuzzvm.dump.reader import Marker, Reader, Reading, Rows
from fuzzvm.dump.regions import MAX_REGIONS, OUTSIDE, Region, Regions

MAX_WX: Final = 1000
"""W+X ranges that are listed; the others are counted."""

_ORDER: Final = (Kind.PAGE, Kind.CONTIGUOUS_PAGE, Kind.BLOCK, Kind.CONTIGUOUS_BLOCK)


class Share(NamedTuple):
    """What the entries of one level and kind map in a region."""

    level: Level
    kind: Kind
    bytes: int
    rows: int
    tlb_entries: int


class WxRange(NamedTuple):
    """A range that is writable and executable, whole rows of one kind."""

    start: int
    end: int
    region: str
    entry: Entry


@dataclass(frozen=True)
class Figures:
    """What is mapped in a region. Shares are of the bytes mapped, between 0 and 1, and None where none is."""

    name: str
    start: int
    end: int
    shares: tuple[Share, ...]
    tlb_entries_as_pages: int
    wx_bytes: int
    device_bytes: int
    device_block_bytes: int
    vmalloc: bool

    @property
    def mapped(self) -> int:
        """Bytes mapped."""
        return sum(share.bytes for share in self.shares)

    @property
    def tlb_entries(self) -> int:
        """TLB entries that it takes to hold all of it."""
        return sum(share.tlb_entries for share in self.shares)

    @property
    def block_share(self) -> float | None:
        """Share mapped by blocks, contiguous ones included."""
        return self._part(sum(share.bytes for share in self.shares if share.kind.block))

    @property
    def contiguous_share(self) -> float | None:
        """Share mapped by PTEs with the contiguous bit."""
        return self._part(sum(share.bytes for share in self.shares if share.kind is Kind.CONTIGUOUS_PAGE))

    @property
    def memory_block_share(self) -> float | None:
        """Share mapped by blocks of what is mapped as memory, so without what devices are mapped as."""
        memory = self.mapped - self.device_bytes
        blocks = sum(share.bytes for share in self.shares if share.kind.block) - self.device_block_bytes
        return blocks / memory if memory else None

    def _part(self, part: int) -> float | None:
        return part / self.mapped if self.mapped else None

    def to_data(self) -> dict[str, Any]:
        """Return it as strings, numbers and lists; addresses in hexadecimal."""
        return {
            "name": self.name,
            "vmalloc": self.vmalloc,
            "start": f"{self.start:#018x}",
            "end": f"{self.end:#018x}",
            "mapped_bytes": self.mapped,
            "entries": [
                {
                    "level": share.level.name,
                    "kind": share.kind.value,
                    "bytes": share.bytes,
                    "rows": share.rows,
                    "tlb_entries": share.tlb_entries,
                }
                for share in self.shares
            ],
            "block_share": self.block_share,
            "contiguous_share": self.contiguous_share,
            "memory_block_share": self.memory_block_share,
            "device_bytes": self.device_bytes,
            "wx_bytes": self.wx_bytes,
            "tlb_entries": self.tlb_entries,
            "tlb_entries_as_pages": self.tlb_entries_as_pages,
        }


@dataclass(frozen=True)
class Summary:
    """All that is said of one dump."""

    source: str
    layout: Layout
    geometry: Geometry
    regions: tuple[Figures, ...]
    total: Figures
    vmalloc: Figures | None
    """All of vmalloc space; None if no marker names it."""
    wx: tuple[WxRange, ...]
    wx_left_out: int
    """W+X ranges past the ones listed."""
    tables: Mapping[Level, int]
    """Table descriptors that were printed, by their level."""
    reading: Reading

    def to_data(self) -> dict[str, Any]:
        """Return it as strings, numbers, lists and dicts."""
        reading = self.reading
        return {
            "file": self.source,
            "layout": self.layout.name,
            "architecture": self.layout.architecture,
            "page_size": self.geometry.to_data(),
            "lines": reading.lines,
            "rows": reading.rows,
            "skipped_rows": reading.skipped,
            "other_lines": reading.others,
            "gaps": reading.gaps,
            "gap_bytes": reading.gap_bytes,
            "truncated": {"first": reading.truncated_first, "last": reading.truncated_last},
            "regions": [figures.to_data() for figures in self.regions],
            "vmalloc": None if self.vmalloc is None else self.vmalloc.to_data(),
            "total": self.total.to_data(),
            "wx": [
                {
                    "start": f"{found.start:#018x}",
                    "end": f"{found.end:#018x}",
                    "bytes": found.end - found.start,
                    "region": found.region,
                    "level": found.entry.level.name,
                    "kind": found.entry.kind.value,
                    "attributes": list(found.entry.attributes),
                }
                for found in self.wx
            ],
            "wx_left_out": self.wx_left_out,
            "tables": {level.name: count for level, count in sorted(self.tables.items())},
            "warnings": [{"line": caution.line, "message": caution.message} for caution in reading.cautions],
        }


@dataclass
class Collector:
    """Gathers the figures of a dump while it is read."""

    reader: Reader
    regions: Regions = field(default_factory=Regions)
    evidence: Evidence = field(default_factory=Evidence)
    tables: Counter[Level] = field(default_factory=Counter)
    _bytes: dict[tuple[str, Entry], int] = field(default_factory=lambda: defaultdict(int))
    _rows: dict[tuple[str, Entry], int] = field(default_factory=lambda: defaultdict(int))
    _wx: list[WxRange] = field(default_factory=list)
    _wx_left_out: int = 0

    def events(self) -> Iterator[tuple[str, Rows]]:
        """Read the dump; yield rows with the name of their region, once they have been counted. Raises DumpError."""
        for event in self.reader.events():
            if isinstance(event, Marker):
                if not self.regions.mark(event.name):
                    raise DumpError(self.reader.name, event.line, f"more than {MAX_REGIONS} regions: no dump has that")
            else:
                self._count(self.regions.current, event)
                yield self.regions.current.name, event

    def _count(self, region: Region, rows: Rows) -> None:
        region.extend(rows.starts[0], rows.ends[-1])
        entry_of, size_of = self.reader.entry_of, self.reader.size_of
        look = False
        for tail, count in Counter(rows.tails).items():
            entry, size = entry_of[tail], size_of[tail]
            self.evidence.add(entry, size)
            if entry.kind is Kind.TABLE:
                self.tables[entry.level] += count
            elif entry.kind.mapped:
                self._bytes[region.name, entry] += count * size
                self._rows[region.name, entry] += count
                look = look or entry.wx
        if look:
            self._list_wx(region.name, rows)

    def _list_wx(self, region: str, rows: Rows) -> None:
        for start, end, tail in zip(*rows, strict=True):
            entry = self.reader.entry_of[tail]
            if not entry.wx:
                continue
            if len(self._wx) >= MAX_WX:
                self._wx_left_out += 1
            else:
                self._wx.append(WxRange(start, end, region, entry))

    def summary(self, page_size: int | None) -> Summary:
        """Return the figures of what was read. Raises DumpError if the page size asked for is not the dump's."""
        layout = self.reader.layout
        assert layout is not None, "the dump has been read"
        try:
            geometry = infer(layout, self.evidence, page_size)
        except PageSizeError as error:
            raise DumpError(self.reader.name, 0, str(error)) from error
        if geometry.scaled:
            self.reader.reading.caution(0, f"block sizes and TLB entries may be wrong: {SCALED}")
        names = [name for name in self.regions.all if name != OUTSIDE]
        if any(name == OUTSIDE for name, _ in self._bytes):
            names.append(OUTSIDE)
        figures = tuple(self._figures(name, [name], geometry) for name in names)
        spaces = [name for name in names if self.regions.all[name].vmalloc]
        return Summary(
            source=self.reader.name,
            layout=layout,
            geometry=geometry,
            regions=figures,
            total=self._figures("total", names, geometry),
            vmalloc=self._figures(spaces[0], spaces, geometry) if spaces else None,
            wx=tuple(self._wx),
            wx_left_out=self._wx_left_out,
            tables=self.tables,
            reading=self.reader.reading,
        )

    def _figures(self, name: str, regions: Iterable[str], geometry: Geometry) -> Figures:
        inside = [self.regions.all[region] for region in regions]
        names = {region.name for region in inside}
        used = [region for region in inside if region.end]
        found = {key: size for key, size in self._bytes.items() if key[0] in names}
        parts: dict[tuple[Level, Kind], list[int]] = defaultdict(lambda: [0, 0, 0])
        for (region, entry), size in found.items():
            part = parts[entry.level, entry.kind]
            part[0] += size
            part[1] += self._rows[region, entry]
            part[2] += -(-size // geometry.tlb_entry_bytes(entry))
        ordered = sorted(parts.items(), key=lambda item: (-item[0][0], _ORDER.index(item[0][1])))
        mapped = sum(found.values())
        return Figures(
            name=name,
            start=min((region.start for region in used), default=0),
            end=max((region.end for region in used), default=0),
            shares=tuple(Share(level, kind, *part) for (level, kind), part in ordered),
            tlb_entries_as_pages=-(-mapped // geometry.page_size),
            wx_bytes=sum(size for (_, entry), size in found.items() if entry.wx),
            device_bytes=sum(size for (_, entry), size in found.items() if entry.device),
            device_block_bytes=sum(size for (_, e), size in found.items() if e.device and e.kind.block),
            vmalloc=bool(inside) and all(region.vmalloc for region in inside),
        )


def summarise(path: str, page_size: int | None = None) -> Summary:
    """Return the figures of a dump; `path` may be `-` for standard input. Memory does not grow with the file.

    Raises DumpError.
    """
    collector = Collector(Reader(path))
    for _ in collector.events():
        pass
    return collector.summary(page_size)
