"""What each CPU may still do with memory, read from its automaton: what a memory model may forget rests on it.

An automaton is known as far as the search has compiled it. So a search assumes what is known when it begins, and where
a CPU turns out to do more than that, `OutdatedError` ends it: it is to be done again from the beginning, with what is
known by then. A search that ended otherwise has seen all: take any run of the system, and the run of normal forms
beside it. Both have the same local states, and each step of the one is a step of the other with the same response
(that is what a normal form keeps, as long as nobody does what he is assumed not to do), so that each operation of the
run was seen by the search, and none of them is one that was assumed not to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import or_
from typing import Any, ClassVar

from fuzzvm.exhaustive.automaton import Automaton, Edge, Node
from fuzzvm.exhaustive.futures import Futures
from fuzzvm.machine.memory import MemoryModel, Needs
from fuzzvm.machine.ops import Address, Await, Barrier, Fence, Fetch, Free, Load, Order, Rmw, Store, object_of
from fuzzvm.machine.property import Observed

_LOOKS = 1
"""Observers ask what the CPU may read of any object that they watch."""
_OVERTAKES = 2
"""A store may be seen before the loads that the CPU has executed so far."""
_STORES = 4
_EXACT = 8
"""Operations say what they depend on."""
_FIRST = 16
"""The first of the bits for what has a location."""
_KINDS = ("load", "read", "fetch", "ordering", "free", "barrier")
"""What there is a bit for by what it is done to."""


class OutdatedError(Exception):
    """A CPU does more than the search assumed; it has to begin again."""


class _Facts:
    """One bit for each thing that a CPU may do."""

    def __init__(self, unwatched: frozenset[int], observed: Observed) -> None:
        self._unwatched = unwatched
        self._observed = observed
        self._bits: dict[tuple[str, int | Barrier], int] = {}
        self.entries: set[Address] = set()
        """All locations of objects that may be watched, as far as they are known.

        It may grow during a search: a location is known before it is first stored to, and until then there is one value
        to read.
        """
        self._needs: dict[int, Needs] = {}
        self._entries_of_needs = 0

    def of_operation(self, node: Node) -> int:
        """Return what the operation of a local state does."""
        op = node.op
        if isinstance(op, Load | Await | Rmw | Store) and object_of(op.address) not in self._unwatched:
            self.entries.add(op.address)
        exact = _EXACT if op is not None and getattr(op, "depends", None) is not None else 0
        match op:
            case Load(address, order):
                return exact | self._bit("load", address) | self._read(address, order)
            case Await(address, _, order):
                return exact | self._read(address, order)
            case Rmw(address):
                # one that compares may be a load
                loads = 0 if op.expected is None else self._bit("load", address)
                return exact | loads | self._read(address, Order.ACQUIRE)
            case Store():
                return exact | _STORES
            case Fetch(address):
                return self._bit("fetch", address)
            case Free(address):
                return self._bit("free", object_of(address))
            case Fence(kind):
                return self._bit("barrier", kind)
        return 0

    def _read(self, address: Address, order: Order) -> int:
        bits = self._bit("read", address)
        return bits if order is Order.PLAIN else bits | self._bit("ordering", address)

    def of_notes(self, edge: Edge) -> int:
        """Return what observers ask for when a program says something."""
        return _LOOKS if any(self._observed.annotation(note.annotation).readable for note in edge.notes) else 0

    def is_last(self, node: Node) -> bool:
        return False

    def _bit(self, what: str, which: int | Barrier) -> int:
        return _FIRST << self._bits.setdefault((what, which), len(self._bits))

    def all_bits(self) -> list[tuple[str, int | Barrier]]:
        """Return what each bit from `_FIRST` on stands for."""
        return list(self._bits)

    def name_bits(self, bits: Sequence[tuple[str, int | Barrier]]) -> None:
        """Let bits stand for these things, of which the first ones are known."""
        for what, which in bits:
            if what not in _KINDS:
                raise ValueError(f"nothing is done by {what}")
            self._bit(what, which)

    def named(self, mask: int) -> list[tuple[str, int | Barrier | None]]:
        """Return what these bits stand for, by name."""
        flags = {_LOOKS: "looks", _OVERTAKES: "overtakes", _STORES: "stores", _EXACT: "exact"}
        found: list[tuple[str, int | Barrier | None]] = [(name, None) for bit, name in flags.items() if mask & bit]
        return [*found, *((what, which) for (what, which), bit in self._bits.items() if mask >> bit & _FIRST)]

    def needs(self, mask: int) -> Needs:
        """Return what a CPU may do that may do the things of these bits."""
        if self._entries_of_needs != len(self.entries):
            self._needs.clear()
            self._entries_of_needs = len(self.entries)
        found = self._needs.get(mask)
        if found is None:
            parts: dict[str, set[Any]] = {what: set() for what in _KINDS}
            for (what, which), bit in self._bits.items():
                if mask >> bit & _FIRST:
                    parts[what].add(which)
            if mask & _LOOKS:
                parts["load"] |= self.entries
                parts["read"] |= self.entries
            loads, reads, fetches, ordering, frees, barriers = (frozenset(parts[what]) for what in _KINDS)
            stores, overtakes, exact = bool(mask & _STORES), bool(mask & _OVERTAKES), bool(mask & _EXACT)
            found = Needs(loads, reads, fetches, ordering, frees, barriers, stores, overtakes, exact)
            self._needs[mask] = found
        return found


class _Overtaking:
    """Whether a CPU may store before something orders the loads that it has executed so far."""

    def __init__(self, model: type[MemoryModel]) -> None:
        self._model = model

    def of_operation(self, node: Node) -> int:
        """Return whether the operation of a local state is a store that may be seen before earlier loads."""
        return _OVERTAKES if isinstance(node.op, Store | Rmw) and not self._model.orders_loads(node.op) else 0

    def of_notes(self, edge: Edge) -> int:
        """Return 0: what a program says stores nothing."""
        return 0

    def is_last(self, node: Node) -> bool:
        """Return whether what comes after an operation is seen after the loads before it."""
        return node.op is not None and self._model.orders_loads(node.op)


class Assumed:
    """What the CPUs of a task are assumed to do, from each place of their automata on.

    `unwatched` are the objects from boot that are not watched, and `observed` says what observers read.
    """

    forgets: ClassVar[bool] = True
    """Whether memory may forget what is not assumed to be needed."""

    def __init__(
        self,
        automata: Sequence[Automaton],
        unwatched: frozenset[int],
        model: type[MemoryModel],
        observed: Observed,
    ) -> None:
        self._facts = _Facts(unwatched, observed)
        self._automata = automata
        self._futures = [Futures(automaton, self._facts) for automaton in automata]
        self._overtaking = [Futures(automaton, _Overtaking(model)) for automaton in automata]
        self._frozen: list[list[int]] = []
        self.renew()

    def renew(self) -> None:
        """Assume what is known by now."""
        for cpu, automaton in enumerate(self._automata):
            for node in automaton.nodes:
                self._futures[cpu].learn(node)
                self._overtaking[cpu].learn(node)
        self._frozen = [self._known(cpu) for cpu in range(len(self._automata))]

    def _known(self, cpu: int) -> list[int]:
        return list(map(or_, self._futures[cpu].of, self._overtaking[cpu].of))

    def at(self, cpu: int, node: Node, before: int) -> int:
        """Return what a CPU is assumed to do from a local state on, as bits; `before` is that of the one before.

        Of a place that was not known there is nothing to say, but that it comes after the one before.
        """
        frozen = self._frozen[cpu]
        # it may be behind what ordered loads before
        return frozen[node.place] if node.place < len(frozen) else before | _OVERTAKES

    def needs(self, mask: int) -> Needs:
        """Return what these bits stand for."""
        return self._facts.needs(mask)

    def knew(self, cpu: int, node: Node) -> bool:
        """Return whether a local state's place was known when the search began, so that `at` says all there is."""
        return node.place < len(self._frozen[cpu])

    def named(self, mask: int) -> list[tuple[str, int | Barrier | None]]:
        """Return what bits stand for, by name: for who writes it down."""
        return self._facts.named(mask)

    def kept(self) -> tuple[list[tuple[str, int | Barrier]], list[list[int]]]:
        """Return what each bit stands for, in their order, and the bits that are assumed of each place of each CPU."""
        return self._facts.all_bits(), self._frozen

    def restore(self, bits: Sequence[tuple[str, int | Barrier]], frozen: list[list[int]]) -> None:
        """Assume what was kept, once the automata are as they were then. Raises ValueError where that is another."""
        self._facts.name_bits(bits)
        self.renew()
        known = zip(self._frozen, frozen, strict=True)
        if self._facts.all_bits() != list(bits) or any(now[: len(then)] != then for now, then in known):
            raise ValueError("CPUs are assumed to do something else")
        self._frozen = frozen

    @property
    def entries(self) -> frozenset[Address]:
        """The locations that observers may look at, as far as they are known."""
        return frozenset(self._facts.entries)

    def learn(self, cpu: int, node: Node) -> None:
        """Take in what is new of a local state. Raises OutdatedError where more is done than was assumed."""
        learned = self._futures[cpu].learn(node)
        if self._overtaking[cpu].learn(node) or learned:
            frozen = self._frozen[cpu]
            if self._known(cpu)[: len(frozen)] != frozen:
                raise OutdatedError


class Anything(Assumed):
    """Nothing is assumed: CPUs may do anything, and memory forgets nothing."""

    forgets = False

    def at(self, cpu: int, node: Node, before: int) -> int:
        return 0

    def restore(self, bits: Sequence[tuple[str, int | Barrier]], frozen: list[list[int]]) -> None:
        pass

    def learn(self, cpu: int, node: Node) -> None:
        pass
