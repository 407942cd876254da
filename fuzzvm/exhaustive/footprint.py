"""What a step touches: the facts that partial-order reduction rests on.

A footprint is one integer with two bits for each location: what a step reads and writes, or which reads and writes of
others it would conflict with. Two steps commute where the one's accesses and the other's conflicts have no bit in
common. Locations are cells of memory, the life of each object, the allocator's lists, and what observers read and
remember, as the property names it. Sequential consistency only: cache maintenance touches
nothing, and fences and TLB maintenance touch what TLBs may hold, where that is watched.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fuzzvm.exhaustive.automaton import Edge, Node
from fuzzvm.exhaustive.needs import OutdatedError
from fuzzvm.machine.ops import (
    Address,
    Alloc,
    Await,
    Barrier,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Rmw,
    Store,
    Tlbi,
    object_of,
)
from fuzzvm.machine.property import Look, Observed

_HEAP = "heap"
_TLB = "tlb"
"""What all TLBs and walk caches may hold: changed by every write to an entry, by invalidations, and by what completes
them."""


class Footprints:
    """Footprints of the steps and futures of one task's automata.

    `unwatched` are the objects from boot that the property does not watch; whatever is allocated later may be watched.
    `observed` says what observers read, and `hardware` whether they follow what TLBs may hold.
    """

    def __init__(self, unwatched: frozenset[int], observed: Observed, *, hardware: bool) -> None:
        self._hardware = hardware
        self._observed = observed
        self._unwatched = unwatched
        self._places: dict[Hashable, int] = {}
        self._of_node: dict[Node, tuple[int, int]] = {}

    def step(self, node: Node, edges: Sequence[Edge]) -> int:
        """Return the accesses of a step; `edges` are those of its ways, none where it fails or is blocked."""
        accesses, _ = self._operation(node)
        for edge in edges:
            accesses |= self._notes(edge)[0]
        return accesses

    def least(self, node: Node) -> int:
        """Return accesses of any step of a local state."""
        return self._operation(node)[0]

    def _operation(self, node: Node) -> tuple[int, int]:
        found = self._of_node.get(node)
        if found is None:
            found = self._of_node[node] = self._make(node)
        return found

    def _make(self, node: Node) -> tuple[int, int]:
        reads: list[Hashable] = []
        writes: list[Hashable] = []
        match node.op:
            case Load(address) | Await(address):
                reads = [address, ("life", object_of(address))]
            case Fetch(address):
                reads = [address]
            case Store(address, value):
                self._observed.check(address, value)
                reads, writes = [("life", object_of(address))], self._written(address)
            case Rmw(address):
                reads, writes = [address, ("life", object_of(address))], self._written(address)
            case Alloc(_, label):
                if not self._observed.knows(label):
                    raise OutdatedError
                writes = [_HEAP]
            case Free(address):
                reads, writes = [*self._observed.free(address), _TLB], [_HEAP, ("life", object_of(address))]
            case Fence(Barrier.DSB_ISH | Barrier.ISB) if self._hardware:
                writes = [_TLB]
            case Tlbi() | InterruptAll() if self._hardware:
                # what is valid then is held again at once
                reads, writes = [*self._observed.all], [_TLB]
        return self._masks(reads, writes)

    def _written(self, address: Address) -> list[Hashable]:
        if object_of(address) in self._unwatched:
            return [address]
        places = [address, *self._observed.store(address)]
        return [*places, _TLB] if self._hardware else places

    def _notes(self, edge: Edge) -> tuple[int, int]:
        """Return (accesses, conflicts) of what observers are told.

        What passes a `lasting` check now passes it after any writes of others as well. So such a step may be taken
        before those writes (it has no accesses), and not those before it.
        """
        if not edge.notes:
            return 0, 0
        looks = self._looks(edge)
        accesses, _ = self._masks([place for look in looks if not look.lasting for place in look.locations], [])
        return accesses, self._masks([place for look in looks for place in look.locations], [])[1]

    def _looks(self, edge: Edge) -> list[Look]:
        return [self._observed.annotation(note.annotation) for note in edge.notes]

    def is_last(self, node: Node) -> bool:
        """Return whether what comes after the operation of a local state does not count: it always does."""
        return False

    def _masks(self, reads: list[Hashable], writes: list[Hashable]) -> tuple[int, int]:
        """Return (accesses, conflicts): bit 2n of a location's accesses is a read, bit 2n + 1 a write."""
        accesses = conflicts = 0
        for place in reads:
            bit = 2 * self._places.setdefault(place, len(self._places))
            accesses |= 1 << bit
            conflicts |= 2 << bit
        for place in writes:
            bit = 2 * self._places.setdefault(place, len(self._places))
            accesses |= 2 << bit
            conflicts |= 3 << bit
        return accesses, conflicts

    def of_operation(self, node: Node) -> int:
        """Return what the operation of a local state conflicts with."""
        return self._operation(node)[1]

    def of_notes(self, edge: Edge) -> int:
        """Return what is read by observers where a program says something conflicts with."""
        return self._notes(edge)[1]
