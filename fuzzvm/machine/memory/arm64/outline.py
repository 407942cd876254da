"""What the layout of a timeline depends on of one CPU: how far back it may read, and how far it carries views."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from typing import NamedTuple

from fuzzvm.machine.memory import Needs
from fuzzvm.machine.memory.arm64.comparisons import carries_views
from fuzzvm.machine.memory.arm64.local import Local
from fuzzvm.machine.memory.arm64.timeline import Timeline
from fuzzvm.machine.memory.arm64.views import EMPTY, ORDERS_LOADS, ORDERS_STORES, Views
from fuzzvm.machine.ops import Address, Barrier

_ORDERS_BOTH = ORDERS_LOADS & ORDERS_STORES
NOT = -2
"""In place of the index of a store: the CPU does not read that location."""


class Within(NamedTuple):
    """What decides how far a CPU carries views that come with pointers: see `Places.compare_within`."""

    ordering: frozenset[Address]
    live: frozenset[int]
    learned: frozenset[tuple[int, int]]


class Outline(NamedTuple):
    """All that what is kept of a timeline depends on of one CPU.

    By location, in the timeline's order: the index of the oldest store that the CPU may load (`oldest`) or fetch
    (`fetched`, empty if it fetches nothing), -1 for the initial contents. `open` are its IC that are not complete,
    `readable` the stores that it may read and whose place it then knows. `within` is None for a CPU that may carry any
    view to any load.
    """

    oldest: tuple[int, ...]
    fetched: tuple[int, ...] = ()
    fetch_floor: int = 0
    open: tuple[int, ...] = ()
    readable: frozenset[int] = frozenset()
    within: Within | None = None


def outline_of(shape: Timeline, local: Local, needs: Needs) -> Outline:
    """Return the outline of a CPU, given its part of memory and what it may still do."""
    view = local.views
    oldest = []
    stale = False
    for address, stores in shape.locations():
        index = NOT
        if address in needs.loads:
            index = bisect_right(stores, _bound(view, address)) - 1
            stale = stale or index < len(stores) - 1
        oldest.append(index)
    fetched: tuple[int, ...] = ()
    if not needs.fetches.isdisjoint([address for address, _ in shape.locations()]):
        fetched = tuple(
            [
                _oldest_fetched(shape, view, address, stores) if address in needs.fetches else NOT
                for address, stores in shape.locations()
            ]
        )
    if not stale and not fetched:
        # no place is a point for this CPU
        return Outline(tuple(oldest), open=view.invalidations)
    # what a CPU forwards from its own store has no view of the store's place
    readable = [
        at
        for (address, stores), index in zip(shape.locations(), oldest, strict=True)
        if address in needs.reads
        for at in stores[max(index, 0) :]
        if view.cells.get(address, EMPTY).own != at
    ]
    within = None
    if not carries_views(needs, pending=bool(local.pending)):
        cells = [cell for address, cell in view.cells.items() if address in needs.reads]
        live = {at for cell in cells for at in (cell.cleaned, cell.dependency, cell.chain, cell.exclusive)}
        live.update(at for _, at in live_views(view, needs))
        within = Within(needs.ordering, frozenset(live), frozenset(local.learned.items()))
    floor = view.fetch_floor if fetched else 0
    return Outline(tuple(oldest), fetched, floor, view.invalidations, frozenset(readable), within)


def _bound(view: Views, address: Hashable) -> int:
    cell = view.cells.get(address, EMPTY)
    return max(view.read_floor, cell.own, cell.seen, cell.cleaned)


def _oldest_fetched(timeline: Timeline, view: Views, address: Hashable, stores: tuple[int, ...]) -> int:
    """Return the index of the oldest store that a CPU may still fetch, -1 for the initial contents.

    A store is out of reach once an IC that every fetch to come must follow came after a DC after a newer store.
    """
    cleans = timeline.cleans(address)
    for at, complete in reversed(timeline.invalidations(address)):
        if at <= view.fetch_floor or complete <= view.fetched:
            clean = bisect_right(cleans, at) - 1
            newer = bisect_right(stores, cleans[clean]) - 1 if clean >= 0 else -1
            if newer >= 0:
                return newer
    return -1


def live_views(view: Views, needs: Needs) -> list[tuple[str, int]]:
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
