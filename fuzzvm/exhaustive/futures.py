"""What a CPU may still do, read from its automaton as far as that is known."""

from __future__ import annotations

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

    def __init__(self, automaton: Automaton, facts: Facts) -> None:
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
            self.learn(node)

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
        if len(node.edges) == self._seen[node.number]:
            return False
        self._seen[node.number] = len(node.edges)
        self._grow()
        conflicts = 0
        for edge in node.edges.values():
            conflicts |= self._facts.of_notes(edge)
            if edge.target is not None:
                conflicts |= self.of[edge.target.place]
                self._predecessors[edge.target.place].add(node.place)
        todo = [(node.place, conflicts)] if self._passed[node.place] else []
        grew = False
        while todo:
            place, added = todo.pop()
            known = self.of[place]
            if added & ~known:
                self.of[place] = known | added
                grew = True
                todo += [(before, known | added) for before in self._predecessors[place] if self._passed[before]]
        return grew
