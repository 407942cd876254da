"""The normal form of AArch64 memory under a machine: of states with the same future, one.

The timeline of a run holds all that was ever stored, and views hold places on it, so that two runs which stored the
same in another order never come to the same state. Next to all of that is out of reach for good. Given what each CPU
may still do (`Needs`: more than it does is never wrong), `normal_form` keeps what some CPU could still tell apart, and
numbers it anew. Each rule with why it changes nothing, by which is meant: the same steps are possible afterwards, with
the same number of ways in the same order, the same responses, and states after them that are alike again.

Stores. A CPU that may load from a location reads the last store at or before its bound (the floors, its own last
store, what it has seen), or a later one. Bounds only grow. So stores before the smallest bound of the CPUs that may
load from there are never read again, and the oldest one kept takes the place of the initial contents. Atomics and
waits read the latest store, which is always kept. What oracles see is the latest store as well.

Points. Places on the timeline are only ever compared with the timestamps of stores that follow another one kept for
the same location: whether such a store, a *point*, is at or before a view decides whether what it overwrote can be
read. A point counts for a CPU if the CPU may load from that location and its bound there is before it. (Code: what is
kept of a site that a CPU may still fetch from, stores, DC, IC and their completion, are all points for it.) Of a view
it is enough to know the last of the CPU's points at or before it, as max() of views goes with that, and as every
message to come is later than all views there are. Where a CPU has no points, all its views are 0.

Messages. A message that is no point matters by the view that reading it gives. The store that a CPU may forward from
(`own`) is as good as any other for that CPU's view, so this CPU does not count there. Which points a view is compared
with, and so what must keep its place beside what, is said in `comparisons`; of all orders that keep that, one stands
for all. The oldest store kept of a location that need not stay behind anything becomes initial contents. A fetch takes
place no earlier than what put the stores before the oldest one kept out of reach, and so after that one in any case.

Bounds. As views are rounded down, the bound at a location of which several stores are kept, or one that has a place,
is written into what the CPU has `seen` there, which is used for nothing else.

Barriers. What a view is only read for by barriers that the CPU executes no more is 0, and so is what only fetches read.

What the adapter never reads is 0: floors of stores and of cache maintenance, which are put at the end of the timeline
and so past any floor, and pick views, which are for stores only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from fuzzvm.machine.memory import Needs
from fuzzvm.machine.memory.arm64.comparisons import Places, Pointers, Reach, carries_views, lies_in
from fuzzvm.machine.memory.arm64.timeline import COMPLETE, STORE, Message, Timeline
from fuzzvm.machine.memory.arm64.views import EMPTY, ORDERS_LOADS, ORDERS_STORES, LocationViews, Views
from fuzzvm.machine.ops import Barrier

_ORDERS_BOTH = ORDERS_LOADS & ORDERS_STORES


class Normal(NamedTuple):
    """A timeline and the views of all CPUs in normal form, with each CPU's points by their old and new timestamps."""

    timeline: Timeline
    views: list[Views]
    points: list[Points]


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


