"""Goes through the states that a certificate lists: takes every step of each, and sees where it leads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from fuzzvm.certificate.claims import Claims
from fuzzvm.certificate.errors import RejectedError
from fuzzvm.certificate.file import Safe
from fuzzvm.certificate.keys import Keys
from fuzzvm.certificate.programs import Histories, History, RecordedProgram
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.schedule import Step
from fuzzvm.machine.task import Task

State = tuple[int, ...]


class StateCheck:
    """The check of the states of one certificate. `met` is called with each thing that a CPU does in some state."""

    def __init__(self, certificate: Safe, task: Task, met: Callable[[History], None]) -> None:
        self._listed = certificate
        self._task = task
        self._tell = met
        self._keys = Keys()
        self._claims = Claims(certificate, task.booted(), task.property.observed())
        self._known: dict[State, int] = {}
        """The states met so far, with their numbers."""
        self._waiting: deque[Machine] = deque()
        """A machine in each of them that has not been left yet, in their order."""
        self._wrong: RejectedError | None = None
        """What is wrong with a claim: a machine that runs a program would take it for an error of that."""

    def run(self) -> None:
        """Take every step of every state. Raises RejectedError, ProgramError where a program is broken."""
        self._start()
        count = len(self._listed.parents)
        for number in range(count):
            if not self._waiting:
                raise RejectedError(f"it lists {count} states, and runs come to {len(self._known)}")
            self._leave(number, self._waiting.popleft())
        self._claims.end()

    def _start(self) -> None:
        machine = self._task.booted()
        machine.careful = True
        machine.memory.compared_by(self._keys.of_value)
        programs = enumerate(self._task.programs())
        machine.start([RecordedProgram(Histories(cpu, one, self._keys, self._met)) for cpu, one in programs])
        if machine.failure is not None:
            raise RejectedError(f"a run goes wrong before its first step: {named(machine.failure)}")
        self._known[self._state(machine)] = 0
        self._waiting.append(machine)

    def _leave(self, number: int, machine: Machine) -> None:
        """Take every step of a state. Raises RejectedError unless each leads to a listed state."""
        listed = self._listed
        nearest = None
        for step, after in self._steps(machine):
            if after.failure is not None:
                raise RejectedError(f"state {number} has a step that goes wrong: {named(after.failure)}")
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
            raise RejectedError(f"state {number} has no step, and is no end: {named(machine.failure)}")
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
        observer = self._task.property.observer(copied)
        assert machine.observer is not None
        observer.remembered = machine.observer.remembered
        copied.observer = observer
        return copied

    def _state(self, machine: Machine) -> State:
        """Return what a machine's future depends on, once its memory has forgotten what nobody can tell any more."""
        if self._wrong is not None:
            raise self._wrong
        number = self._keys.number
        locals_ = [self._local(machine, cpu) for cpu in range(self._task.cpus)]
        if self._claims.forgets:
            machine.memory.normalise([self._claims.needs(local) for local in locals_])
        memory = machine.memory.state()
        # equal parts have one number, as memories differ in one part or two; sequential consistency has one part
        parts = [number(part) for part in memory] if machine.memory.delays_stores else [number(memory)]
        observer = machine.observer
        assert observer is not None
        objects, remembered = machine.allocator.state(), observer.remembered
        return (*locals_, *parts, number(("objects", objects, machine.watched)), number(("oracles", remembered)))

    def _local(self, machine: Machine, cpu: int) -> int:
        program = machine.program(cpu)
        assert isinstance(program, RecordedProgram)
        assert program.history is not None
        return program.history.local

    def _met(self, history: History) -> None:
        try:
            self._claims.met(history)
        except RejectedError as error:
            self._wrong = self._wrong or error
        self._tell(history)


def named(failure: Failure) -> str:
    """Return an error and where it happens, in words."""
    return f"{failure.error} in {failure.function or 'the run as a whole'}"
