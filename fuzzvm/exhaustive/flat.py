"""Shared state under sequential consistency, as tuples: the fast path.

It does what Machine does with SequentialConsistency memory, step by step; tests/exhaustive/test_exhaustive.py compares
the two. Cells hold numbers of values, and locations get their place in the tuple when they are first written.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from fuzzvm.exhaustive.automaton import Automaton, Edge, Node, Values
from fuzzvm.exhaustive.shared import Finding, Outcome, finding_of
from fuzzvm.machine.allocator import Allocator
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import (
    OFFSET_BITS,
    Address,
    Alloc,
    Await,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Rmw,
    Store,
    Tlbi,
    Value,
    object_of,
    succeeds,
)
from fuzzvm.machine.renaming import Renaming
from fuzzvm.machine.stuck import blockers_of
from fuzzvm.machine.task import Task

Cells = tuple[int, ...]


_new_outcome = tuple.__new__


class FlatShared:
    """See `Shared`. While an observer looks, `memory` and `allocator` show the state that it is asked about."""

    def __init__(self, task: Task, automata: Sequence[Automaton], values: Values) -> None:
        self._automata = automata
        self._values = values
        self._slots: dict[Address, int] = {}
        self._numbers: dict[tuple[Cells, int, int], int] = {}
        self._states: list[tuple[Cells, int, int]] = []
        self._heap_numbers: dict[object, int] = {}
        self._heaps: list[tuple[Allocator, frozenset[int]]] = []
        self._remembered_numbers: dict[Hashable, int] = {}
        self._remembered: list[Hashable] = []
        machine = task.booted()
        self._cells: Cells = ()
        self.allocator = machine.allocator
        self.cpus = len(automata)
        self._watched = machine.watched
        self._property = task.property
        self._hardware = task.property.hardware
        self._observer = task.property.observer(self)
        for address, value in sorted(machine.memory.contents().items()):
            self._cells = self._written(self._cells, address, values.number(value))
        self.nodes: list[Node] = []
        self.start: int | Finding = self._start()

    def __len__(self) -> int:
        """Return how many shared states have a number."""
        return len(self._states)

    # The view that observers have

    @property
    def memory(self) -> FlatShared:
        return self

    def peek(self, address: Address) -> Value:
        value: Value = self._values[self._read(self._cells, address)]
        return value

    def watch(self, address: Address) -> None:
        self._watched |= {object_of(address)}

    def report_hardware(self) -> None:
        """Nothing to do: `step` reports what there is."""

    # Steps

    def step(self, shared: int, cpu: int, node: Node) -> Sequence[Outcome]:
        cells, heap, remembered = self._states[shared]
        op: Any = node.op
        kind = type(op)
        response = 0
        number = shared
        try:
            if kind is Load or kind is Await or kind is Fetch:
                # no function is called for what large searches do millions of times
                address = op.address
                slot = self._slots.get(address)
                if slot is not None and slot < len(cells):
                    response = cells[slot]
                if kind is Await and not op.when(self._values[response]):
                    return ()
                allocator = self._heaps[heap][0]
                if kind is not Fetch and address >> OFFSET_BITS in allocator.dead:
                    raise allocator.fault(address, write=False)
            elif kind is Store or kind is Rmw:
                address = op.address
                slot = self._slots.get(address)
                old = cells[slot] if slot is not None and slot < len(cells) else 0
                if kind is Store:
                    new = self._values.number(op.value)
                else:
                    if op.when is not None and not op.when(self._values[old]):
                        return ()
                    response = old
                allocator, watched = self._heaps[heap]
                if address >> OFFSET_BITS in allocator.dead:
                    raise allocator.fault(address, write=True)
                if kind is Rmw:
                    value = self._values[old]
                    new = self._values.number(op.update(value)) if succeeds(op, value) else old
                cells = self._written(cells, address, new)
                # number 0 is what a run begins with, which no write changes: see Property.initial
                if (remembered or self._hardware) and object_of(address) in watched:
                    remembered = self._wrote(cpu, cells, heap, remembered, address, old, new)
                if kind is Store:
                    response = self._none
                number = self._number(cells, heap, remembered)
            elif kind is Alloc or kind is Free:
                allocated, heap = self._allocate(cpu, op, cells, heap, remembered)
                response = self._values.number(allocated)
                number = self._number(cells, heap, remembered)
            else:
                response = self._none
                if self._hardware and isinstance(op, Fence | Tlbi | InterruptAll):
                    self._look(cells, heap, remembered)
                    self._observer.maintained(cpu, op)
                    number = self._number(cells, heap, self._remembered_number(self._observer.remembered))
        except ModelError as error:
            return (Outcome((), shared, None, None, finding_of(error, node.stack)),)
        except BaseException as error:
            raise self._automata[cpu].executing_error(node, error) from error
        edge = node.edges.get(response) or self._automata[cpu].next(node, response)
        if edge.notes or edge.error:
            return (self._resumed(number, cpu, edge),)
        # what Outcome() does, in half the time
        return (_new_outcome(Outcome, ((), number, edge.target, edge, None)),)

    def holds(self, shared: int, address: Address) -> bool:
        return self._heaps[self._states[shared][1]][0].holds(address)

    def agents(self, shared: int) -> Sequence[int]:
        return ()

    def step_agent(self, shared: int, agent: int) -> Sequence[Outcome]:
        raise NotImplementedError("sequentially consistent memory has no agents")

    def finished(self, shared: int) -> Finding | None:
        cells, heap, remembered = self._states[shared]
        self._look(cells, heap, remembered)
        try:
            self._observer.finished()
        except ModelError as error:
            return finding_of(error, ())
        return None

    def blockers(self, shared: int, cpu: int, node: Node) -> tuple[int, ...]:
        op = node.op
        if not isinstance(op, Await | Rmw):
            return ()
        try:
            value: Value = self._values[self._read(self._states[shared][0], op.address)]
            return blockers_of(op, value)
        except BaseException as error:
            raise self._automata[cpu].executing_error(node, error) from error

    def renamed(self, shared: int, renaming: Renaming) -> int:
        """Return the shared state after CPUs have changed their names."""
        cells, heap, remembered = self._states[shared]
        addresses = {slot: address for address, slot in self._slots.items()}
        values = self._values
        cells = tuple(
            values.number(renaming.value(addresses[slot], values[value])) if value else 0
            for slot, value in enumerate(cells)
        )
        renamed = self._property.renamed(self._remembered[remembered], renaming.names)
        return self._number(cells, heap, self._remembered_number(renamed))

    # For those who write the state space down

    @property
    def count(self) -> int:
        """How many shared states there are so far; they are numbered from 0."""
        return len(self._states)

    def parts(self, shared: int) -> tuple[Cells, int]:
        """Return the cells and the number of the heap of a shared state: all that programs can see of it."""
        cells, heap, _ = self._states[shared]
        return cells, heap

    def read(self, shared: int, address: Address) -> int:
        """Return the number of the value that a location has in a shared state."""
        return self._read(self._states[shared][0], address)

    def heap(self, number: int) -> Allocator:
        """Return the objects of a heap."""
        return self._heaps[number][0]

    # For those who keep the state space on disk

    @property
    def slots(self) -> list[Address]:
        """The locations that cells stand for, in their order."""
        return list(self._slots)

    @property
    def states(self) -> list[tuple[Cells, int, int]]:
        """The cells, and the numbers of heap and memory of the property, of each shared state."""
        return self._states

    @property
    def heaps(self) -> list[tuple[Allocator, frozenset[int]]]:
        """The objects of each heap, and which of them are watched."""
        return self._heaps

    @property
    def remembered(self) -> list[Hashable]:
        """What the property remembers, by number."""
        return self._remembered

    def restore(
        self,
        slots: Sequence[Address],
        heaps: Sequence[tuple[Allocator, frozenset[int]]],
        remembered: Sequence[Hashable],
        states: Sequence[tuple[Cells, int, int]],
    ) -> None:
        """Take the numbers of another search of this task. Raises ValueError where they are not such."""
        for address in slots:
            self._slots.setdefault(address, len(self._slots))
        for self.allocator, self._watched in heaps:
            self._heap_number()
        for one in remembered:
            self._remembered_number(one)
        for cells, heap, memory in states:
            if heap >= len(self._heaps) or memory >= len(self._remembered) or (cells and not cells[-1]):
                raise ValueError("a shared state has no parts")
            self._number(cells, heap, memory)
        if any(max(cells, default=0) >= len(self._values.all) for cells, _, _ in states):
            raise ValueError("a cell has no value")
        sizes = (len(slots), len(heaps), len(remembered), len(states))
        if sizes != (len(self._slots), len(self._heaps), len(self._remembered), len(self._states)):
            raise ValueError("numbers were given twice, or in another order")

    # Parts of a step

    def _start(self) -> int | Finding:
        self._none = self._values.number(None)
        heap = self._heap_number()
        shared = self._number(self._cells, heap, self._remembered_number(self._property.initial))
        for cpu, automaton in enumerate(self._automata):
            outcome = self._resumed(shared, cpu, automaton.start)
            if outcome.finding is not None:
                return outcome.finding
            shared = outcome.shared
            assert outcome.node is not None
            self.nodes.append(outcome.node)
        return shared

    def _resumed(self, shared: int, cpu: int, edge: Edge) -> Outcome:
        """Return the outcome of a step whose effect on memory is done: the observer hears what the program says."""
        cells, heap, remembered = self._states[shared]
        self._look(cells, heap, remembered)
        for annotation, stack in edge.notes:
            try:
                self._observer.annotated(cpu, annotation)
            except ModelError as error:
                return Outcome((), shared, None, edge, finding_of(error, stack))
        if edge.error is not None:
            return Outcome((), shared, None, edge, finding_of(edge.error, edge.stack))
        remembered = self._remembered_number(self._observer.remembered)
        return Outcome((), self._number(cells, heap, remembered), edge.target, edge)

    def _look(self, cells: Cells, heap: int, remembered: int) -> None:
        self._cells = cells
        self.allocator, self._watched = self._heaps[heap]
        self._observer.remembered = self._remembered[remembered]

    def _wrote(self, cpu: int, cells: Cells, heap: int, remembered: int, address: Address, old: int, new: int) -> int:
        self._look(cells, heap, remembered)
        self._observer.wrote(cpu, address, self._values[old], self._values[new])
        return self._remembered_number(self._observer.remembered)

    def _allocate(
        self, cpu: int, op: Alloc | Free, cells: Cells, heap: int, remembered: int
    ) -> tuple[Address | None, int]:
        self._look(cells, heap, remembered)
        address = None
        if isinstance(op, Alloc):
            self.allocator = self.allocator.copy()
            allocation = self.allocator.alloc(op.size, op.label, 0)
            self._observer.allocated(cpu, allocation)
            address = allocation.address
        else:
            found = self.allocator.lookup(op.address)
            if found is not None and found.number not in self.allocator.dead:
                self._observer.freeing(cpu, found)
            self.allocator = self.allocator.copy()
            self.allocator.free(op.address, 0)
        return address, self._heap_number()

    # Numbers of states and their parts

    def _read(self, cells: Cells, address: Address) -> int:
        slot = self._slots.get(address)
        return cells[slot] if slot is not None and slot < len(cells) else 0

    def _written(self, cells: Cells, address: Address, value: int) -> Cells:
        slot = self._slots.setdefault(address, len(self._slots))
        if slot >= len(cells):
            if not value:
                return cells
            return (*cells, *(0,) * (slot - len(cells)), value)
        cells = (*cells[:slot], value, *cells[slot + 1 :])
        # equal memories must be equal tuples, so there are no zeros at the end
        while cells and not cells[-1]:
            cells = cells[:-1]
        return cells

    def _number(self, cells: Cells, heap: int, remembered: int) -> int:
        key = (cells, heap, remembered)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._states)
            self._states.append(key)
        return number

    def _heap_number(self) -> int:
        key = (self.allocator.state(), self._watched)
        number = self._heap_numbers.get(key)
        if number is None:
            number = self._heap_numbers[key] = len(self._heaps)
            self._heaps.append((self.allocator, self._watched))
        return number

    def _remembered_number(self, remembered: Hashable) -> int:
        number = self._remembered_numbers.get(remembered)
        if number is None:
            number = self._remembered_numbers[remembered] = len(self._remembered)
            self._remembered.append(remembered)
        return number