class _Kept:
    """What is kept of a timeline while its normal form is made."""

    def __init__(self, timeline: Timeline, views: Sequence[Views], needs: Sequence[Needs]) -> None:
        self.timeline = timeline
        self.views = views
        self.needs = needs
        self.points: set[int] = set()
        self.of_cpu: list[set[int]] = [set() for _ in views]
        self.bases: list[tuple[int, Hashable]] = []
        """The oldest store kept of each location, by timestamp."""
        self.bounds: list[tuple[int, Hashable, int]] = []
        """(CPU, location, timestamp of the oldest store that the CPU may read) for all that is loaded."""
        self.open: set[int] = {at for view in views for at in view.invalidations}
        self.completed: dict[int, int] = {}
        """Each IC kept that is complete, and when it was."""

    def location(self, address: Hashable, stores: tuple[int, ...]) -> None:
        """Decide what is kept of the stores to a location, and for whom they count."""
        first = len(stores) - 1
        bounds = []
        for cpu, needs in enumerate(self.needs):
            if address in needs.loads:
                bound = self._bound(cpu, address)
                oldest = bisect_right(stores, bound) - 1
                bounds.append((cpu, bound, oldest))
                first = min(first, oldest)
        fetchers = [cpu for cpu, needs in enumerate(self.needs) if address in needs.fetches]
        if fetchers:
            oldest_fetched = min(self._oldest_fetched(cpu, address, stores) for cpu in fetchers)
            # what is fetched and read as well is kept whole, as a base with a place is no way for fetches to go back to
            first = -1 if any(address in needs.reads for needs in self.needs) else min(first, oldest_fetched)
        base = stores[first] if first >= 0 else 0
        later = stores[first + 1 :]
        if base:
            self.bases.append((base, address))
        self.points.update(later)
        for cpu, bound, oldest in bounds:
            self.of_cpu[cpu].update(at for at in later if at > bound)
            self.bounds.append((cpu, address, stores[oldest] if oldest >= 0 else 0))
        if fetchers:
            self._maintenance(address, fetchers, base, later)

    def _bound(self, cpu: int, address: Hashable) -> int:
        view = self.views[cpu]
        cell = view.cells.get(address, EMPTY)
        return max(view.read_floor, cell.own, cell.seen, cell.cleaned)

    def _oldest_fetched(self, cpu: int, address: Hashable, stores: tuple[int, ...]) -> int:
        """Return the index of the oldest store that a CPU may still fetch, -1 for the initial contents.

        A store is out of reach once an IC that every fetch to come must follow came after a DC after a newer store.
        """
        view = self.views[cpu]
        cleans = self.timeline.cleans(address)
        for at, complete in reversed(self.timeline.invalidations(address)):
            if at <= view.fetch_floor or complete <= view.fetched:
                clean = bisect_right(cleans, at) - 1
                newer = bisect_right(stores, cleans[clean]) - 1 if clean >= 0 else -1
                if newer >= 0:
                    return newer
        return -1

    def _maintenance(self, address: Hashable, fetchers: list[int], base: int, later: tuple[int, ...]) -> None:
        """Decide what is kept of the cache maintenance of a site, given what is kept of its stores.

        A DC counts only after a store that overwrote one kept. An IC that is complete counts as long as something
        can be fetched from before it, or it may take a store out of reach.
        """
        points = set(later)
        if later:
            points.update(at for at in self.timeline.cleans(address) if at > later[0])
        earliest = min(self.views[cpu].fetch_floor for cpu in fetchers)
        for at, complete in self.timeline.invalidations(address):
            if at > base and (later or at > earliest):
                points.update((at, complete))
                self.completed[at] = complete
        points.update(at for at in self.open if self.timeline.messages[at - 1].address == address)
        self.points |= points
        for cpu in fetchers:
            self.of_cpu[cpu] |= points


def normal_form(
    timeline: Timeline,
    views: Sequence[Views],
    needs: Sequence[Needs],
    learned: Sequence[dict[int, int]],
    pending: Sequence[bool],
    points_to: Callable[[Hashable], int],
) -> Normal:
    """Return the normal form of a timeline and the views on it, given what each CPU may still do.

    `learned` holds for each CPU the view of each pointer to an object, and `pending` says whether messages of it are
    yet to come; `points_to` returns the object that a value points to, 0 if none.
    """
    if not timeline.messages:
        return Normal(timeline, [Views() for _ in views], [Points([]) for _ in views])
    kept = _Kept(timeline, views, needs)
    for address, stores in timeline.locations():
        kept.location(address, stores)
    pointers: Pointers | None = None
    points = []
    for cpu, own in enumerate(kept.of_cpu):
        reach = None
        if own and not carries_views(needs[cpu], pending=pending[cpu]):
            pointers = pointers or Pointers(timeline, points_to)
            reach = Reach(pointers, needs[cpu].ordering)
        points.append(Points(sorted(own), reach))
    new_timeline, moved = _renumbered(kept, points, learned)
    for cpu_points in points:
        cpu_points.move(moved, timeline)
    seen: list[dict[Hashable, int]] = [{} for _ in views]
    for cpu, address, oldest in kept.bounds:
        seen[cpu][address] = oldest
    new_views = [_views(view, points[cpu], moved, seen[cpu], needs[cpu], timeline) for cpu, view in enumerate(views)]
    return Normal(new_timeline, new_views, points)


