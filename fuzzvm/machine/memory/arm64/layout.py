"""What is kept of a timeline in its normal form, and in which order: see `normal_form`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import accumulate

from fuzzvm.machine.memory.arm64.comparisons import Places, Pointers, Reach, lies_in
from fuzzvm.machine.memory.arm64.outline import NOT, Outline
from fuzzvm.machine.memory.arm64.timeline import COMPLETE, Message, Timeline
from fuzzvm.machine.ops import Address


class Points:
    """The points that count for one CPU: `old` timestamps, ascending, and where they are in the normal form."""

    __slots__ = ("_moved", "_new", "_timeline", "old", "reach")

    def __init__(self, old: list[int], reach: Reach | None = None) -> None:
        self.old = old
        self._new = [0]
        self.reach = reach
        """How far views are carried that come with pointers; None where they may be carried anywhere."""

    def move(self, moved: Mapping[int, int], timeline: Timeline) -> None:
        """Take note of the new timestamps of messages of a timeline."""
        self._moved = moved
        self._timeline = timeline
        # the last of them where they have changed places: they do so only where no view lies between that is rounded so
        self._new += accumulate((moved[at] for at in self.old), max)

    def round(self, view: int) -> int:
        """Return the new timestamp of the last point at or before a view, 0 if there is none."""
        return self._new[bisect_right(self.old, view)] if view and self.old else 0

    def round_towards(self, number: int, view: int) -> int:
        """Return that of the last point that a view is compared with which comes with a pointer to an object."""
        objects = None if self.reach is None else self.reach.objects(number)
        if objects is None:
            return self.round(view)
        found = 0
        for at in self.old[: bisect_right(self.old, view)]:
            if lies_in(self._timeline.messages[at - 1].address, objects):
                found = max(found, self._moved[at])
        return found


class Layout:
    """What is kept of all timelines of one shape, and in which order: `order` are the old timestamps.

    `shape` is one of these timelines, of which values do not count. `moved` has the new timestamp of each message that
    is kept, 0 for what becomes initial contents; `bases` are the oldest stores kept of each location, and `completed`
    has each IC that is kept and complete, and when it was. `points` are those of each CPU.
    """

    __slots__ = ("bases", "completed", "moved", "order", "points", "shape")

    def __init__(self, shape: Timeline, kept: _Kept, points: list[Points]) -> None:
        places = _places(kept, points)
        self.shape = shape
        self.bases = kept.bases
        self.completed = kept.completed
        self.points = points
        first = {base for base, _ in kept.bases if not places.follows_any(base)}
        self.order = [at for at in places.canonical_order() if at not in first]
        self.moved = {old: number for number, old in enumerate(self.order, 1)} | dict.fromkeys(first, 0)
        for cpu_points in points:
            cpu_points.move(self.moved, shape)

    def applied(self, timeline: Timeline) -> Timeline:
        """Return the normal form of a timeline of this shape."""
        messages = timeline.messages
        initial = {address: value for address, value in timeline.initial.items() if value != 0}
        for base, address in self.bases:
            value = messages[base - 1].value
            if self.moved[base] or value == 0:
                initial.pop(address, None)
            else:
                initial[address] = value
        found = []
        for old in self.order:
            kind, _, address, value = messages[old - 1]
            if kind == COMPLETE:
                assert isinstance(value, tuple)
                value = tuple([self.moved[at] for at in value if self.completed.get(at) == old])
            found.append(Message(kind, 0, address, value))
        if initial == timeline.initial and tuple(found) == messages:
            return timeline
        return Timeline.of(initial, found)


class _Kept:
    """What is kept of a timeline while its layout is made."""

    def __init__(self, timeline: Timeline, outlines: Sequence[Outline], loaded_code: frozenset[Address]) -> None:
        self.timeline = timeline
        self.outlines = outlines
        self.loaded_code = loaded_code
        self.points: set[int] = set()
        self.of_cpu: list[set[int]] = [set() for _ in outlines]
        self.bases: list[tuple[int, Hashable]] = []
        """The oldest store kept of each location, by timestamp."""
        self.open: set[int] = {at for outline in outlines for at in outline.open}
        self.completed: dict[int, int] = {}
        """Each IC kept that is complete, and when it was."""
        for index, (address, stores) in enumerate(timeline.locations()):
            self._location(index, address, stores)

    def _location(self, index: int, address: Hashable, stores: tuple[int, ...]) -> None:
        """Decide what is kept of the stores to a location, and for whom they count."""
        first = len(stores) - 1
        for outline in self.outlines:
            oldest = outline.oldest[index]
            if NOT < oldest < first:
                first = oldest
        fetchers = [
            cpu for cpu, outline in enumerate(self.outlines) if outline.fetched and outline.fetched[index] > NOT
        ]
        if fetchers:
            oldest_fetched = min(self.outlines[cpu].fetched[index] for cpu in fetchers)
            # what is fetched and read as well is kept whole, as a base with a place is no way for fetches to go back to
            first = -1 if address in self.loaded_code else min(first, oldest_fetched)
        base = stores[first] if first >= 0 else 0
        later = stores[first + 1 :]
        if base:
            self.bases.append((base, address))
        if later:
            self.points.update(later)
            for outline, own in zip(self.outlines, self.of_cpu, strict=True):
                if outline.oldest[index] > NOT:
                    own.update(stores[outline.oldest[index] + 1 :])
        if fetchers:
            self._maintenance(address, fetchers, base, later)

    def _maintenance(self, address: Hashable, fetchers: list[int], base: int, later: tuple[int, ...]) -> None:
        """Decide what is kept of the cache maintenance of a site, given what is kept of its stores.

        A DC counts only after a store that overwrote one kept. An IC that is complete counts as long as something
        can be fetched from before it, or it may take a store out of reach.
        """
        points = set(later)
        if later:
            points.update(at for at in self.timeline.cleans(address) if at > later[0])
        earliest = min(self.outlines[cpu].fetch_floor for cpu in fetchers)
        for at, complete in self.timeline.invalidations(address):
            if at > base and (later or at > earliest):
                points.update((at, complete))
                self.completed[at] = complete
        points.update(at for at in self.open if self.timeline.messages[at - 1].address == address)
        self.points |= points
        for cpu in fetchers:
            self.of_cpu[cpu] |= points


def layout_of(
    timeline: Timeline,
    outlines: Sequence[Outline],
    loaded_code: frozenset[Address],
    points_to: Callable[[Hashable], int],
) -> Layout:
    """Return the layout of a timeline and of all others of its shape; of the same values, if there is any `within`."""
    kept = _Kept(timeline, outlines, loaded_code)
    pointers: Pointers | None = None
    points = []
    for own, outline in zip(kept.of_cpu, outlines, strict=True):
        reach = None
        if own and outline.within is not None:
            pointers = pointers or Pointers(timeline, points_to)
            reach = Reach(pointers, outline.within.ordering)
        points.append(Points(sorted(own), reach))
    return Layout(timeline, kept, points)


def _places(kept: _Kept, points: Sequence[Points]) -> Places:
    """Return the places of what is kept, and which must stay before which."""
    messages = kept.timeline.messages
    places = Places(kept.timeline, {*kept.points, *kept.open, *(base for base, _ in kept.bases)})
    for own, outline in zip(points, kept.outlines, strict=True):
        if not own.old:
            continue
        readable = [at for at in places.kept if at in outline.readable]
        if own.reach is None:
            places.compare_all(own.old, readable)
            continue
        assert outline.within is not None
        read = [(at, *messages[at - 1][2:]) for at in readable]
        places.compare_within(own.old, own.reach, read, outline.within.live, dict(outline.within.learned))
    return places
