"""Checks a certificate by steps of the machine, and by nothing that is quicker.

`safe`: the certificate lists states. The start is the first of them, each step of each of them leads to one of them,
none of these steps goes wrong, and from each of them some steps lead to an end of the run. By induction every state of
every run is among them. `bug`: the schedule is followed, and the run goes wrong as the certificate says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from fuzzvm.certificate.claims import Claims
from fuzzvm.certificate.errors import RejectedError
from fuzzvm.certificate.file import Bug, Safe
from fuzzvm.certificate.keys import Keys
from fuzzvm.certificate.programs import Histories, History, RecordedProgram
from fuzzvm.kernel.contexts import Taken
from fuzzvm.kernel.cover_points import CoverPoints
from fuzzvm.kernel.errors import LOCK_ORDER
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Annotation
from fuzzvm.machine.schedule import Step
from fuzzvm.scenario.digest import task_digest
from fuzzvm.scenario.purpose import missing
from fuzzvm.scenario.system import System

State = tuple[int, ...]


def check(certificate: Safe | Bug, scheme: type[Mitigation], asked_for_by: str) -> None:
    """Return where a certificate shows what it says. `asked_for_by` is what its scheme was found by.

    Raises RejectedError, ScenarioError where the task's setup fails, ProgramError where its scheme is broken.
    """
    task = certificate.task
    if task_digest(task.scenario, asked_for_by, task.memory, task.without) != task.digest:
        raise RejectedError("made for another task: the scenario, the scheme, the memory or the model's code differs")
    system = System(task.scenario, scheme, task.memory, asked_for_by, task.without)
    with system.unchanged():
        if isinstance(certificate, Bug):
            _check_bug(certificate, system)
        else:
            _Check(certificate, system).run()


def _check_bug(bug: Bug, system: System) -> None:
    if bug.error == LOCK_ORDER:
        system.lock_order.watched = None
    machine = system.machine()
    machine.careful = True
    for number, (agent, *choices) in enumerate(bug.schedule, 1):
        if agent not in machine.enabled():
            raise RejectedError(f"step {number} is of agent {agent}, which cannot step there")
        left = list(choices)

        def choose(ways: int, left: list[int] = left, number: int = number) -> int:
            if not left or left[0] >= ways:
                raise RejectedError(f"step {number} has a choice of {ways} ways, and the schedule takes none of them")
            return left.pop(0)

        machine.step(agent, choose)
        if left:
            raise RejectedError(f"step {number} has choices more than it needs")
    if machine.failure is None and not machine.done and not machine.enabled():
        machine.stuck()
    if machine.failure is None:
        raise RejectedError("the run that it has does not go wrong")
    if (machine.failure.error, machine.failure.function) != (bug.error, bug.function):
        raise RejectedError(f"the run goes wrong in another way: {_named(machine.failure)}")


class _Check:
    """The check of one certificate that says safe."""

    def __init__(self, certificate: Safe, system: System) -> None:
        self._listed = certificate
        self._system = system
        self._keys = Keys()
        booted = system.booted()
        self._claims = Claims(certificate, booted, system.property.observed())
        self._happened = CoverPoints(system.kernel.arch, booted.allocator)
        self._known: dict[State, int] = {}
        """The states met so far, with their numbers."""
        self._waiting: deque[Machine] = deque()
        """A machine in each of them that has not been stepped, in their order."""

    def run(self) -> None:
        """Go through the states in their order. Raises RejectedError."""
        order = self._system.lock_order
        order.watched = frozenset(Taken(held, taken) for held, taken in self._listed.orders)
        self._start()
        count = len(self._listed.parents)
        for number in range(count):
            if not self._waiting:
                raise RejectedError(f"it lists {count} states, and runs come to {len(self._known)}")
            self._leave(number, self._waiting.popleft())
        self._claims.end()
        if not order.in_cycles() <= order.watched:
            raise RejectedError("locks are taken in orders that may close a cycle, which it does not list")
        if lacks := missing(self._system, self._happened.met):
            raise RejectedError(f"vacuous: no schedule has {', '.join(lacks)}")

    def _start(self) -> None:
        machine = self._system.booted()
        machine.careful = True
        machine.memory.key_of = self._keys.of_value
        programs = enumerate(self._system.programs())
        machine.start([RecordedProgram(Histories(cpu, one, self._keys, self._met)) for cpu, one in programs])
        if machine.failure is not None:
            raise RejectedError(f"a run goes wrong before its first step: {_named(machine.failure)}")
        self._known[self._state(machine)] = 0
        self._waiting.append(machine)

    def _leave(self, number: int, machine: Machine) -> None:
        """Take every step of a state. Raises RejectedError unless each leads to a listed state."""
        listed = self._listed
        nearest = None
        for step, after in self._steps(machine):
            if after.failure is not None:
                raise RejectedError(f"state {number} has a step that goes wrong: {_named(after.failure)}")
            state = self._state(after)
            target = self._known.get(state)
            if target is None:
                target = len(self._known)
                if target == len(listed.parents):
                    raise RejectedError(f"state {number} has a step to a state that is not listed")
                if listed.parents[target] != number or listed.steps[target] != step:
                    raise RejectedError(f"state {target} is not come to as it is listed, but from {number}")
                self._known[state] = target
                self._waiting.append(after)
            rank = listed.ranks[target]
            nearest = rank if nearest is None or rank < nearest else nearest
        if nearest is None and not machine.done:
            machine.stuck()
            assert machine.failure is not None
            raise RejectedError(f"state {number} has no step, and is no end: {_named(machine.failure)}")
        if listed.ranks[number] != (0 if nearest is None else nearest + 1):
            raise RejectedError(f"state {number} is not as far from an end as its rank says")

    def _steps(self, machine: Machine) -> Iterator[tuple[Step, Machine]]:
        """Yield each step of a state, and a machine that has taken it: agents and choices in ascending order."""
        for agent in machine.enabled():
            script: list[int] = []
            while True:
                asked: list[tuple[int, int]] = []

                def choose(ways: int, script: list[int] = script, asked: list[tuple[int, int]] = asked) -> int:
                    way = script[len(asked)] if len(asked) < len(script) else 0
                    asked.append((way, ways))
                    return way

                after = self._copy(machine)
                after.step(agent, choose)
                yield (agent, *[way for way, _ in asked]), after
                while asked and asked[-1][0] == asked[-1][1] - 1:
                    asked.pop()
                if not asked:
                    break
                script = [*[way for way, _ in asked[:-1]], asked[-1][0] + 1]

    def _copy(self, machine: Machine) -> Machine:
        copied = machine.copy()
        copied.careful = True
        observer = self._system.property.observer(copied)
        assert machine.observer is not None
        observer.remembered = machine.observer.remembered
        copied.observer = observer
        return copied

    def _state(self, machine: Machine) -> State:
        """Return what a machine's future depends on, once its memory has forgotten what nobody can tell any more."""
        number = self._keys.number
        locals_ = [self._local(machine, cpu) for cpu in range(self._system.cpus)]
        if self._claims.forgets:
            machine.memory.normalise([self._claims.needs(local) for local in locals_])
        memory = machine.memory.state()
        parts = [number(part) for part in memory] if machine.memory.parts else [number(memory)]
        observer = machine.observer
        assert observer is not None
        objects, remembered = machine.allocator.state(), observer.remembered
        return (*locals_, *parts, number(("objects", objects, machine.watched)), number(("oracles", remembered)))

    def _local(self, machine: Machine, cpu: int) -> int:
        program = machine.program(cpu)
        assert isinstance(program, RecordedProgram)
        assert program.history is not None
        return program.history.local

    def _met(self, cpu: int, history: History) -> None:
        """Take in what a CPU does that was not seen before."""
        self._claims.met(history)
        self._happened.said(said.what for said in history.said if isinstance(said.what, Annotation))
        before = history.before
        if before is not None and before.op is not None:
            self._happened.executed(before.op, before.said[-1].stack, history.response)


def _named(failure: Failure) -> str:
    where = failure.function or "the run as a whole"
    return f"{failure.error} in {where}"
