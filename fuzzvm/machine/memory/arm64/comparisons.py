"""Which places on a timeline are compared with each other by anything to come, and an order that keeps those alone.

A place decides something only where a view is compared with a point (see `normal_form`). Views to come are those of
messages that a CPU reads, joined with views that it has. Joining takes the later place, so that a view is as good as
the set of points at or before it; and it is enough if each view and each message that may be read has the right ones
of the points that it may ever be compared with before it. Messages that are compared with none of each other may be put
in any order, and `canonical_order` takes the same one for all timelines that agree on what is compared.

What a view is compared with. A CPU that may execute a barrier that orders loads, an ISB, a fetch or a store may
carry any view to any load: all its points count. One that will do none of that only passes a view on in two ways. An
acquire or an atomic raises floors, for all points. A plain load leaves a view that loads through the pointer it
returned must come after: points in the object it points to, and where such loads return pointers, in those objects, as
far as what is stored there by now goes. (A message that is yet to come is later than every point there is, and so is
the view of who reads it; but not of a CPU that reads what it has stored itself, which may be by an atomic.) Where an
acquire or an atomic may take place on the way, all points count again: an atomic's own store passes on what it read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

from fuzzvm.machine.memory import Needs
from fuzzvm.machine.memory.arm64.timeline import STORE, Timeline
from fuzzvm.machine.memory.arm64.views import ORDERS_LOADS
from fuzzvm.machine.ops import Address, Barrier, object_of

_CARRIES = ORDERS_LOADS | {Barrier.ISB}


def carries_views(needs: Needs, *, pending: bool) -> bool:
    """Return whether a CPU may carry the view of a plain load to any load that follows."""
    return bool(pending or needs.stores or needs.fetches or needs.exact or needs.barriers & _CARRIES)


def lies_in(address: Hashable, objects: frozenset[int]) -> bool:
    """Return whether a location is one of some objects."""
    return isinstance(address, int) and object_of(address) in objects


class Pointers:
    """What the values on a timeline point to: for each object, the objects that a value in it points to or did."""

    def __init__(self, timeline: Timeline, points_to: Callable[[Hashable], int]) -> None:
        self.points_to = points_to
        self.of: dict[int, set[int]] = {}
        for address, value in timeline.initial.items():
            self._take(address, value)
        for message in timeline.messages:
            if message.kind == STORE:
                self._take(message.address, message.value)

    def _take(self, address: Hashable, value: Hashable) -> None:
        number = self.points_to(value)
        if number and isinstance(address, int):
            self.of.setdefault(object_of(address), set()).add(number)


class Reach:
    """Which points views can be compared with that come with a pointer, for a CPU that does not carry them further.

    `ordering` are the locations of which an acquire or an atomic of the CPU may read.
    """

    def __init__(self, pointers: Pointers, ordering: frozenset[Address]) -> None:
        self.points_to = pointers.points_to
        self.ordering = ordering
        self._pointers = pointers.of
        self._ordering = frozenset(map(object_of, ordering))
        self._known: dict[int, frozenset[int] | None] = {}

    def objects(self, number: int) -> frozenset[int] | None:
        """Return the objects that loads through a pointer to an object can come to; None if all points count."""
        if number not in self._known:
            found = {number}
            todo = [number]
            while todo:
                for following in self._pointers.get(todo.pop(), ()):
                    if following not in found:
                        found.add(following)
                        todo.append(following)
            self._known[number] = None if found & self._ordering else frozenset(found)
        return self._known[number]


class Places:
    """The places that matter of one timeline, in its order, and which of them must stay before which."""

    def __init__(self, timeline: Timeline, kept: Iterable[int]) -> None:
        self.kept = sorted(kept)
        """Timestamps of what is kept, ascending."""
        self._messages = timeline.messages
        self._index = {at: index for index, at in enumerate(self.kept)}
        self._before = [0] * len(self.kept)
        """For each, those that must stay before it, as bits by index."""
        latest: dict[Hashable, int] = {}
        for index, at in enumerate(self.kept):
            kind, _, address, _ = timeline.messages[at - 1]
            if kind == STORE:
                if address in latest:
                    self._before[index] |= 1 << latest[address]
                latest[address] = index

    def compare_all(self, points: Iterable[int], readable: Iterable[int]) -> None:
        """Keep points in their order, and each message that may be read on its side of each of them."""
        bits = self._bits(points)
        earlier = 0
        for index in _indices(bits):
            self._before[index] |= earlier
            earlier |= 1 << index
        for at in readable:
            self._compare(at, bits)

    def compare_within(
        self,
        points: Iterable[int],
        reach: Reach,
        readable: Iterable[tuple[int, Hashable, Hashable]],
        views: Iterable[int],
        learned: Mapping[int, int],
    ) -> None:
        """Keep what matters to a CPU that carries views of plain loads no further than the pointers that it loaded.

        `readable` are timestamp, location and value of messages that it may read, `views` those that all points are
        compared with, `learned` those that came with a pointer to an object.
        """
        bits = self._bits(points)
        for view in views:
            self._part(view, bits)
        for number, view in learned.items():
            self._part(view, self._within(bits, reach.objects(number)))
        for at, address, value in readable:
            if address in reach.ordering:
                self._compare(at, bits)
            elif number := reach.points_to(value):
                self._compare(at, self._within(bits, reach.objects(number)))

    def follows_any(self, at: int) -> bool:
        """Return whether a message must stay behind any other."""
        return self._before[self._index[at]] != 0

    def canonical_order(self) -> list[int]:
        """Return the timestamps of what is kept: always the smallest that may come next, by location and kind."""
        left = sorted(range(len(self.kept)), key=self._label)
        before = self._before
        done = 0
        order = []
        while left:
            following = next(index for index in left if not before[index] & ~done)
            left.remove(following)
            done |= 1 << following
            order.append(self.kept[following])
        return order

    def _label(self, index: int) -> tuple[int, int, int]:
        kind, _, address, _ = self._messages[self.kept[index] - 1]
        return (address if isinstance(address, int) else -1, kind, index)

    def _bits(self, places: Iterable[int]) -> int:
        bits = 0
        for at in places:
            bits |= 1 << self._index[at]
        return bits

    def _within(self, points: int, objects: frozenset[int] | None) -> int:
        """Return those of some points that lie in some objects; None stands for all."""
        if objects is None:
            return points
        found = 0
        for index in _indices(points):
            if lies_in(self._messages[self.kept[index] - 1].address, objects):
                found |= 1 << index
        return found

    def _compare(self, at: int, points: int) -> None:
        """Keep a message on its side of each point."""
        index = self._index[at]
        here = 1 << index
        self._before[index] |= points & (here - 1)
        for later in _indices(points & ~(2 * here - 1)):
            self._before[later] |= here

    def _part(self, view: int, points: int) -> None:
        """Keep the points at or before a view before those after it."""
        earlier = points & (1 << bisect_right(self.kept, view)) - 1
        if earlier:
            for later in _indices(points & ~earlier):
                self._before[later] |= earlier


def _indices(bits: int) -> Iterator[int]:
    """Yield the indices of the bits that are set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
