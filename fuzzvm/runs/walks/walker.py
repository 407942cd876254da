"""Walks through the state space of one system, step by step as a chooser has it.

A step is worked out when a run first takes it, and never before: so that what is worked out is what runs have done, and
code of the user's runs when a machine would run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from fuzzvm.exhaustive.automaton import Node
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import LOCAL_MASK, SHARED_MASK, Lane, Space, ways_of
from fuzzvm.machine.errors import ScheduleError
from fuzzvm.machine.execution import MAX_STEPS, Chooser
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Annotation, Await, Operation, Rmw, Value
from fuzzvm.machine.schedule import Step
from fuzzvm.machine.task import Task
from fuzzvm.supervision import stopping

Observe = Callable[[Operation, Sequence[str], Value, Sequence[Annotation]], None]
"""Is told of each step when it is first taken: the operation, the functions that it is in, response, annotations."""


class View:
    """What a chooser sees of a walk, in the place of a machine."""

    def __init__(self, cpus: int) -> None:
        self.memory = SimpleNamespace(cpus=cpus)
        self.nodes: list[Node] = []

    def pending(self, cpu: int) -> Operation | None:
        return self.nodes[cpu].op

    def site(self, cpu: int) -> tuple[Any, int]:
        return self.nodes[cpu].site


class Walker:
    """Walks of one task. Raises UnkeyableError where local state cannot be keyed, also later, in a walk."""

    def __init__(self, task: Task, observe: Observe) -> None:
        self.space = Space(task)
        self.shared: Any = self.space.shared
        self._observe = observe
        self._waits = [_Waits(lane) for lane in self.space.lanes]
        self._alone: list[Step] = [(cpu,) for cpu in range(len(self.space.lanes))]
        self._ends: dict[int, bool] = {}
        self.compiled: Any = None
        self.walks = 0
        self._view = View(len(self.space.lanes))

    @property
    def size(self) -> int:
        """How many steps are known."""
        return sum(len(lane.table) for lane in self.space.lanes)

    def walk(self, chooser: Chooser, steps: list[Step]) -> bool:
        """Go from the first state to an end, and put the steps into `steps`; return whether all went well.

        Raises UnkeyableError and StateBoundError where the walk cannot go on, and what the chooser raises.
        """
        stopping.check()
        space, view = self.space, self._view
        if isinstance(space.start, Finding):
            return False
        lanes = [
            (lane.mask, lane.table, lane.shift, lane.nodes, waits)
            for lane, waits in zip(space.lanes, self._waits, strict=True)
        ]
        alone = self._alone
        state: int = space.start
        nodes = view.nodes = list(self.shared.nodes)
        machine = cast(Machine, view)
        choose_agent = chooser.agent
        waiting = {cpu for cpu, node in enumerate(nodes) if node.number in self._waits[cpu]}
        running = [cpu for cpu, node in enumerate(nodes) if node.op is not None]
        ready: Sequence[int] = self._ready(state, running, waiting)
        while ready:
            if len(steps) >= MAX_STEPS:
                return False
            agent = choose_agent(ready, machine)
            if agent not in ready:
                raise ScheduleError(f"step {len(steps) + 1} is of agent {agent}, which cannot step there")
            mask, table, shift, known, waits = lanes[agent]
            key = state & mask
            steps.append(alone[agent])
            delta = table.get(key)
            if delta is None:
                delta = self.take(agent, key)
            if type(delta) is not int:
                ((_, delta, finding),) = ways_of(delta)
                if finding is not None:
                    return False
            state += delta
            number = state >> shift & LOCAL_MASK
            nodes[agent] = known[number]
            if waiting:
                waiting.discard(agent)
                if number in waits:
                    waiting.add(agent)
                if not number:
                    running.remove(agent)
                ready = self._ready(state, running, waiting)
            elif not number:
                running.remove(agent)
                ready = running
            elif number in waits:
                waiting.add(agent)
                ready = self._ready(state, running, waiting)
        return not running and self.ends(state)

    def ends(self, state: int) -> bool:
        """Return whether all is well with a run that ends in a state."""
        found = self._ends.get(state)
        if found is None:
            found = self._ends[state] = self.space.ended(state) is None
        return found

    def take(self, cpu: int, key: int) -> Any:
        """Work out a step that has not been taken before, and return the table's entry for it."""
        lane = self.space.lanes[cpu]
        entry = lane.compute(key)
        node = lane.nodes[key >> lane.shift]
        for edge in lane.edges:
            if edge.error is None and not any(way.finding for way in ways_of(entry)):
                # the response is not in the table; it is one of those that the local state has an edge for
                number = next(response for response, one in node.edges.items() if one is edge)
                notes = [note.annotation for note in edge.notes]
                assert node.op is not None
                self._observe(node.op, node.stack, self.space.values[number], notes)
        return entry

    def _ready(self, state: int, running: Sequence[int], waiting: set[int]) -> list[int]:
        return [cpu for cpu in running if cpu not in waiting or self.may_go_on(cpu, state)]

    def may_go_on(self, cpu: int, state: int) -> bool:
        """Return whether the condition holds that a CPU waits for."""
        return self._waits[cpu].over(self.space, state & self.space.lanes[cpu].mask)


class _Waits:
    """The local states of a CPU whose operation may wait, and where it does not."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._numbers: set[int] = set()
        self._seen = 0
        self._over: dict[int, bool] = {}

    def __contains__(self, number: int) -> bool:
        nodes = self._lane.nodes
        while self._seen < len(nodes):
            op = nodes[self._seen].op
            if isinstance(op, Await | Rmw) and op.when is not None:
                self._numbers.add(self._seen)
            self._seen += 1
        return number in self._numbers

    def over(self, space: Space, key: int) -> bool:
        found = self._over.get(key)
        if found is None:
            node = self._lane.nodes[key >> self._lane.shift]
            shared: Any = space.shared
            op: Any = node.op
            try:
                found = bool(op.when(space.values[shared.read(key & SHARED_MASK, op.address)]))
            except BaseException as error:
                raise space.automata[self._lane.cpu].executing_error(node, error) from error
            self._over[key] = found
        return found
