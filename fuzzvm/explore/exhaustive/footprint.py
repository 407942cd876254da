"""What a step touches, and what a CPU may still touch: the facts that partial-order reduction rests on.

A footprint is one integer with two bits for each location: what a step reads and writes, or which reads and writes of
others it would conflict with. Two steps commute where the one's accesses and the other's conflicts have no bit in
common. Locations are cells of memory, the life of each object, the allocator's lists, and the page tables as a whole,
as the oracles read them. Sequential consistency only: fences, TLB and cache maintenance touch nothing.
"""

from __future__ import annotations

from collections.abc import Hashable

from fuzzvm.explore.automaton import Automaton, Edge, Node
from fuzzvm.kernel.mmap_lock import AssertWriteLocked
from fuzzvm.machine.ops import Address, Alloc, Annotation, Await, Fetch, Free, Load, Rmw, Store, object_of
from fuzzvm.scenario.calls import Output

_HEAP = "heap"
_TABLES = "tables"
"""All page-table entries together, and what oracles remember of walks: every write to an entry counts as a write."""


class Footprints:
    """Footprints of the steps and futures of one system's automata.

    `unwatched` are the objects from boot that oracles do not watch; whatever is allocated later may be a page table.
    """

    def __init__(self, unwatched: frozenset[int]) -> None:
        self._unwatched = unwatched
        self._places: dict[Hashable, int] = {}
        self._of_node: dict[Node, tuple[int, int]] = {}

    def step(self, node: Node, edge: Edge | None) -> int:
        """Return the accesses of a step; `edge` is None where the operation fails, or is blocked."""
        accesses, _ = self._operation(node)
        return accesses if edge is None else accesses | self._notes(edge)[0]

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
            case Store(address):
                reads, writes = [("life", object_of(address))], self._written(address)
            case Rmw(address):
                reads, writes = [address, ("life", object_of(address))], self._written(address)
            case Alloc():
                writes = [_HEAP]
            case Free(address):
                reads, writes = [_TABLES], [_HEAP, ("life", object_of(address))]
        return self._masks(reads, writes)

    def _written(self, address: Address) -> list[Hashable]:
        return [address] if object_of(address) in self._unwatched else [address, _TABLES]

    def _notes(self, edge: Edge) -> tuple[int, int]:
        if not edge.notes:
            return 0, 0
        reads = [place for note in edge.notes for place in _looked_at(note.annotation)]
        return self._masks(reads, [])

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

    def own(self, node: Node) -> int:
        """Return the conflicts of a local state's own operation, and of what is known to be said after it."""
        conflicts = self._operation(node)[1]
        for edge in node.edges.values():
            conflicts |= self._notes(edge)[1]
        return conflicts

    def futures(self, automaton: Automaton) -> tuple[list[int], list[bool]]:
        """Return for each local state what all its known futures conflict with, and whether it lies on a cycle.

        Strongly connected components (Tarjan 1972), so that a component is done after all that follow it.
        """
        count = len(automaton.nodes)
        future = [0] * count
        cyclic = [False] * count
        order = [0] * count
        low = [0] * count
        open_nodes: list[int] = []
        is_open = [False] * count
        visits = 0
        for root in range(count):
            if order[root]:
                continue
            visits += 1
            order[root] = low[root] = visits
            open_nodes.append(root)
            is_open[root] = True
            todo = [(root, iter(_successors(automaton.nodes[root])))]
            while todo:
                place, successors = todo[-1]
                for following in successors:
                    if not order[following]:
                        visits += 1
                        order[following] = low[following] = visits
                        open_nodes.append(following)
                        is_open[following] = True
                        todo.append((following, iter(_successors(automaton.nodes[following]))))
                        break
                    if is_open[following]:
                        low[place] = min(low[place], order[following])
                else:
                    todo.pop()
                    if todo:
                        low[todo[-1][0]] = min(low[todo[-1][0]], low[place])
                    if low[place] == order[place]:
                        self._close(automaton, place, open_nodes, is_open, future, cyclic)
        return future, cyclic

    def _close(
        self,
        automaton: Automaton,
        root: int,
        open_nodes: list[int],
        is_open: list[bool],
        future: list[int],
        cyclic: list[bool],
    ) -> None:
        members = []
        while not members or members[-1] != root:
            members.append(open_nodes.pop())
            is_open[members[-1]] = False
        conflicts = 0
        for member in members:
            node = automaton.nodes[member]
            conflicts |= self.own(node)
            for following in _successors(node):
                conflicts |= future[following]
        on_cycle = len(members) > 1 or root in _successors(automaton.nodes[root])
        for member in members:
            future[member] = conflicts
            cyclic[member] = on_cycle


def _successors(node: Node) -> list[int]:
    return [edge.target.number for edge in node.edges.values() if edge.target is not None]


def _looked_at(annotation: Annotation) -> list[Hashable]:
    """Return the locations that oracles read when a program says something."""
    if isinstance(annotation, Output):
        return []
    if isinstance(annotation, AssertWriteLocked):
        return [annotation.lock.address]
    return [_TABLES]
