"""What a CPU may still do, read from its automaton as far as that is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from fuzzvm.exhaustive.automaton import Automaton, Edge, Node


class Facts(Protocol):
    """Says what steps do, as bits."""

    def of_operation(self, node: Node) -> int:
        """Return what the operation of a local state does."""

    def of_notes(self, edge: Edge) -> int:
        """Return what is done where a program says something."""

    def is_last(self, node: Node) -> bool:
        """Return whether what comes after the operation of a local state does not count."""


class Futures:
    """What a CPU may still do, by the bits of `facts`, from each place of its automaton, as far as that is known.

    `of` is indexed by place, not by local state: local states of one place nearly always have the same future, and a
    new one must not make everything that was concluded before uncertain. It grows with every edge that is learned.
    """

    def __init__(self, automaton: Automaton, facts: Facts, seen: Sequence[int] | None = None) -> None:
        """Learn what is known; with `seen`, of each local state so many of its edges and no more."""
        self._automaton = automaton
        self._facts = facts
        self.of: list[int] = []
        self.places: list[int] = []
        """The place of each local state."""
        self._predecessors: list[set[int]] = []
        self._passed: list[bool] = []
        """Whether what comes after a place counts before it."""
        self._seen: list[int] = []
        self._grow()
        # from the ends of programs to their beginnings, so that what comes later is told of once
        for node in reversed(list(automaton.nodes)):
            if seen is None or node.number < len(seen):
                self._take_in(node, len(node.edges) if seen is None else seen[node.number])

    @property
    def seen(self) -> list[int]:
        """How many edges of each local state were learned, which are the first ones of it."""
        return self._seen

    def _grow(self) -> None:
        for node in self._automaton.nodes[len(self.places) :]:
            self.places.append(node.place)
            self._seen.append(0)
            if node.place == len(self.of):
                self.of.append(self._facts.of_operation(node))
                self._predecessors.append(set())
                self._passed.append(not self._facts.is_last(node))

    def learn(self, node: Node) -> bool:
        """Take in the edges of a local state that are new, and tell all places before it.

        Returns whether any future grew: what was concluded from it before must be looked at again.
        """
        if node.number >= len(self._seen):
            self._grow()
        return len(node.edges) != self._seen[node.number] and self._take_in(node, len(node.edges))

    def _take_in(self, node: Node, known: int) -> bool:
        """Take in so many edges of a local state; return whether any future grew."""
        self._seen[node.number] = known
        self._grow()
        conflicts = 0
        for edge in islice(node.edges.values(), known):
            conflicts |= self._facts.of_notes(edge)
            if edge.target is not None:
                conflicts |= self.of[edge.target.place]
                self._predecessors[edge.target.place].add(node.place)
        todo = [(node.place, conflicts)] if self._passed[node.place] else []
        grew = False
        while todo:
            place, added = todo.pop()
            before_it = self.of[place]
            if added & ~before_it:
                self.of[place] = before_it | added
                grew = True
                todo += [(before, before_it | added) for before in self._predecessors[place] if self._passed[before]]
        return grew