def _places(kept: _Kept, points: Sequence[Points], learned: Sequence[dict[int, int]]) -> Places:
    """Return the places of what is kept, and which must stay before which."""
    messages = kept.timeline.messages
    places = Places(kept.timeline, {*kept.points, *kept.open, *(base for base, _ in kept.bases)})
    stores = [(at, *messages[at - 1][2:]) for at in places.kept if messages[at - 1].kind == STORE]
    oldest = {(cpu, address): at for cpu, address, at in kept.bounds}
    for cpu, (own, needs, view) in enumerate(zip(points, kept.needs, kept.views, strict=True)):
        if not own.old:
            continue
        # what a CPU forwards from its own store has no view of the store's place
        readable = [
            (at, address, value)
            for at, address, value in stores
            if address in needs.reads
            and at >= oldest.get((cpu, address), 0)
            and view.cells.get(address, EMPTY).own != at
        ]
        if own.reach is None:
            places.compare_all(own.old, [at for at, _, _ in readable])
            continue
        cells = [cell for address, cell in view.cells.items() if address in needs.reads]
        live = {at for cell in cells for at in (cell.cleaned, cell.dependency, cell.chain, cell.exclusive)}
        live.update(at for _, at in _live(view, needs))
        places.compare_within(own.old, own.reach, readable, live, learned[cpu])
    return places


def _renumbered(
    kept: _Kept, points: Sequence[Points], learned: Sequence[dict[int, int]]
) -> tuple[Timeline, dict[int, int]]:
    """Return the timeline of what is kept, and the new timestamp of each message on it; 0 is initial contents."""
    timeline = kept.timeline
    messages = timeline.messages
    initial = {address: value for address, value in timeline.initial.items() if value != 0}
    places = _places(kept, points, learned)
    first: dict[int, int] = {}
    for base, address in kept.bases:
        if places.follows_any(base):
            initial.pop(address, None)
            continue
        first[base] = 0
        if (value := messages[base - 1].value) != 0:
            initial[address] = value
        else:
            initial.pop(address, None)
    order = [at for at in places.canonical_order() if at not in first]
    moved = {old: number for number, old in enumerate(order, 1)} | first
    found = []
    for old in order:
        kind, _, address, value = messages[old - 1]
        if kind == COMPLETE:
            assert isinstance(value, tuple)
            value = tuple(moved[at] for at in value if kept.completed.get(at) == old)
        found.append(Message(kind, 0, address, value))
    if initial == timeline.initial and tuple(found) == messages:
        return timeline, moved
    return Timeline.of(initial, found), moved


def _live(view: Views, needs: Needs) -> list[tuple[str, int]]:
    """Return names and places of what later operations read of a CPU's views, but for what it has of locations."""
    barriers = needs.barriers
    live = [("read_floor", view.read_floor), ("released", view.released)]
    if barriers & ORDERS_LOADS:
        live.append(("loads", view.loads))
    if barriers & ORDERS_STORES:
        live.append(("stores", view.stores))
    if barriers & _ORDERS_BOTH:
        live += [("quiet", view.quiet), ("cleans", view.cleans)]
    if Barrier.ISB in barriers:
        live += [("synchronised", view.synchronised), ("control", view.control), ("address", view.address)]
    if needs.fetches:
        live += [("fetch_floor", view.fetch_floor), ("fetched", view.fetched)]
    return live


def _views(
    view: Views, points: Points, moved: dict[int, int], seen: dict[Hashable, int], needs: Needs, timeline: Timeline
) -> Views:
    new = Views()
    new.invalidations = tuple(sorted(moved[at] for at in view.invalidations))
    rounded = points.round
    if points.old:
        for name, at in _live(view, needs):
            if at:
                setattr(new, name, rounded(at))
        for address, cell in view.cells.items():
            if address not in needs.reads:
                continue
            stores = timeline.stores(address)
            readable = seen.get(address, stores[-1] if stores else 0)
            made = LocationViews(
                own=moved.get(cell.own, 0) if cell.own == readable else 0,
                cleaned=rounded(cell.cleaned),
                dependency=rounded(cell.dependency),
                chain=rounded(cell.chain),
                exclusive=rounded(cell.exclusive),
            )
            if made != EMPTY:
                new.cells[address] = made
    for address, oldest in seen.items():
        at = moved.get(oldest, 0)
        if at:
            new.cells[address] = new.cells.get(address, EMPTY)._replace(seen=at)
    return new
