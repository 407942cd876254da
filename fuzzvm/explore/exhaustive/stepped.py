"""Shared state under any memory model: a machine without programs for each state, copied for each step.

Slower than `flat`, and the same code that runs schedules: what a step does is what Machine does. A memory model takes
part by its `state()`, the immutable value that its states are compared by; its choices are found by trying them all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from fuzzvm.explore.automaton import Automaton, Edge, Node, Values
from fuzzvm.explore.exhaustive.shared import Finding, Outcome, finding_of
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory import Choose
from fuzzvm.scenario.system import System


class SteppedShared:
    """See `Shared`. Machines in `_machines` are never stepped, only copied."""

    def __init__(self, system: System, automata: Sequence[Automaton], values: Values) -> None:
        self._kernel = system.kernel
        self._automata = automata
        self._values = values
        self._numbers: dict[Hashable, int] = {}
        self._machines: list[Machine] = []
        self.nodes: list[Node] = []
        machine = system.booted()
        self.start: int | Finding = self._start(machine)

    def step(self, shared: int, cpu: int, node: Node) -> Sequence[Outcome]:
        op = node.op
        if op is None or self._machines[shared].blocked(cpu, op):
            return ()
        outcomes = []

        def perform(choose: Choose, machine: Machine) -> Any:
            return machine.perform(cpu, op, choose)

        for choices, machine, response, error in _ways(perform, self._copy, shared):
            if error is not None:
                outcomes.append(Outcome(choices, shared, None, None, finding_of(error, node.stack)))
                continue
            edge = self._automata[cpu].next(node, self._values.number(response))
            outcomes.append(self._resumed(machine, cpu, edge, choices))
        return outcomes

    def agents(self, shared: int) -> Sequence[int]:
        return self._machines[shared].memory.agents()

    def step_agent(self, shared: int, agent: int) -> Sequence[Outcome]:
        outcomes = []

        def perform(choose: Choose, machine: Machine) -> None:
            machine.perform_agent(agent, choose)

        for choices, machine, _, error in _ways(perform, self._copy, shared):
            if error is not None:
                outcomes.append(Outcome(choices, shared, None, None, finding_of(error, ())))
            else:
                outcomes.append(Outcome(choices, self._number(machine), None))
        return outcomes

    def finished(self, shared: int) -> Finding | None:
        observer = self._machines[shared].observer
        assert observer is not None
        try:
            observer.finished()
        except ModelError as error:
            return finding_of(error, ())
        return None

    def blockers(self, shared: int, node: Node) -> tuple[int, ...]:
        return self._machines[shared].blockers(node.op)

    def _start(self, machine: Machine) -> int | Finding:
        shared = self._number(machine)
        for cpu, automaton in enumerate(self._automata):
            outcome = self._resumed(self._copy(shared), cpu, automaton.start, ())
            if outcome.finding is not None:
                return outcome.finding
            shared = outcome.shared
            assert outcome.node is not None
            self.nodes.append(outcome.node)
        return shared

    def _copy(self, shared: int) -> Machine:
        machine = self._machines[shared]
        copy = machine.copy()
        oracles = Oracles(copy, self._kernel)
        assert isinstance(machine.observer, Oracles)
        oracles.remembered = machine.observer.remembered
        copy.observer = oracles
        return copy

    def _resumed(self, machine: Machine, cpu: int, edge: Edge, choices: tuple[int, ...]) -> Outcome:
        assert machine.observer is not None
        for annotation, stack in edge.notes:
            try:
                machine.observer.annotated(cpu, annotation)
            except ModelError as error:
                return Outcome(choices, 0, None, edge, finding_of(error, stack))
        if edge.error is not None:
            return Outcome(choices, 0, None, edge, finding_of(edge.error, edge.stack))
        return Outcome(choices, self._number(machine), edge.target, edge)

    def _number(self, machine: Machine) -> int:
        assert isinstance(machine.observer, Oracles)
        memory = self._values.keys.of(machine.memory.state())
        key = (memory, machine.allocator.state(), machine.watched, machine.observer.remembered)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._machines)
            self._machines.append(machine)
        return number


def _ways(
    run: Callable[[Choose, Machine], Any], copy: Callable[[int], Machine], shared: int
) -> Iterator[tuple[tuple[int, ...], Machine, Any, ModelError | None]]:
    """Yield (choices, machine after it, response, error) for every way that a step can go.

    A step is run again for each way; the choices that it asks for are counted up like the digits of a number.
    """
    script: list[int] = []
    while True:
        asked: list[tuple[int, int]] = []

        def choose(ways: int, script: list[int] = script, asked: list[tuple[int, int]] = asked) -> int:
            way = script[len(asked)] if len(asked) < len(script) else 0
            asked.append((way, ways))
            return way

        machine = copy(shared)
        response, failed = None, None
        try:
            response = run(choose, machine)
        except ModelError as error:
            failed = error
        yield tuple(way for way, _ in asked), machine, response, failed
        while asked and asked[-1][0] == asked[-1][1] - 1:
            asked.pop()
        if not asked:
            return
        script = [way for way, _ in asked]
        script[-1] += 1
