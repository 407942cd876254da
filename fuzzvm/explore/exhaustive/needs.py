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
from typing import ClassVar

from fuzzvm.explore.automaton import Automaton, Edge, Node
from fuzzvm.explore.exhaustive.futures import Futures
from fuzzvm.kernel.ptdump_notes import WalkBegins
from fuzzvm.machine.memory import Needs
from fuzzvm.machine.ops import Address, Await, Fetch, Free, Load, Rmw, Store, object_of

_LOOKS = 1
"""Oracles ask what the CPU may read of any page-table entry."""


class OutdatedError(Exception):
    """A CPU does more than the search assumed; it has to begin again."""


class DifferentProgramsError(Exception):
    """Two processes that work on one search do not know the same programs."""


class _Facts:
    """One bit for each thing that a CPU may do."""

    def __init__(self, unwatched: frozenset[int]) -> None:
        self._unwatched = unwatched
        self._bits: dict[tuple[str, int], int] = {}
        self.entries: set[Address] = set()
        """All page-table entries that are known of."""
        self._needs: dict[int, Needs] = {}
        self._entries_of_needs = 0

    def of_operation(self, node: Node) -> int:
        """Return what the operation of a local state does."""
        match node.op:
            case Load(address):
                return self._bit("load", address) | self._bit("read", address)
            case Await(address) | Rmw(address):
                return self._bit("read", address)
            case Fetch(address):
                return self._bit("fetch", address)
            case Free(address):
                return self._bit("free", object_of(address))
            case Store(address):
                self._know(address)
        return 0

    def of_notes(self, edge: Edge) -> int:
        """Return what oracles ask for when a program says something."""
        return _LOOKS if any(isinstance(note.annotation, WalkBegins) for note in edge.notes) else 0

    def is_last(self, node: Node) -> bool:
        return False

    def _bit(self, what: str, place: int) -> int:
        if what != "free" and what != "fetch":
            self._know(place)
        return 2 << self._bits.setdefault((what, place), len(self._bits))

    def _know(self, address: Address) -> None:
        """Take note of a location that may be a page-table entry; one that nobody stores to has one value only."""
        if object_of(address) not in self._unwatched:
            self.entries.add(address)

    def needs(self, mask: int) -> Needs:
        """Return what a CPU may do that may do the things of these bits."""
        if self._entries_of_needs != len(self.entries):
            self._needs.clear()
            self._entries_of_needs = len(self.entries)
        found = self._needs.get(mask)
        if found is None:
            parts: dict[str, set[int]] = {"load": set(), "read": set(), "fetch": set(), "free": set()}
            for (what, place), bit in self._bits.items():
                if mask >> bit & 2:
                    parts[what].add(place)
            if mask & _LOOKS:
                parts["load"] |= self.entries
                parts["read"] |= self.entries
            found = self._needs[mask] = Needs(*(frozenset(parts[what]) for what in ("load", "read", "fetch", "free")))
        return found


class Assumed:
    """What the CPUs of a system are assumed to do, from each place of their automata on.

    `unwatched` are the objects from boot that are no page tables.
    """

    forgets: ClassVar[bool] = True
    """Whether memory may forget what is not assumed to be needed."""

    def __init__(self, automata: Sequence[Automaton], unwatched: frozenset[int]) -> None:
        self._facts = _Facts(unwatched)
        self._automata = automata
        self._futures = [Futures(automaton, self._facts) for automaton in automata]
        self._frozen: list[list[int]] = []
        self._entries = 0
        self.renew()

    def renew(self) -> None:
        """Assume what is known by now."""
        for automaton, futures in zip(self._automata, self._futures, strict=True):
            for node in automaton.nodes:
                futures.learn(node)
        self._frozen = [list(futures.of) for futures in self._futures]
        self._entries = len(self._facts.entries)

    def at(self, cpu: int, node: Node, before: int) -> int:
        """Return what a CPU is assumed to do from a local state on, as bits; `before` is that of the one before.

        Of a place that was not known there is nothing to say, but that it comes after the one before.
        """
        frozen = self._frozen[cpu]
        return frozen[node.place] if node.place < len(frozen) else before

    def needs(self, mask: int) -> Needs:
        """Return what these bits stand for."""
        return self._facts.needs(mask)

    def learn(self, cpu: int, node: Node) -> None:
        """Take in what is new of a local state. Raises OutdatedError where more is done than was assumed."""
        futures = self._futures[cpu]
        if futures.learn(node):
            frozen = self._frozen[cpu]
            if futures.of[: len(frozen)] != frozen or len(self._facts.entries) != self._entries:
                raise OutdatedError


class Anything(Assumed):
    """Nothing is assumed: CPUs may do anything, and memory forgets nothing."""

    forgets = False

    def at(self, cpu: int, node: Node, before: int) -> int:
        return 0

    def learn(self, cpu: int, node: Node) -> None:
        pass
