"""What changed between two dumps of the same kernel, range by range, and in each region together.

Both are read once, side by side. Dumps hold no physical addresses: a range that was unmapped and mapped again in the
same way in between has not changed.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fuzzvm.dump.entry import Entry
from fuzzvm.dump.errors import DumpError
from fuzzvm.dump.figures import Collector, Summary
from fuzzvm.dump.reader import ADDRESSES, Reader

LISTED: Final = 1000
"""Changed ranges that are listed unless asked otherwise; the others are counted."""


class What(enum.Enum):
    """How a range changed."""

    MAPPED = "mapped"
    UNMAPPED = "unmapped"
    PROMOTED = "promoted"
    """Mapped by larger entries, or by contiguous ones instead of single ones."""
    SPLIT = "split"
    PROTECTION = "protection changed"
    """Mapped by the same entries, with other attributes."""


@dataclass(frozen=True, slots=True)
class Change:
    """A range that one dump maps otherwise than the other; None where one does not map it."""

    start: int
    end: int
    region: str
    before: Entry | None
    after: Entry | None

    @property
    def what(self) -> What:
        """How the range changed. Where entries were promoted or split, attributes may differ as well."""
        if self.before is None:
            return What.MAPPED
        if self.after is None:
            return What.UNMAPPED
        was, now = _reach(self.before), _reach(self.after)
        if was == now:
            return What.PROTECTION
        return What.PROMOTED if now > was else What.SPLIT

    @property
    def other_attributes(self) -> bool:
        """Whether both dumps map the range, with attributes that differ."""
        return self.before is not None and self.after is not None and self.before.attributes != self.after.attributes

    def to_data(self) -> dict[str, Any]:
        """Return it as strings, numbers and dicts."""
        return {
            "start": f"{self.start:#018x}",
            "end": f"{self.end:#018x}",
            "bytes": self.end - self.start,
            "region": self.region,
            "change": self.what.value,
            "other_attributes": self.other_attributes,
            "before": _entry_data(self.before),
            "after": _entry_data(self.after),
        }


class Difference(NamedTuple):
    """Two dumps and what changed. `totals` are bytes and ranges by region and kind of change."""

    before: Summary
    after: Summary
    changes: tuple[Change, ...]
    left_out: int
    totals: dict[tuple[str, What], tuple[int, int]]
    moved: bool
    """vmalloc space does not begin at the same address: two boots with address randomisation, most likely. Figures of
    regions can be compared then, ranges cannot."""

    def to_data(self) -> dict[str, Any]:
        """Return it as strings, numbers, lists and dicts."""
        return {
            "before": self.before.to_data(),
            "after": self.after.to_data(),
            "vmalloc_moved": self.moved,
            "totals": [
                {"region": region, "change": what.value, "bytes": size, "ranges": ranges}
                for (region, what), (size, ranges) in self.totals.items()
            ],
            "changes": [change.to_data() for change in self.changes],
            "changes_left_out": self.left_out,
        }


class _Leaf(NamedTuple):
    start: int
    end: int
    entry: Entry | None
    region: str


_NOTHING: Final = _Leaf(ADDRESSES, ADDRESSES, None, "")


@dataclass
class _Changes:
    """Joins changes that touch and are alike, lists the first ones and adds up all."""

    limit: int
    listed: list[Change] = field(default_factory=list)
    left_out: int = 0
    bytes: Counter[tuple[str, What]] = field(default_factory=Counter)
    ranges: Counter[tuple[str, What]] = field(default_factory=Counter)
    _open: Change | None = None

    def add(self, change: Change) -> None:
        """Take a change that lies behind all others."""
        last = self._open
        if (
            last is not None
            and last.end == change.start
            and last.before == change.before
            and last.after == change.after
            and last.region == change.region
        ):
            self._open = Change(last.start, change.end, last.region, last.before, last.after)
            return
        self.close()
        self._open = change

    def close(self) -> None:
        """Take the last one for finished."""
        if (done := self._open) is None:
            return
        self._open = None
        key = (done.region, done.what)
        self.bytes[key] += done.end - done.start
        self.ranges[key] += 1
        if len(self.listed) < self.limit:
            self.listed.append(done)
        else:
            self.left_out += 1


def compare(before: str, after: str, page_size: int | None = None, limit: int = LISTED) -> Difference:
    """Return what changed between two dumps, of which one may be `-`; at most `limit` ranges are listed.

    Memory does not grow with the files. Raises DumpError.
    """
    old, new = Collector(Reader(before)), Collector(Reader(after))
    changes = _Changes(limit)
    for change in _changes(_leaves(old), _leaves(new)):
        changes.add(change)
    changes.close()
    first, second = old.summary(page_size), new.summary(page_size)
    if first.layout.architecture != second.layout.architecture:
        message = f"a dump of {second.layout.architecture}, while {first.source} is one of {first.layout.architecture}"
        raise DumpError(second.source, 0, message)
    moved = first.vmalloc is not None and second.vmalloc is not None and first.vmalloc.start != second.vmalloc.start
    totals = {key: (changes.bytes[key], changes.ranges[key]) for key in changes.bytes}
    return Difference(first, second, tuple(changes.listed), changes.left_out, totals, moved)


def _leaves(collector: Collector) -> Iterator[_Leaf]:
    """Yield the rows that map memory, then nothing for ever."""
    entry_of = collector.reader.entry_of
    for region, rows in collector.events():
        for start, end, tail in zip(*rows, strict=True):
            entry = entry_of[tail]
            if entry.kind.mapped:
                yield _Leaf(start, end, entry, region)
    while True:
        yield _NOTHING


def _changes(before: Iterator[_Leaf], after: Iterator[_Leaf]) -> Iterator[Change]:
    """Yield the ranges in which two sequences of rows differ, cut where a row of either begins or ends."""
    old, new = next(before), next(after)
    at = 0
    while old is not _NOTHING or new is not _NOTHING:
        # nothing lies before `at`; up to `end` neither changes
        begin = max(at, min(old.start, new.start))
        was = old.entry if old.start <= begin else None
        now = new.entry if new.start <= begin else None
        end = min(old.end if was else old.start, new.end if now else new.start)
        if was is not now and was != now:
            yield Change(begin, end, new.region if now else old.region, was, now)
        at = end
        if old.end == end and old is not _NOTHING:
            old = next(before)
        if new.end == end and new is not _NOTHING:
            new = next(after)


def _reach(entry: Entry) -> tuple[int, bool]:
    """Return what orders entries by how much memory one maps."""
    return -entry.level, entry.kind.contiguous


def _entry_data(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {"level": entry.level.name, "kind": entry.kind.value, "attributes": list(entry.attributes)}
