"""Loads and later stores of one CPU that nothing orders: the store could be seen before the load has returned.

The rules are those of `lob` in Arm's aarch64.cat (Arm ARM B2.3.6 ff.) that end in a store. Where operations say what
they depend on, that is used. Where they do not, an access through a pointer comes after the last load that returned the
pointer, as in `fuzzvm.machine.memory.arm64`, and nothing else counts as a dependency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeGuard

from fuzzvm.exhaustive.automaton import Automaton, Node, Values
from fuzzvm.machine.memory.arm64.views import ACQUIRES, ORDERS_LOADS, RELEASES
from fuzzvm.machine.ops import (
    Address,
    Await,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Dependencies,
    Fence,
    InterruptAll,
    Load,
    Operation,
    Order,
    Rmw,
    Store,
    Value,
    object_of,
)

_OF_LOADS = frozenset({Barrier.DMB_ISHLD, Barrier.DSB_ISHLD})
"""The barriers that do not order a load half of an atomic that returns nothing."""


class _Edge(NamedTuple):
    """The place that follows an operation, the object that the response points to, 0 for none, and whether the
    operation is an atomic that has stored.
    """

    place: int
    points: int
    stored: bool


class _Open(NamedTuple):
    """A way from a load to a place, on which nothing has ordered it before what follows.

    `named` says whether the load's name still stands for it. `pointer` is the object that it has returned a pointer to
    and that no other load has returned a pointer to since, 0 for none. `sealed` are locations whose later stores come
    after the load. `followed` says whether a store of this way comes after the load, `released` whether a release does.
    `maintenance` says that of what follows only cache maintenance could still come before the load.
    """

    place: int
    named: bool
    pointer: int
    sealed: frozenset[Address]
    followed: bool = False
    released: bool = False
    maintenance: bool = False


class EarlyPairs:
    """The early pairs of one automaton, as far as it is known."""

    def __init__(self, automaton: Automaton, values: Values, points_to: Callable[[Value], int]) -> None:
        self._nodes: dict[int, Node] = {}
        self._edges: dict[int, set[_Edge]] = {}
        """By place, what follows."""
        self._independent: dict[int, set[_Edge]] = {}
        """By place, what follows a load there on which no branch is known to depend."""
        pointed: dict[int, int] = {}
        for node in automaton.nodes:
            self._nodes.setdefault(node.place, node)
            reads = isinstance(node.op, Load | Await | Rmw) and node.op.depends is None
            found = set()
            for response, edge in node.edges.items():
                if edge.target is not None:
                    points = 0
                    if reads:
                        if response not in pointed:
                            pointed[response] = points_to(values[response])
                        points = pointed[response]
                    found.add(_Edge(edge.target.place, points, _stored(node.op, values[response])))
            self._edges.setdefault(node.place, set()).update(found)
            if _may_be_overtaken(node.op) and not (reads and _decides(node)):
                self._independent.setdefault(node.place, set()).update(found)
        self._maintains = any(isinstance(node.op, CacheMaintenance) for node in self._nodes.values())

    def on_cycles(self, closing: Mapping[Address, frozenset[Address]]) -> Iterator[tuple[Node, Node, frozenset[int]]]:
        """Yield the early pairs of a load and a store where `closing` has the load's location for the store's.

        The third is where the CPU may stand when another CPU stores what the load returns: behind any early store.
        """
        wanted = frozenset[Address]().union(*closing.values())
        for place in self._independent:
            node = self._nodes[place]
            op = node.op
            if _may_be_overtaken(op) and op.address in wanted and not self._unused(place, op):
                stores = {address for address, loads in closing.items() if op.address in loads}
                found = self._before(place, op)
                after = frozenset(edge.place for early in found for edge in self._edges[early])
                for early in sorted(found):
                    if self._nodes[early].op.address in stores:  # type: ignore[union-attr]
                        yield node, self._nodes[early], after

    def _unused(self, place: int, load: Load | Rmw) -> bool:
        """Return whether nothing depends on what a load returns."""
        if load.depends is None:
            return False
        token = load.depends.token
        function = self._nodes[place].site[0]
        for edge in self._edges[place]:
            node = self._nodes[edge.place]
            op = node.op
            depends: Dependencies | None = getattr(op, "depends", None)
            if op is not None and (depends is None or any(token in names for names in (*depends[:5], depends.live))):
                return False
            # a function that is stood for does not say what comes of its arguments
            if op is not None and node.site[0] != function:
                return False
        return True

    def until_released(self, place: int) -> frozenset[int]:
        """Return where a CPU may stand after a store while that is not in place: no further than at a release."""
        found: set[int] = set()
        todo = [edge.place for edge in self._edges[place]]
        while todo:
            at = todo.pop()
            if at not in found:
                found.add(at)
                op = self._nodes[at].op
                releases = isinstance(op, Rmw) and op.order in RELEASES
                todo += [edge.place for edge in self._edges[at] if not (releases and edge.stored)]
        return frozenset(found)

    def stores_to(self, address: Address) -> Iterator[int]:
        """Yield the places of what stores to a location."""
        for place, node in self._nodes.items():
            if isinstance(node.op, Store | Rmw | CacheMaintenance) and node.op.address == address:
                yield place

    def _before(self, place: int, load: Load | Rmw) -> set[int]:
        """Return the places of the stores to other locations that could be seen before a load."""
        quiet = isinstance(load, Rmw) and load.quiet
        acquires = load.order in ACQUIRES and not quiet
        if acquires and not self._maintains:
            return set()
        found = set()
        named = load.depends is not None and load.depends.token >= 0
        begin = _Open(place, named, 0, frozenset({load.address}), maintenance=acquires)
        # one that has stored is ordered before its store, and that before the stores to come
        edges = [edge for edge in self._independent[place] if not edge.stored]
        todo = [begin._replace(place=edge.place, pointer=edge.points) for edge in edges]
        known = set(todo)
        token = -1 if load.depends is None else load.depends.token
        while todo:
            way = todo.pop()
            op = self._nodes[way.place].op
            if op is None:
                continue
            after, early = _through(way, op, token, quiet=quiet)
            if early and op.address != load.address:  # type: ignore[union-attr]
                found.add(way.place)
            if after is None or (after.maintenance and not self._maintains):
                continue
            for edge in self._edges[way.place]:
                # the last load of a pointer is the one that counts; no store is seen before an atomic that precedes it
                pointer = 0 if edge.points == after.pointer else after.pointer
                maintenance = after.maintenance or (edge.stored and not early)
                if maintenance and not self._maintains:
                    continue
                following = after._replace(place=edge.place, pointer=pointer, maintenance=maintenance)
                if following not in known:
                    known.add(following)
                    todo.append(following)
        return found


def _through(way: _Open, op: Operation, token: int, *, quiet: bool) -> tuple[_Open | None, bool]:
    """Return the way behind an operation, None where nothing can come before the load there; and whether the operation
    itself is a store or cache maintenance that can.

    `token` names the load; `quiet` says that barriers for loads do not order it.
    """
    depends: Dependencies | None = getattr(op, "depends", None)
    if way.named and depends is not None and token in depends.control:
        return None, False  # dob, pob: ctrl; [W | DC | IC]
    match op:
        case Fence(kind):
            after = _behind(way, kind, quiet=quiet)
            early = False
        case InterruptAll():
            return None, False
        case CacheMaintenance(operation, address):
            early = operation is CacheOperation.IC_IVAU or way.sealed.isdisjoint({address})  # po-scl-ob: M; DC
            after, early = way, early and not _by_address(way, op, token)
        case Load() | Await():
            after, early = _behind_load(way, op.order), False
            if _by_address(way, op, token):
                after = way._replace(maintenance=True)  # dob: addr; [M]; po; [W]
        case Store() | Rmw():
            after, early = _behind_store(way, op, token)
        case _:
            after, early = way, False
    if after is not None and depends is not None:
        named = after.named and token in depends.live and token != depends.token
        after = after._replace(named=named)
    return after, early


def _behind(way: _Open, kind: Barrier, *, quiet: bool) -> _Open | None:
    if kind is Barrier.DSB_ISH or (kind is Barrier.DSB_ISHLD and not quiet):
        return None
    if kind is Barrier.DSB_ISHST and way.followed:
        return None
    loads = kind in ORDERS_LOADS and not (quiet and kind in _OF_LOADS)
    if loads or (kind is Barrier.DMB_ISHST and way.followed):  # bob: dmb.full, dmb.ld; [W]; po; [dmb.st]; po; [W]
        return way._replace(maintenance=True)
    return way


def _behind_load(way: _Open, order: Order) -> _Open:
    if way.released and order in (Order.ACQUIRE, Order.ACQUIRE_RELEASE):
        return way._replace(maintenance=True)  # bob: [L]; po; [A], [A]; po; [M]
    return way


def _behind_store(way: _Open, op: Store | Rmw, token: int) -> tuple[_Open, bool]:
    if isinstance(op, Rmw) and not op.quiet:
        way = _behind_load(way, op.order)
    by_address = _by_address(way, op, token)
    depends = op.depends
    by_data = way.named and depends is not None and token in depends.data | depends.data_pick
    release = op.order in RELEASES  # bob: [M]; po; [L]
    if not (way.maintenance or by_address or by_data or release or op.address in way.sealed):
        return way, True
    if not isinstance(op, Rmw) or op.expected is None:
        # a compare-and-swap may store nothing
        ordered = by_address or (op.order is Order.ACQUIRE_RELEASE and depends is None)
        way = way._replace(
            sealed=way.sealed | {op.address},
            followed=True,
            released=way.released or release,
            # bob: [range([A]; amo; [L])]; po; [M], where it is known to be one instruction
            maintenance=way.maintenance or ordered,
        )
    elif by_address:
        way = way._replace(maintenance=True)
    return way, False


def _by_address(way: _Open, op: Load | Await | Store | Rmw | CacheMaintenance, token: int) -> bool:
    """Return whether the address of an access depends on the load."""
    depends = op.depends
    if depends is not None:
        return way.named and token in depends.address | depends.address_pick
    return way.pointer != 0 and object_of(op.address) == way.pointer and not isinstance(op, CacheMaintenance)


def _stored(op: Operation | None, response: Value) -> bool:
    """Return whether an operation is an atomic that has stored.

    One that returns nothing and changes nothing may stand for a plain store to private memory: it orders no store.
    """
    if not isinstance(op, Rmw) or (op.expected is not None and op.expected[0] != response):
        return False
    return not op.quiet or op.update(response) != response


def _decides(node: Node) -> bool:
    """Return whether a branch depends on what a load returns: where the program stands next differs by it.

    Where both ways begin with the same operation, a compiler may take that out of them, and a CPU need not wait.
    """
    targets = [edge.target for edge in node.edges.values() if edge.target is not None]
    one = targets[0] if targets else node
    return any((target.site, target.stack) != (one.site, one.stack) and target.op != one.op for target in targets)


def _may_be_overtaken(op: Operation | None) -> TypeGuard[Load | Rmw]:
    """Return whether an operation may be a load that a later store is seen before.

    A wait stands for a loop that ends by what it reads, so that a branch depends on it. An atomic that stores takes
    place together with its store.
    """
    return isinstance(op, Load) or (isinstance(op, Rmw) and op.expected is not None and op.when is None)
