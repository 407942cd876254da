"""A whole scenario, under sequential consistency, as a model for Spin.

Every CPU's automaton becomes a process: a label for each local state, and below it an atomic step for each value that
may be read there. Cells hold numbers of values. The heap is a number as well, with a step for each heap that an
allocation or a free was met with. Use of a freed object violates an assertion; CPUs that wait for each other are in an
invalid end state. A run that ends well stands at labels that begin with `end`.

The automata are complete because every state has been visited; so Spin checks the search and its verdict, not the
programs. What oracles say of a state (W+X mappings, leaks) has no counterpart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fuzzvm.corpus.format import TestCase
from fuzzvm.exhaustive.automaton import Node
from fuzzvm.exhaustive.flat import Cells, FlatShared
from fuzzvm.exhaustive.shared import Finding, stuck
from fuzzvm.exhaustive.space import SHARED_MASK, Space
from fuzzvm.export.errors import ExportError
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import DOUBLE_FREE, REUSED_OBJECT, USE_AFTER_FREE_READ, USE_AFTER_FREE_WRITE
from fuzzvm.machine.ops import Address, Alloc, Await, Fetch, Free, Load, Rmw, Store, object_of, offset_of
from fuzzvm.scenario.system import System

MAX_STATES = 200_000
_OF_MEMORY = frozenset({USE_AFTER_FREE_READ, USE_AFTER_FREE_WRITE, REUSED_OBJECT, DOUBLE_FREE})


@dataclass
class SpinStates:
    """Every state of a system, as Spin is to see it: cells, heap, local states.

    `taken` has, for each CPU and local state, by what was read (a value's number, or that of the heap), where that
    led: the local state, and the heap; None where the program failed.
    """

    space: Space
    shared: FlatShared
    states: set[tuple[Cells, int, int]] = field(default_factory=set)
    taken: dict[tuple[int, int], dict[int, tuple[int, int] | None]] = field(default_factory=dict)
    findings: set[str] = field(default_factory=set)


def promela(case: TestCase, mitigation: type[Mitigation], max_states: int = MAX_STATES) -> str:
    """Return the model of a test case's scenario; its schedule and memory model do not matter.

    Raises ExportError where there are more than `max_states` states, or where oracles alone find something.
    """
    explored = explore(System(case.scenario, mitigation, "sc", without=case.without), max_states)
    return _Writer(case, explored).text()


def explore(system: System, max_states: int = MAX_STATES) -> SpinStates:
    """Visit every state of a system, on past what oracles find. Raises ExportError as `promela` does."""
    space = Space(system)
    assert isinstance(space.shared, FlatShared)
    if isinstance(space.start, Finding):
        raise ExportError(f"{space.start.error} before the first step: there is no model of that")
    explored = SpinStates(space, space.shared)
    unasked: set[str] = set()
    seen = {space.start}
    stack = [space.start]
    while stack:
        state = stack.pop()
        shared = state & SHARED_MASK
        explored.states.add((*space.shared.parts(shared), state >> space.lanes[0].shift))
        following = list(_steps(explored, unasked, state))
        if not following:
            _ended(explored, unasked, state)
        for target in following:
            if target not in seen and target != FAILED:
                seen.add(target)
                stack.append(target)
        if len(seen) > max_states:
            raise ExportError(f"more than {max_states} states: raise --max-states, or take a smaller scenario")
    if unasked and not explored.findings:
        raise ExportError(f"{min(unasked)} is what oracles find, and a model for Spin has none")
    return explored


FAILED = -1
"""Stands for the state after a failure: there is none."""


def _steps(explored: SpinStates, unasked: set[str], state: int) -> Iterator[int]:
    """Yield the states that follow, and keep what led there."""
    space, flat = explored.space, explored.shared
    shared = state & SHARED_MASK
    for lane in space.lanes:
        local = lane.local(state)
        if not local:
            continue
        node = space.automata[lane.cpu].nodes[local]
        guard = _guard(flat, shared, node)
        taken = explored.taken.setdefault((lane.cpu, local), {})
        for outcome in flat.step(shared, lane.cpu, node):
            target = outcome.edge.target if outcome.edge is not None else None
            if target is not None:
                if outcome.finding is not None:
                    # oracles do not keep the programs from going on
                    unasked.add(outcome.finding.error)
                taken[guard] = target.number, flat.parts(outcome.shared)[1]
                yield state + outcome.shared - shared + (target.number - local << lane.shift)
                continue
            assert outcome.finding is not None
            error = outcome.finding.error
            if outcome.edge is None and error not in _OF_MEMORY:
                raise ExportError(f"{error} is what oracles find, and a model for Spin has none")
            explored.findings.add(error)
            if outcome.edge is not None or isinstance(node.op, Free):
                taken[guard] = None
            yield FAILED


def _guard(flat: FlatShared, shared: int, node: Node) -> int:
    match node.op:
        case Load(address) | Await(address) | Fetch(address) | Rmw(address):
            return flat.read(shared, address)
        case Alloc() | Free():
            return flat.parts(shared)[1]
    return 0


def _ended(explored: SpinStates, unasked: set[str], state: int) -> None:
    space = explored.space
    nodes = [space.automata[lane.cpu].nodes[lane.local(state)] for lane in space.lanes]
    shared = state & SHARED_MASK
    if any(node.op is not None for node in nodes):
        explored.findings.add(stuck(space.shared, shared, nodes).error)
    elif (finding := space.shared.finished(shared)) is not None:
        unasked.add(finding.error)


class _Writer:
    def __init__(self, case: TestCase, explored: SpinStates) -> None:
        self._case = case
        self._explored = explored
        self._space = explored.space
        self._flat = explored.shared
        assert isinstance(self._space.start, int)
        self._start = self._space.start & SHARED_MASK
        self._heaps = {self._flat.parts(self._start)[1]} | {heap for _, heap, _ in explored.states}
        self._cells: dict[Address, str] = {}
        self._values: set[int] = set()

    def text(self) -> str:
        processes = [line for lane in self._space.lanes for line in self._process(lane.cpu)]
        lines = [*self._comment(), ""]
        lines += [f"int {name} = {self._number(address)};" for address, name in self._cells.items()]
        lines += [f"int heap = {self._flat.parts(self._start)[1]};", *processes]
        return "\n".join(lines) + "\n"

    def _number(self, address: Address) -> int:
        return self._flat.read(self._start, address)

    def _comment(self) -> list[str]:
        case, explored = self._case, self._explored
        found = ", ".join(sorted(explored.findings)) or "nothing"
        told = [
            f"{case.scenario.name or case.identity()} under {case.mitigation}, sequentially consistent memory",
            f"{len(explored.states)} states; what goes wrong: {found}",
        ]
        if case.memory != "sc":
            told.append(f"the test case is one of memory model {case.memory}, which Spin does not have")
        told += [f"{name}: {self._meaning(address)}" for address, name in self._cells.items()]
        self._values |= {self._number(address) for address in self._cells}
        told += [f"value {number}: {self._space.values[number]!r}" for number in sorted(self._values)]
        return ["/*", *(f" * {line.replace('*/', '* /')}" for line in told), " */"]

    def _meaning(self, address: Address) -> str:
        for heap in sorted(self._heaps):
            allocation = self._flat.heap(heap).lookup(address)
            if allocation is not None:
                return f"word {offset_of(address)} of {allocation.label}"
        raise AssertionError(f"{address:#x} is in no object")

    def _process(self, cpu: int) -> list[str]:
        lines = ["", f"active proctype cpu{cpu}()", "{"]
        start = self._flat.nodes[cpu].number
        mine = sorted(local for owner, local in self._explored.taken if owner == cpu)
        # a process begins at its first label
        for local in sorted(mine, key=lambda local: local != start):
            node = self._space.automata[cpu].nodes[local]
            lines += [f"L{local}: /* {node.stack[0]}: {type(node.op).__name__} */", "\tif"]
            lines += [f"\t:: atomic {{ {step} }}" for step in self._ways(node, self._explored.taken[cpu, local])]
            lines.append("\tfi;")
        # it never ends: the end of a process would be a state of its own
        return [*lines, "end_returned:", "\tfalse", "}"]

    def _ways(self, node: Node, taken: dict[int, tuple[int, int] | None]) -> Iterator[str]:
        op = node.op
        fault = ""
        if isinstance(op, Load | Await | Store | Rmw):
            fault = self._dead(op.address)
            if fault:
                yield f"({fault}){self._ready(op)} -> assert(false)"
        alive = f" && !({fault})" if fault else ""
        for guard, target in taken.items():
            change = ""
            match op:
                case Load(address) | Await(address) | Fetch(address):
                    test = f"{self._cell(address)} == {self._value(guard)}{alive}"
                case Rmw(address, update):
                    test = f"{self._cell(address)} == {self._value(guard)}{alive}"
                    new = self._space.values.number(update(self._space.values[guard]))
                    change = f"{self._cell(address)} = {self._value(new)}; "
                case Store(address, value):
                    test = f"true{alive}"
                    change = f"{self._cell(address)} = {self._value(self._space.values.number(value))}; "
                case Alloc() | Free():
                    test = f"heap == {guard}"
                    change = f"heap = {target[1]}; " if target is not None else ""
                case _:
                    test = "true"
            if target is None:
                yield f"{test} -> assert(false)"
            else:
                yield f"{test} -> {change}goto {f'L{target[0]}' if target[0] else 'end_returned'}"
        if not taken and not fault:
            # CPUs only ever wait here
            yield "false -> skip"

    def _ready(self, op: Load | Await | Store | Rmw) -> str:
        """Return the condition of an operation that waits, as a further conjunct."""
        if not isinstance(op, Await | Rmw) or op.when is None:
            return ""
        shared = range(self._flat.count)
        held = {self._flat.read(number, op.address) for number in shared}
        met = sorted(number for number in held if op.when(self._space.values[number]))
        return " && (" + (" || ".join(f"{self._cell(op.address)} == {number}" for number in met) or "false") + ")"

    def _dead(self, address: Address) -> str:
        """Return the condition that the object of an address has been freed; '' where it never is."""
        heaps = [heap for heap in sorted(self._heaps) if object_of(address) in self._flat.heap(heap).dead]
        return " || ".join(f"heap == {heap}" for heap in heaps)

    def _cell(self, address: Address) -> str:
        return self._cells.setdefault(address, f"cell{len(self._cells)}")

    def _value(self, number: int) -> int:
        self._values.add(number)
        return number
