"""Entries that only the image has: its tables are larger than the model's, and loops go over all of them.

An entry with an index past the model's fan-out is only the image's. Where code does with it what it does with an entry
that both have, it says nothing new, and is left out. Where the call does that with no entry that both have, it cannot
be compared: it is left out as well, and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fuzzvm.compare.operations import Entry, Visible

Shape = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class OnlyImages:
    """Operations on entries that the model does not have, and has none like: `entries` of them, each with these."""

    level: str
    operations: tuple[str, ...]
    function: str
    entries: int


@dataclass
class _Group:
    """Operations on one entry in a row, and what follows until the next entry."""

    entry: Entry | None
    own: list[Visible]
    after: list[Visible]

    def shape(self) -> Shape:
        return tuple(_shape(one) for one in self.own)


def _shape(one: Visible) -> tuple[str, ...]:
    place = one.place.level if isinstance(one.place, Entry) else one.place
    return one.kind, place, one.detail, one.order, one.function


def collapsed(operations: Sequence[Visible], fanout: int) -> tuple[list[Visible], int, list[OnlyImages]]:
    """Return the operations without entries that only the image has, how many were like others, and what was not."""
    groups = _groups(operations)
    shared = [group for group in groups if group.entry is not None and _is_shared(group.entry, fanout)]
    like: dict[Shape, list[list[Visible]]] = {}
    for group in shared:
        like.setdefault(group.shape(), []).append(group.after)
    kept: list[Visible] = []
    alike = 0
    unlike: dict[Shape, list[_Group]] = {}
    for group in groups:
        if group.entry is None or _is_shared(group.entry, fanout):
            kept += [*group.own, *group.after]
            continue
        shape = group.shape()
        if shape in like:
            alike += 1
            most = max(_common(group.after, after) for after in like[shape])
        else:
            of_this_shape = unlike.setdefault(shape, [])
            of_this_shape.append(group)
            most = _common(group.after, of_this_shape[0].after)
        kept += group.after[most:]
    return kept, alike, [_only_images(groups) for groups in unlike.values()]


def _groups(operations: Sequence[Visible]) -> list[_Group]:
    groups = [_Group(None, [], [])]
    for one in operations:
        if not isinstance(one.place, Entry) or one.kind == "free":
            groups[-1].after.append(one)
        elif one.place == groups[-1].entry and not groups[-1].after:
            groups[-1].own.append(one)
        elif one.place == groups[-1].entry:
            # barriers between operations on one entry belong to it
            groups[-1].own += [*groups[-1].after, one]
            groups[-1].after = []
        else:
            groups.append(_Group(one.place, [one], []))
    return groups


def _is_shared(entry: Entry, fanout: int) -> bool:
    return all(0 <= index < fanout for index in entry.path)


def _common(some: Sequence[Visible], others: Sequence[Visible]) -> int:
    count = 0
    for one, other in zip(some, others, strict=False):
        if _shape(one) != _shape(other):
            break
        count += 1
    return count


def _only_images(groups: Sequence[_Group]) -> OnlyImages:
    first = groups[0]
    assert first.entry is not None
    words = tuple(f"{one.kind} {one.detail}".rstrip() if one.kind != "fence" else one.detail for one in first.own)
    return OnlyImages(first.entry.level, words, first.own[0].function, len(groups))


def joined(operations: Sequence[Visible]) -> list[Visible]:
    """Return the operations with TLBIs of one page after the other as one."""
    found: list[Visible] = []
    for one in operations:
        last = found[-1] if found else None
        if (
            last is not None
            and last.kind == one.kind == "tlbi"
            and last.detail == one.detail
            and last.pages is not None
            and one.pages is not None
            and last.pages[1] == one.pages[0]
        ):
            found[-1] = replace(last, pages=(last.pages[0], one.pages[1]))
        else:
            found.append(one)
    return found
