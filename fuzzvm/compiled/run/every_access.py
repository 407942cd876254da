"""The same interleaving in two tasks: one in which every access to shared memory is a step, and one with fewer steps.

The task that is searched leaves out accesses that no other CPU can tell, as far as is known by then (`knowledge`). So
its schedules are good for that search alone. Those of `CompiledTask.every_access` rest on the code and the memory model
only: they are what is kept.

Both tasks are run side by side. They have the same programs, so each step of the smaller run is an access of the larger
one: that which its CPU makes at the same point. The accesses that are left out are made as early as they can be without
a further context switch: right after the step before them, those at the beginning right before the CPU's first step.
What a store buffer holds of them is drained along with what follows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fuzzvm.compiled.errors import ConversionError
from fuzzvm.compiled.run.program import CompiledProgram
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.machine.errors import Failure, OutdatedProgramError, ScheduleError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory import Choose
from fuzzvm.machine.ops import Load, Store
from fuzzvm.machine.remarks import BecameVisible, Remark
from fuzzvm.machine.schedule import Schedule, Step
from fuzzvm.machine.task import settled

MOST_LEFT_OUT = 1_000_000
"""Accesses between two steps of the smaller run: more than any run has."""


class _Run:
    """A run of a task, and the schedule that it has taken."""

    def __init__(self, task: CompiledTask) -> None:
        self.programs = [program for program in task.programs() if isinstance(program, CompiledProgram)]
        self.machine = task.booted()
        self.machine.start(self.programs)
        self.taken: list[Step] = []

    @property
    def failure(self) -> Failure | None:
        return self.machine.failure

    def point(self, cpu: int) -> Hashable:
        """Return where a CPU stands; None where it goes on no more."""
        return None if self.failure or self.machine.pending(cpu) is None else self.programs[cpu].point()

    def step(self, agent: int, values: Sequence[int]) -> None:
        """Take a step whose choices are these. Raises ScheduleError where it cannot be taken so."""
        left = list(values)

        def choose(ways: int) -> int:
            if not left or left[0] >= ways:
                raise ScheduleError(f"step {len(self.taken) + 1} has a choice of {ways} ways")
            return left.pop(0)

        self.step_by(agent, choose)
        if left:
            raise ScheduleError(f"step {len(self.taken)} has {len(left)} choices more than it needs")

    def step_by(self, agent: int, choose: Choose) -> None:
        """Take a step whose choices are made by a function. Raises ScheduleError where the agent cannot step."""
        if agent not in self.machine.enabled():
            raise ScheduleError(f"step {len(self.taken) + 1} is of agent {agent}, which cannot step there")
        made: list[int] = []

        def noted(ways: int) -> int:
            made.append(choose(ways))
            return made[-1]

        self.machine.step(agent, noted)
        self.taken.append((agent, *made))

    def ways(self, agent: int) -> list[Remark | None]:
        """Return what a step of an agent of the memory model makes visible, for each of its ways."""
        found: list[Remark | None] = []
        most = 1
        while len(found) < most:
            memory = self.machine.memory.copy()

            def choose(ways: int) -> int:
                nonlocal most
                most = ways
                return len(found)

            memory.step(agent, choose)
            found.append(memory.remark)
        return found


def every_access(few: CompiledTask, schedule: Schedule) -> Schedule:
    """Return the same interleaving as a schedule of `few.every_access()`.

    Raises ConversionError where there is none that ends the same way.
    """
    begun = few.every_access()
    every, found = settled(begun, lambda every: _expanded(_Run(few), schedule, _Run(every)))
    if every is not begun:
        # who replays it begins with nothing known
        end = _end(_replayed(few.every_access(), found))
        if end != _end(_replayed(every, found)):
            raise ConversionError(f"the schedule cannot be kept: replayed from the beginning, it ends in {end}")
    return found


def _replayed(every: CompiledTask, schedule: Schedule) -> _Run:
    def followed(every: CompiledTask) -> _Run:
        run = _Run(every)
        for agent, *values in schedule:
            run.step(agent, values)
        return run

    try:
        return settled(every, followed)[1]
    except ScheduleError as error:
        raise ConversionError(f"the schedule cannot be kept: {error}") from error


def fewer_steps(every: CompiledTask, schedule: Schedule, few: CompiledTask) -> tuple[CompiledTask, Schedule]:
    """Return the same interleaving with the steps of a task that leaves accesses out, and that task.

    `schedule` is one of `every`. `few` is the task to begin with: another is returned where this run shows what was not
    known. Raises ConversionError as `every_access` does.
    """
    while True:
        try:
            return few, _condensed(_Run(every), schedule, _Run(few))
        except OutdatedProgramError:
            few, every = few.again(), every.again()


def _expanded(few: _Run, schedule: Schedule, every: _Run) -> Schedule:
    try:
        for agent, *values in schedule:
            if agent < len(few.programs):
                _reach(every, few, agent)
                touches = few.programs[agent].touches
                few.step(agent, values)
                if touches:
                    _leave_out(every, few, agent)
                else:
                    every.step(agent, values)
                _reach(every, few, agent)
            else:
                few.step(agent, values)
                _drain(every, few, agent)
        behind = range(len(few.programs)) if few.failure is None else [few.failure.cpu]
        for cpu in behind:
            if cpu is not None:
                _reach(every, few, cpu)
        while every.failure is None and not few.machine.memory.agents() and every.machine.memory.agents():
            agent = every.machine.memory.agents()[0]
            every.step_by(agent, lambda ways: 0)
    except ScheduleError as error:
        raise ConversionError(f"the schedule cannot be kept: {error}") from error
    _compare(few, every)
    return tuple(every.taken)


def _condensed(every: _Run, schedule: Schedule, few: _Run) -> Schedule:
    try:
        for agent, *values in schedule:
            if agent < len(few.programs):
                also = few.point(agent) == every.point(agent) is not None
                every.step(agent, values)
                if also:
                    few.step(agent, () if few.programs[agent].touches else values)
                continue
            every.step(agent, values)
            became = every.machine.memory.remark
            if few.failure is None and _pending(few.machine, agent, became):
                way = few.ways(agent).index(became)
                few.step_by(agent, lambda ways, way=way: way)  # type: ignore[misc]
    except (ScheduleError, ValueError) as error:
        raise ConversionError(f"the schedule has no counterpart with fewer steps: {error}") from error
    _compare(every, few)
    return tuple(few.taken)


def _compare(one: _Run, other: _Run) -> None:
    """Raise ConversionError where two runs have not come to the same end."""
    ends = [_end(run) for run in (one, other)]
    if ends[0] != ends[1]:
        raise ConversionError(f"the same interleaving ends in {ends[0]} with some steps, and in {ends[1]} with others")


def _end(run: _Run) -> str:
    failure = run.failure
    if failure is not None:
        return f"{failure.error} in {failure.function}"
    return "its end" if run.machine.done else "a state from which it goes on"


def _reach(every: _Run, few: _Run, cpu: int) -> None:
    """Let a CPU of the larger run make accesses until it stands where it stands in the smaller one."""
    wanted = few.point(cpu)
    accesses = 0
    while every.point(cpu) != wanted and every.point(cpu) is not None:
        accesses += 1
        if accesses > MOST_LEFT_OUT:
            raise ScheduleError(f"CPU {cpu} does not come to where it stands with fewer steps")
        _leave_out(every, few, cpu)


def _leave_out(every: _Run, few: _Run, cpu: int) -> None:
    """Let a CPU of the larger run make an access that is no step of the smaller one.

    A store is seen by others at once, unless that would take with it what the smaller run has yet to drain. A load
    that has a choice is one of whose value nothing comes: it reads what is oldest, which leaves later ones all choices.
    """
    op = every.machine.pending(cpu)
    memory = every.machine.memory
    if isinstance(op, Load):
        every.step_by(cpu, lambda ways: ways - 1)
        return
    late = 0
    if isinstance(op, Store) and memory.delays_stores:
        held = few.machine.memory.buffered(cpu)
        trial = memory.copy()
        trial.store(cpu, op, lambda ways: 0)
        before, after = ([entry for entry in one.buffered(cpu) if entry in held] for one in (memory, trial))
        late = int(before != after)
    every.step_by(cpu, lambda ways: late)


def _drain(every: _Run, few: _Run, agent: int) -> None:
    """Let an agent of the larger run drain what that of the smaller one just has, and what is left out beside it."""
    became = few.machine.memory.remark
    done = False
    while agent in every.machine.enabled():
        ways = every.ways(agent)
        if not done and became in ways:
            way, done = ways.index(became), True
        else:
            left_out = [way for way, remark in enumerate(ways) if not _pending(few.machine, agent, remark)]
            left_out = [way for way in left_out if done or ways[way] != became]
            if not left_out:
                break
            way = left_out[0]
        every.step_by(agent, lambda ways, way=way: way)  # type: ignore[misc]
    if not done:
        raise ScheduleError(f"agent {agent} cannot drain what it drains with fewer steps")


def _pending(machine: Machine, agent: int, became: Remark | None) -> bool:
    """Return whether an agent of a run has yet to drain what became visible in another one."""
    if not isinstance(became, BecameVisible):
        return False
    memory = machine.memory
    return (became.address, became.value) in memory.buffered(memory.owner(agent))
