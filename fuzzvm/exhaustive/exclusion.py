"""Which places two CPUs never stand at together, as the values of one location say: what a lock is for.

It takes a location that atomics alone write, and lets CPUs go through their automata freely but for their atomics and
waits there: these see the newest value. What CPUs may do so is more than what they do, so that places which do not meet
here meet in no run. It knows no locks: any word that atomics change will do.
"""

from __future__ import annotations

from collections.abc import Iterator

from fuzzvm.exhaustive.automaton import Node
from fuzzvm.exhaustive.space import Space
from fuzzvm.machine.ops import Address, Await, CacheMaintenance, Rmw, Store, object_of

MOST = 20_000
"""States of one location and its CPUs; where there are more, it excludes nothing."""

_Joint = tuple[int, tuple[int, ...]]
"""The number of the location's value, and of each CPU the local state that its last operation there has led to."""


class Exclusion:
    """What the words of a space keep apart. Its automata are known to the end, as far as runs go."""

    def __init__(self, space: Space) -> None:
        self._automata = space.automata
        self._values = space.values
        self._boot = space.task.booted()
        self._words: dict[Address, tuple[list[_Joint], list[dict[int, frozenset[int]]]] | None] = {}
        self._atomic = self._only_by_atomics()

    def _only_by_atomics(self) -> list[Address]:
        """Return the locations from boot that atomics of more than one CPU write, and nothing else."""
        by_atomics: dict[Address, set[int]] = {}
        otherwise: set[Address] = set()
        boot = len(self._boot.allocator.allocations)
        for cpu, automaton in enumerate(self._automata):
            for node in automaton.nodes:
                op = node.op
                if isinstance(op, Rmw) and object_of(op.address) < boot:
                    by_atomics.setdefault(op.address, set()).add(cpu)
                elif isinstance(op, Store | CacheMaintenance):
                    otherwise.add(op.address)
        return sorted(word for word, cpus in by_atomics.items() if len(cpus) > 1 and word not in otherwise)

    def apart(self, one: int, at: frozenset[int], other: int, there: frozenset[int]) -> bool:
        """Return whether no run has one CPU at one of these places while another is at one of those."""
        return any(self._apart(word, one, at, other, there) for word in self._atomic)

    def _apart(self, word: Address, one: int, at: frozenset[int], other: int, there: frozenset[int]) -> bool:
        if word not in self._words:
            self._words[word] = self._met(word)
        met = self._words[word]
        if met is None:
            return False
        joints, places = met
        return all(
            at.isdisjoint(places[one][stands[one]]) or there.isdisjoint(places[other][stands[other]])
            for _, stands in joints
        )

    def _met(self, word: Address) -> tuple[list[_Joint], list[dict[int, frozenset[int]]]] | None:
        """Return what values and CPUs come to, and where each CPU may stand until its next operation on the word."""
        phases: list[dict[int, list[Node]]] = [{} for _ in self._automata]
        places: list[dict[int, frozenset[int]]] = [{} for _ in self._automata]
        starts = [automaton.start.target for automaton in self._automata]
        if any(start is None for start in starts):
            return None
        for cpu, start in enumerate(starts):
            assert start is not None
            _enter(start, word, phases[cpu], places[cpu])
        first = (self._values.number(self._boot.memory.peek(word)), tuple(start.number for start in starts if start))
        found = [first]
        known = {first}
        for value, stands in found:
            for cpu, at in enumerate(stands):
                for node in phases[cpu][at]:
                    for after, target in self._steps(node, value):
                        if target.number not in phases[cpu]:
                            _enter(target, word, phases[cpu], places[cpu])
                        joint = (after, (*stands[:cpu], target.number, *stands[cpu + 1 :]))
                        if joint not in known:
                            if len(found) >= MOST:
                                return None
                            known.add(joint)
                            found.append(joint)
        return found, places

    def _steps(self, node: Node, number: int) -> Iterator[tuple[int, Node]]:
        """Yield what an atomic or a wait may make of the word's value: the value, and the local state behind it."""
        op = node.op
        assert isinstance(op, Rmw | Await)
        value = self._values[number]
        if op.when is not None and not op.when(value):
            return
        expected = None
        if isinstance(op, Rmw) and op.expected is not None:
            expected = self._values.number(op.expected[0])
            # one that fails may have read an old value
            for response, edge in node.edges.items():
                if response != expected and edge.target is not None:
                    yield number, edge.target
        now = node.edges.get(number)
        if now is None or now.target is None:
            return
        if isinstance(op, Await):
            yield number, now.target
        elif expected is None or expected == number:
            yield self._values.number(op.update(value)), now.target


def _enter(start: Node, word: Address, phases: dict[int, list[Node]], places: dict[int, frozenset[int]]) -> None:
    """Take in where a CPU may go from a local state without an operation on the word, and those that it comes to."""
    todo, seen, operations = [start], {start.number}, []
    standing = set()
    while todo:
        node = todo.pop()
        standing.add(node.place)
        if isinstance(node.op, Rmw | Await) and node.op.address == word:
            operations.append(node)
            continue
        for edge in node.edges.values():
            if edge.target is not None and edge.target.number not in seen:
                seen.add(edge.target.number)
                todo.append(edge.target)
    phases[start.number] = operations
    places[start.number] = frozenset(standing)
