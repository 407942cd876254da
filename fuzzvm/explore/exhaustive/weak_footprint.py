"""What a step touches under a memory model whose stores take effect late and whose loads may be stale.

On top of what `footprint` says. A CPU and the agent of its buffer are one: what is still buffered counts as what the
CPU may still do, and so does what it has begun and not finished. An interrupt of all CPUs touches them all (`_KICK`),
and so conflicts with whatever has an effect that it changes: stores, and loads that may be stale.

Why steps with no conflict may be taken first. Let a be a step of CPU c, and t a step of another CPU before it. If they
do not conflict, then a is possible before t, with the same responses to both, and the state after a, t has all the
futures that the state after t, a has. For loads, fences and what else puts nothing on the timeline the states are
equal. A store's place on the timeline is later in t, a, where t puts a message as well. That is what makes the
difference: the views of c, and of who reads the store, are then past t's message, and smaller views allow more (each
floor is a maximum of views, each load may read what its floor allows). In turn t's message is past a's store in a, t,
which asks of who reads it that he sees a's store, but nobody who is not c touches that location any more. So the runs
of a, t include those of t, a, and all of them are runs of the system.

For the same reason a store that no other CPU may see any more is not kept back: what is put early is put best.

A store is not kept back either if the CPU's next step puts it in place anyway (`idle`): between the two, nothing but
the steps of others takes place, and they do not see what is kept back, so the store might as well have been executed
as late as it was put in place. (But for one thing: from its execution on, a free is seen to race with loads that the
store has overtaken. Where there are such loads, it is kept back as well.)
"""

from __future__ import annotations

from collections.abc import Hashable

from fuzzvm.explore.automaton import Edge, Node
from fuzzvm.explore.exhaustive.footprint import Footprints
from fuzzvm.kernel.ptdump_notes import WalkBegins
from fuzzvm.machine.memory import MemoryModel, Unfinished
from fuzzvm.machine.ops import CacheMaintenance, CacheOperation, Fetch, Free, InterruptAll, Load, Operation, Rmw, Store, Tlbi

_KICK = "kick"
_FLIGHT = "flight"
"""Loads that are in flight, as an interrupt ends them all and a free looks at them."""


class WeakFootprints(Footprints):
    """Footprints under a memory model that is `reducible`. Bits are those of `Footprints`."""

    def __init__(self, unwatched: frozenset[int], model: type[MemoryModel]) -> None:
        super().__init__(unwatched)
        self._model = model

    def _make(self, node: Node) -> tuple[int, int]:
        accesses, conflicts = super()._make(node)
        reads: list[Hashable] = []
        writes: list[Hashable] = []
        match node.op:
            case Load() | Fetch() | Rmw() if self._model.stale_reads:
                reads = [_KICK]
            case Store():
                reads = [_KICK]
            case CacheMaintenance(address=address) if self._model.stale_reads:
                reads, writes = [_KICK], [address]
            case InterruptAll():
                reads, writes = [_FLIGHT], [_KICK]
            case Free():
                writes = [_FLIGHT]
        more = self._masks(reads, writes)
        return accesses | more[0], conflicts | more[1]

    def _notes(self, edge: Edge) -> tuple[int, int]:
        accesses, conflicts = super()._notes(edge)
        if any(isinstance(note.annotation, WalkBegins) for note in edge.notes):
            more = self._masks([_KICK], [])
            return accesses | more[0], conflicts | more[1]
        return accesses, conflicts

    def unfinished(self, begun: Unfinished) -> tuple[int, int]:
        """Return (accesses, conflicts) of what a CPU has begun."""
        if not begun.locations and not begun.objects:
            return 0, 0
        reads: list[Hashable] = [("life", number) for number in begun.objects]
        writes = [place for address in begun.locations for place in self._written(address)]
        return self._masks([*reads, _KICK], writes)


def idle(model: type[MemoryModel], node: Node) -> bool:
    """Return whether keeping back what a local state's operation writes changes nothing but when it is executed."""
    first = node.op
    if not isinstance(first, Store | CacheMaintenance):
        return False
    executed: list[Operation] = [first]
    while True:
        if len(node.edges) != 1:
            return False
        (edge,) = node.edges.values()
        if edge.notes or edge.target is None:
            return False
        node = edge.target
        if node.op is None:
            return True
        if all(model.settles(node.op, op) for op in executed):
            return True
        if node.op == CacheMaintenance(CacheOperation.DC_CVAU, first.address) and first != node.op:
            # kept back as well, it stays behind a store to the same location
            if not isinstance(first, Store):
                return False
            executed.append(node.op)
        elif not isinstance(node.op, Tlbi):
            return False
        if len(executed) > 2:
            return False
