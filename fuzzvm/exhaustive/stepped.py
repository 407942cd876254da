"""Shared state under any memory model: what a step does is what a Machine does.

A state is made of four parts, each numbered by its value: memory, what CPUs may still do with it, objects, what the
property remembers. A memory model takes part by its `state()`, the immutable value that its states are compared by, and
by `normalise`, which brings those of one future to one form; its choices are found by trying them all. The memory of
each number is kept as an object that is never stepped, only copied, and what an operation of a CPU makes of it is
worked out once, whatever CPUs may do afterwards. The normal form is taken after that, of what the CPU has come to.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from fuzzvm.exhaustive.automaton import Automaton, Edge, Node, Values
from fuzzvm.exhaustive.needs import Assumed
from fuzzvm.exhaustive.shared import Finding, Outcome, finding_of
from fuzzvm.machine.allocator import Allocator
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import MEMORY_ALONE, Machine
from fuzzvm.machine.memory import NOTHING, Choose, MemoryModel, Unfinished
from fuzzvm.machine.ops import (
    OFFSET_BITS,
    Address,
    Alloc,
    Await,
    CacheMaintenance,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Store,
    Tlbi,
)
from fuzzvm.machine.stuck import blockers_of
from fuzzvm.machine.task import Task

_ACCESSES = (Load, Await, Store, Rmw)
_MAINTAINS = (Fence, Tlbi, InterruptAll)
Masks = tuple[int, ...]
"""What each CPU is assumed to do from here on, as bits of `Assumed`."""


FORGET_EVERY = 50_000
"""New states after which results are forgotten that can be worked out again: depth first, what is old is seldom met."""

_METHODS: dict[type, str] = {
    Load: "load",
    Await: "load",
    Store: "store",
    Rmw: "rmw",
    Fence: "fence",
    Fetch: "fetch",
    CacheMaintenance: "maintain",
    Tlbi: "maintain",
    InterruptAll: "maintain",
}
"""What a memory model executes each operation by."""

T = TypeVar("T")


class _Performed(NamedTuple):
    """One way of an operation: its choices; memory, objects and what is remembered after it; response, or error.

    Memory is as the operation leaves it, not in normal form.
    """

    choices: tuple[int, ...]
    memory: int
    heap: int
    remembered: int
    response: int
    error: ModelError | None = None


class SteppedShared:
    """See `Shared`. Raises OutdatedError from steps that `assumed` does not know of; a new one is to be made then."""

    def __init__(self, task: Task, automata: Sequence[Automaton], values: Values, assumed: Assumed) -> None:
        self._hardware = task.property.hardware
        """Whether observers hear of all that TLBs depend on: barriers, invalidations, and stores when they are seen."""
        self._automata = automata
        self._values = values
        self._assumed = assumed
        self._numbers: dict[tuple[int, int, int, int], int] = {}
        self._states: list[tuple[int, int, int, int]] = []
        """Memory, masks, objects, what the property remembers."""
        self._memory_numbers: dict[tuple[Hashable, ...], int] = {}
        self._memories: list[MemoryModel] = []
        self._masks_numbers: dict[Masks, int] = {}
        self._masks: list[Masks] = []
        self._heap_numbers: dict[Hashable, int] = {}
        self._heaps: list[tuple[Allocator, frozenset[int]]] = []
        self._remembered_numbers: dict[Hashable, int] = {}
        self._remembered: list[Hashable] = []
        self._op_numbers: dict[Hashable, int] = {}
        self._ops: dict[Node, int] = {}
        self._performed: dict[tuple[int, int, int], tuple[_Performed, ...]] = {}
        self._performed_at: dict[tuple[int, int, int, int, int], tuple[_Performed, ...]] = {}
        self._arrived: dict[tuple[int, int, int], int] = {}
        self._normal: dict[tuple[int, int], int] = {}
        self._agent_steps: dict[tuple[int, ...], tuple[_Performed, ...]] = {}
        self._unfinished: dict[int, tuple[Unfinished, ...]] = {}
        self.nodes: list[Node] = []
        machine = task.booted()
        self.model = type(machine.memory)
        """The memory model."""
        machine.memory.compared_by(values.number)
        self._stepping = Machine(machine.memory)
        # one machine for all steps: it and its observer know each other, and nobody collects cycles during a search
        self._observer = self._stepping.observer = task.property.observer(self._stepping)
        self.start: int | Finding = self._start(machine, task.property.initial)

    def step(self, shared: int, cpu: int, node: Node) -> Sequence[Outcome]:
        memory, masks, _, _ = self._states[shared]
        op = node.op
        if op is None:
            return ()
        try:
            if isinstance(op, Await | Rmw) and op.when is not None:
                visible = self._memories[memory].visible(cpu, op.address)
                if not op.when(visible):
                    return ()
            ways = self._ways_of(shared, cpu, node, op)
        except BaseException as error:
            raise self._automata[cpu].executing_error(node, error) from error
        outcomes = []
        for way in ways:
            if way.error is not None:
                outcomes.append(Outcome(way.choices, shared, None, None, finding_of(way.error, node.stack)))
                continue
            edge = self._automata[cpu].next(node, way.response)
            self._assumed.learn(cpu, node)
            outcomes.append(self._resumed(way, masks, cpu, edge))
        return outcomes

    def memory(self, shared: int) -> MemoryModel:
        """Return the memory of a state, which is not to be stepped."""
        return self._memories[self._states[shared][0]]

    def holds(self, shared: int, address: Address) -> bool:
        return self._heaps[self._states[shared][2]][0].holds(address)

    def agents(self, shared: int) -> Sequence[int]:
        return self.memory(shared).agents()

    def step_agent(self, shared: int, agent: int) -> Sequence[Outcome]:
        memory, masks, heap, remembered = self._states[shared]
        key = (memory, heap, remembered, agent) if self._hardware else (memory, agent)
        ways = self._agent_steps.get(key)
        if ways is None:

            def perform(choose: Choose, machine: Machine) -> None:
                machine.perform_agent(agent, choose)

            ways = self._agent_steps[key] = tuple(self._perform(perform, memory, heap, remembered, ()))
        outcomes = []
        for way in ways:
            if way.error is not None:
                outcomes.append(Outcome(way.choices, shared, None, None, finding_of(way.error, ())))
            else:
                after = way.remembered if self._hardware else remembered
                number = self._number(self._in_normal_form(way.memory, masks), masks, heap, after)
                outcomes.append(Outcome(way.choices, number, None))
        return outcomes

    def unfinished(self, shared: int) -> tuple[Unfinished, ...]:
        """Return what each CPU has begun and not finished; nothing at all where no CPU has begun anything."""
        number = self._states[shared][0]
        found = self._unfinished.get(number)
        if found is None:
            memory = self._memories[number]
            found = tuple(memory.unfinished(cpu) for cpu in range(memory.cpus))
            if all(begun == NOTHING for begun in found):
                found = ()
            self._unfinished[number] = found
        return found

    def covered(self, shared: int, cpu: int, node: Node, targets: Sequence[tuple[int, int]]) -> list[int]:
        """Return which ways of a plain load others stand for; `targets` are the shared and local states after them.

        A way is covered by one that reads an older store, if the program goes on alike, with equal objects and an equal
        memory of the property, and a value that points to the same object or to none: the CPU's views are no greater
        after that one, so that it can do whatever it could after the other.
        """
        assert node.op is not None
        points_to = self.memory(shared).points_to
        older = set()
        found = []
        ways = self._ways_of(shared, cpu, node, node.op)
        for index in range(len(targets) - 1, -1, -1):
            number, local = targets[index]
            alike = (local, self._states[number][1:], points_to(self._values[ways[index].response]))
            if alike in older:
                found.append(index)
            older.add(alike)
        return found

    def finished(self, shared: int) -> Finding | None:
        memory, _, heap, remembered = self._states[shared]
        self._machine(self._memories[memory], heap, remembered)
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
            return blockers_of(op, self.memory(shared).peek(op.address))
        except BaseException as error:
            raise self._automata[cpu].executing_error(node, error) from error

    # For those who keep the state space on disk

    @property
    def states(self) -> list[tuple[int, int, int, int]]:
        """The numbers of memory, masks, heap and memory of the property, of each shared state."""
        return self._states

    @property
    def memories(self) -> list[MemoryModel]:
        """Memory, by number; not to be stepped."""
        return self._memories

    @property
    def masks(self) -> list[Masks]:
        """What CPUs are assumed to do, by number."""
        return self._masks

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
        memories: Sequence[MemoryModel],
        masks: Sequence[Masks],
        heaps: Sequence[tuple[Allocator, frozenset[int]]],
        remembered: Sequence[Hashable],
        states: Sequence[tuple[int, int, int, int]],
    ) -> list[int]:
        """Take the numbers of another search of this task, but for those of memories, which nobody else knows.

        Returns the numbers that the memories have got. Raises ValueError where they are not those of such a search.
        """
        live = [self._memory_number(memory) for memory in memories]
        for mask in masks:
            self._masks_number(mask)
        for allocator, watched in heaps:
            self._heap_numbers.setdefault((allocator.state(), watched), len(self._heap_numbers))
            if len(self._heap_numbers) > len(self._heaps):
                self._heaps.append((allocator, watched))
        for one in remembered:
            self._remembered_number(one)
        for memory, mask_number, heap, known in states:
            if mask_number >= len(self._masks) or heap >= len(self._heaps) or known >= len(self._remembered):
                raise ValueError("a shared state has no parts")
            self._number(live[memory], mask_number, heap, known)
        sizes = (len(set(live)), len(masks), len(heaps), len(remembered), len(states))
        found = (len(live), len(self._masks), len(self._heaps), len(self._remembered), len(self._states))
        if sizes != found or any(len(mask) != len(self._automata) for mask in masks):
            raise ValueError("numbers were given twice, or in another order")
        return live

    # Parts of a step

    def _start(self, machine: Machine, initial: Hashable) -> int | Finding:
        start: Masks = ()
        for cpu, automaton in enumerate(self._automata):
            target = automaton.start.target
            start = (*start, 0 if target is None else self._assumed.at(cpu, target, 0))
        masks = self._masks_number(start)
        memory = self._in_normal_form(self._memory_number(machine.memory), masks)
        way = _Performed((), memory, self._heap_number(machine), self._remembered_number(initial), 0)
        for cpu, automaton in enumerate(self._automata):
            outcome = self._resumed(way, masks, cpu, automaton.start)
            if outcome.finding is not None:
                return outcome.finding
            memory, masks, heap, remembered = self._states[outcome.shared]
            way = _Performed((), memory, heap, remembered, 0)
            assert outcome.node is not None
            self.nodes.append(outcome.node)
        return outcome.shared

    def _ways_of(self, shared: int, cpu: int, node: Node, op: Operation) -> Sequence[_Performed]:
        """Return what an operation that is not blocked can do."""
        memory, _, heap, remembered = self._states[shared]
        number = self._op_number(node, op)
        allocator, watched = self._heaps[heap]
        alone = type(op) in MEMORY_ALONE
        if isinstance(op, _ACCESSES):
            # a machine asks if the object lives, and tells the observer of writes to what it watches
            place = op.address >> OFFSET_BITS
            alone = isinstance(op, Load | Await) or place not in watched
            if place in allocator.dead:
                write = isinstance(op, Store | Rmw)
                return (_Performed((), memory, heap, 0, 0, allocator.fault(op.address, write=write)),)
        if self._hardware and alone:
            # the observer hears of barriers, and of what an operation puts in place that was kept back before
            alone = not isinstance(op, _MAINTAINS) and not self._memories[memory].unfinished(cpu).locations
        key = (memory, cpu, number)
        key_at = (memory, heap, remembered, cpu, number)
        known = self._performed.get(key) if alone else self._performed_at.get(key_at)
        if known is None:
            if alone:
                known = self._performed[key] = tuple(self._perform_alone(memory, cpu, op))
            else:

                def perform(choose: Choose, machine: Machine) -> Any:
                    return machine.perform(cpu, op, choose)

                known = tuple(self._perform(perform, memory, heap, remembered, op))
                self._performed_at[key_at] = known
        if alone:
            return [_Performed(way.choices, way.memory, heap, remembered, way.response) for way in known]
        return known

    def _perform_alone(self, memory: int, cpu: int, op: Operation) -> Iterator[_Performed]:
        """Yield every way of an operation that concerns memory alone."""
        before = self._memories[memory]
        name = _METHODS[type(op)]
        for choices, after, response in every_way(
            lambda choose, copy: getattr(copy, name)(cpu, op, choose), before.copy
        ):
            yield _Performed(choices, self._memory_number(after), 0, 0, self._values.number(response))

    def _perform(
        self, run: Callable[[Choose, Machine], Any], memory: int, heap: int, remembered: int, op: object
    ) -> Iterator[_Performed]:
        """Yield every way that a step of a machine can go."""
        before = self._memories[memory]

        def copy() -> Machine:
            machine = self._machine(before.copy(), heap, remembered)
            if isinstance(op, Alloc | Free):
                machine.allocator = machine.allocator.copy()
            return machine

        def caught(choose: Choose, machine: Machine) -> Any:
            try:
                return run(choose, machine)
            except ModelError as error:
                return error

        for choices, machine, response in every_way(caught, copy):
            if isinstance(response, ModelError):
                yield _Performed(choices, memory, heap, remembered, 0, response)
            else:
                yield _Performed(
                    choices,
                    self._memory_number(machine.memory),
                    self._heap_number(machine) if isinstance(op, Alloc | Free) else heap,
                    self._remembered_number(self._observer.remembered),
                    self._values.number(response),
                )

    def _resumed(self, way: _Performed, masks: int, cpu: int, edge: Edge) -> Outcome:
        """Return the outcome of a step whose effect is done: the observer hears what the program says."""
        remembered = way.remembered
        if edge.notes:
            self._machine(self._memories[way.memory], way.heap, remembered)
            for annotation, stack in edge.notes:
                try:
                    self._observer.annotated(cpu, annotation)
                except ModelError as error:
                    return Outcome(way.choices, 0, None, edge, finding_of(error, stack))
            remembered = self._remembered_number(self._observer.remembered)
        if edge.error is not None:
            return Outcome(way.choices, 0, None, edge, finding_of(edge.error, edge.stack))
        assert edge.target is not None
        masks = self._masks_at(masks, cpu, edge.target)
        memory = self._in_normal_form(way.memory, masks)
        return Outcome(way.choices, self._number(memory, masks, way.heap, remembered), edge.target, edge)

    def _masks_at(self, masks: int, cpu: int, node: Node) -> int:
        """Return the number of the masks once a CPU has got to a local state, and may do less than before."""
        key = (masks, cpu, node.place)
        found = self._arrived.get(key)
        if found is None:
            before = self._masks[masks]
            after = (*before[:cpu], self._assumed.at(cpu, node, before[cpu]), *before[cpu + 1 :])
            found = self._arrived[key] = self._masks_number(after)
        return found

    def _in_normal_form(self, memory: int, masks: int) -> int:
        """Return the number of a memory's normal form."""
        if not self._assumed.forgets:
            return memory
        key = (memory, masks)
        found = self._normal.get(key)
        if found is None:
            normal = self._memories[memory].copy()
            normal.normalise([self._assumed.needs(mask) for mask in self._masks[masks]])
            found = self._normal[key] = self._memory_number(normal)
        return found

    def _machine(self, memory: MemoryModel, heap: int, remembered: int) -> Machine:
        """Return the one machine that all steps are done by, in this state."""
        machine = self._stepping
        machine.memory = memory
        machine.allocator, watched = self._heaps[heap]
        machine.set_watched(watched)
        if self._hardware:
            machine.report_hardware()
        self._observer.remembered = self._remembered[remembered]
        return machine

    # Numbers of states and their parts

    def _number(self, memory: int, masks: int, heap: int, remembered: int) -> int:
        key = (memory, masks, heap, remembered)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._states)
            self._states.append(key)
            if number % FORGET_EVERY == 0:
                self._forget()
        return number

    def _forget(self) -> None:
        """Forget what was worked out of states that have numbers: most of it nobody asks for again."""
        for known in (self._performed, self._performed_at, self._normal, self._unfinished):
            known.clear()

    def _memory_number(self, memory: MemoryModel) -> int:
        parts = memory.parts()
        number = self._memory_numbers.get(parts)
        if number is None:
            number = self._memory_numbers[parts] = len(self._memories)
            self._memories.append(memory)
            memory.remark = memory.on_visible = None
        return number

    def _masks_number(self, masks: Masks) -> int:
        number = self._masks_numbers.get(masks)
        if number is None:
            number = self._masks_numbers[masks] = len(self._masks)
            self._masks.append(masks)
        return number

    def _heap_number(self, machine: Machine) -> int:
        key = (machine.allocator.state(), machine.watched)
        number = self._heap_numbers.get(key)
        if number is None:
            number = self._heap_numbers[key] = len(self._heaps)
            self._heaps.append((machine.allocator, machine.watched))
        return number

    def _remembered_number(self, remembered: Hashable) -> int:
        number = self._remembered_numbers.get(remembered)
        if number is None:
            number = self._remembered_numbers[remembered] = len(self._remembered)
            self._remembered.append(remembered)
        return number

    def _op_number(self, node: Node, op: Operation) -> int:
        number = self._ops.get(node)
        if number is None:
            key = self._values.keys.of_temporary(op)
            number = self._ops[node] = self._op_numbers.setdefault(key, len(self._op_numbers))
        return number


def every_way(run: Callable[[Choose, T], Any], copy: Callable[[], T]) -> Iterator[tuple[tuple[int, ...], T, Any]]:
    """Yield (choices, what was stepped, response) for every way that a step can go.

    A step is run again for each way; the choices that it asks for are counted up like the digits of a number.
    """
    script: list[int] = []
    while True:
        asked: list[tuple[int, int]] = []

        def choose(ways: int, script: list[int] = script, asked: list[tuple[int, int]] = asked) -> int:
            way = script[len(asked)] if len(asked) < len(script) else 0
            asked.append((way, ways))
            return way

        stepped = copy()
        response = run(choose, stepped)
        yield tuple([way for way, _ in asked]), stepped, response
        while asked and asked[-1][0] == asked[-1][1] - 1:
            asked.pop()
        if not asked:
            return
        script = [way for way, _ in asked]
        script[-1] += 1
