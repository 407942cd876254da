"""What a step touches under a memory model whose stores take effect late and whose loads may be stale.

On top of what `footprint` says. A CPU and the agent of its buffer are one: what is still buffered counts as what the
CPU may still do, and so does what it has begun and not finished. An interrupt of all CPUs touches them all (`_KICK`):
loads to come may be stale without it and not with it, and what is kept back is not kept back any longer. A step that
has one way only, and keeps nothing back, may be taken before it all the same: an interrupt raises all floors to the
end of the timeline, so that afterwards the CPU's views are no greater than if it had taken the step behind it.

Why steps with no conflict may be taken first. Let a be a step of CPU c, and t a step of another CPU before it. If they
do not conflict, then a is possible before t, with the same responses to both, and the state after a, t has all the
futures that the state after t, a has. For loads, fences and what else puts nothing on the timeline the states are
equal. A store's place on the timeline is later in t, a, where t puts a message as well. That is what makes the
difference: the views of c, and of who reads the store, are then past t's message, and smaller views allow more (each
floor is a maximum of views, each load may read what its floor allows). In turn t's message is past a's store in a, t,
which asks of who reads it that he sees a's store, but nobody who is not c touches that location any more. So the runs
of a, t include those of t, a, and all of them are runs of the system.

For the same reason a store that no other CPU may see any more is not kept back: what is put early is put best. Its own
CPU reads it either way; but the oracles look at memory, so it must not be one that they look at on that CPU's behalf
before it is put in place (`Looks`): a table that is freed behind a store that unlinks it, with no barrier between.

A store is not kept back either if the CPU's next step puts it in place anyway (`idle`): between the two, nothing but
the steps of others takes place, and they do not see what is kept back, so the store might as well have been executed
as late as it was put in place. Executed then, it may meet an error: its object has been freed, or an entry that another
CPU has set is overwritten. The run that kept it back has gone past that, to an end that is not visited then, or to the
free, which is seen to race with what is pending. So ends are all there where no run goes wrong, and where one does,
some run does here. (Where a store has overtaken loads, a free is seen to race with those from its execution on. There
it is kept back as well.)
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property

from fuzzvm.exhaustive.automaton import Edge, Node
from fuzzvm.exhaustive.footprint import Footprints
from fuzzvm.machine.memory import MemoryModel, Unfinished
from fuzzvm.machine.ops import (
    CacheMaintenance,
    CacheOperation,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Store,
    Tlbi,
    object_of,
)
from fuzzvm.machine.property import Look, Observed

_KICK = "kick"
_FLIGHT = "flight"
"""Loads that are in flight, as an interrupt ends them all and a free looks at them."""


class WeakFootprints(Footprints):
    """Footprints under a memory model that is `reducible`. Bits are those of `Footprints`."""

    def __init__(
        self, unwatched: frozenset[int], observed: Observed, model: type[MemoryModel], *, hardware: bool
    ) -> None:
        super().__init__(unwatched, observed, hardware=hardware)
        self._model = model

    def _make(self, node: Node) -> tuple[int, int]:
        """Return (accesses, conflicts); that a step may go several ways counts as an access of its own, see `branches`.

        A fetch may still get the old instruction after a store, as long as no IC is complete, so that nobody needs to
        fetch before a store; but who fetches must wait for stores that may come.
        """
        match node.op:
            case Fetch(address) if self._model.stale_reads:
                accesses, _ = self._masks([address, ("code", address)], [])
                _, conflicts = self._masks([("code", address), *self._stale()], [])
                return accesses, conflicts
            case CacheMaintenance(CacheOperation.IC_IVAU, address) if self._model.stale_reads:
                accesses, conflicts = self._masks([], [address, ("code", address)])
                return accesses, conflicts | self.branches[1]
            case CacheMaintenance(_, address) if self._model.stale_reads:
                accesses, conflicts = self._masks([], [address])
                return accesses, conflicts | self.branches[1]
        accesses, conflicts = super()._make(node)
        match node.op:
            case InterruptAll():
                more = self._masks([_FLIGHT], [_KICK])
                return accesses | more[0], conflicts | more[1]
            case Fetch():
                conflicts |= self.branches[1]
            case Load() | Rmw():
                conflicts |= self._masks(self._stale(), [])[1]
            case Store():
                conflicts |= self.branches[1]
            case Free():
                more = self._masks([], [_FLIGHT])
                return accesses | more[0], conflicts | more[1]
        return accesses, conflicts

    @cached_property
    def branches(self) -> tuple[int, int]:
        """(accesses, conflicts) of a step that has several ways, or keeps something back: an interrupt changes it."""
        return self._masks([_KICK], [])

    def _stale(self) -> list[Hashable]:
        return [_KICK] if self._model.stale_reads else []

    def _notes(self, edge: Edge) -> tuple[int, int]:
        readable = any(look.readable for look in self._looks(edge))
        if readable and self._model.stale_reads:
            # what the CPU may read depends on those stores alone that it cannot miss, which come before it in any
            # order of the steps. Others it may find at any time, also once they were overwritten.
            notes = [note for note in edge.notes if not self._observed.annotation(note.annotation).readable]
            edge = edge._replace(notes=tuple(notes))
        accesses, conflicts = super()._notes(edge)
        if readable:
            more = self._masks([_KICK], [])
            return accesses | more[0], conflicts | more[1]
        return accesses, conflicts

    def unfinished(self, begun: Unfinished) -> tuple[int, int]:
        """Return (accesses, conflicts) of what a CPU has begun."""
        if not begun.locations and not begun.objects:
            return 0, 0
        objects = begun.objects.union(map(object_of, begun.locations))
        reads: list[Hashable] = [("life", number) for number in objects]
        writes = [place for address in begun.locations for place in (*self._written(address), ("code", address))]
        return self._masks([*reads, _KICK], writes)

    def written(self, op: Store) -> int:
        """Return what looks of observers conflict with, of a store to what they watch."""
        return self._masks([], [*self._observed.store(op.address)])[1]

    def read_by_free(self, op: Free) -> int:
        """Return the accesses of observers when an object is freed."""
        return self._masks([*self._observed.free(op.address)], [])[0]

    def read_by_notes(self, edge: Edge) -> int:
        """Return the accesses of observers when a program says something."""
        return self._masks([place for look in self._looks(edge) for place in look.locations], [])[0]

    def idle(self, node: Node) -> bool:
        """Return whether keeping back what a local state's operation writes changes nothing but when it is executed.

        Where TLBs are watched, an invalidation between changes something: it comes before what is kept back.
        """
        first = node.op
        if not isinstance(first, Store | CacheMaintenance):
            return False
        executed: list[Operation] = [first]
        while True:
            if len(node.edges) != 1:
                return False
            (edge,) = node.edges.values()
            # a note that observers look at nothing for finds the store in place or not
            if edge.target is None or any(look != Look() for look in self._looks(edge)):
                return False
            node = edge.target
            if node.op is None:
                return True
            if all(self._model.settles(node.op, op) for op in executed):
                return True
            if node.op == CacheMaintenance(CacheOperation.DC_CVAU, first.address) and first != node.op:
                # kept back as well, it stays behind a store to the same location
                if not isinstance(first, Store):
                    return False
                executed.append(node.op)
            elif self._hardware or not isinstance(node.op, Tlbi):
                return False
            if len(executed) > 2:
                return False


class Looks:
    """What observers look at because of what a CPU does while a store that it has kept back may be so still.

    They look at memory, where that store is not: its own CPU's next free or note may find the entry as it was.
    """

    def __init__(self, footprints: WeakFootprints, model: type[MemoryModel]) -> None:
        self._footprints = footprints
        self._model = model

    def of_operation(self, node: Node) -> int:
        """Return what is looked at because of the operation of a local state."""
        return self._footprints.read_by_free(node.op) if isinstance(node.op, Free) else 0

    def of_notes(self, edge: Edge) -> int:
        """Return what is looked at where a program says something."""
        return self._footprints.read_by_notes(edge)

    def is_last(self, node: Node) -> bool:
        """Return whether an operation puts in place whatever store its CPU has kept back."""
        return node.op is not None and self._model.settles(node.op, _ANY_STORE)


_ANY_STORE = Store(0, 0)
