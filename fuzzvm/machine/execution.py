"""Runs a machine to its end under a chooser, and keeps the schedule that came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fuzzvm.machine.blame import executing_error, program_error
from fuzzvm.machine.errors import Failure, ModelError, ScheduleError
from fuzzvm.machine.machine import EXECUTE, Machine
from fuzzvm.machine.memory import Choose
from fuzzvm.machine.ops import OFFSET_BITS, Address, Await, Fetch, Load, Rmw, Store, Value
from fuzzvm.machine.schedule import Schedule, Step
from fuzzvm.supervision import stopping

ChooseAgent = Callable[[Sequence[int], Machine], int]
_ALWAYS_ENABLED = frozenset(EXECUTE) - {Await, Rmw}
"""Kinds of operations that never wait."""

MAX_STEPS = 20_000
"""Steps after which a run counts as making no progress; shipped scenarios end within a few hundred."""


class Chooser(Protocol):
    """Makes the choices of one run."""

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        """Return which of the enabled agents steps; `enabled` is in ascending order and never empty."""

    def value(self, ways: int) -> int:
        """Return which of `ways` > 1 ways the step takes, from 0 to ways - 1."""


@dataclass(frozen=True, slots=True)
class Execution:
    """A run that has ended: what it chose, and what went wrong (None if nothing did)."""

    schedule: Schedule
    failure: Failure | None

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.schedule)


def execute(machine: Machine, chooser: Chooser, max_steps: int = MAX_STEPS) -> Execution:
    """Run a started machine until it is done, stuck, or has taken `max_steps`.

    Raises ProgramError where a program is broken, and what the chooser raises.
    """
    schedule: list[Step] = []
    extra: list[int] = []

    def choose(ways: int) -> int:
        way = chooser.value(ways)
        if not 0 <= way < ways:
            raise ScheduleError(f"step {len(schedule) + 1} takes way {way} of {ways}")
        extra.append(way)
        return way

    run = _run_traced if machine.careful or machine.trace is not None else _run
    try:
        run(machine, chooser.agent, choose, schedule, extra, max_steps)
    finally:
        stopping.run_by([])
    if not machine.done:
        machine.stuck()
    return Execution(tuple(schedule), machine.failure)


def _run_traced(
    machine: Machine, choose_agent: ChooseAgent, choose: Choose, schedule: list[Step], extra: list[int], max_steps: int
) -> None:
    """Step a machine until its run is over, stuck or too long; put what was chosen into `schedule`.

    `choose` puts what it chose into `extra`, which is empty between steps.
    """
    while enabled := machine.enabled():
        if len(schedule) >= max_steps:
            machine.exceeded(max_steps, endless=max_steps >= MAX_STEPS)
            break
        agent = choose_agent(enabled, machine)
        if agent not in enabled:
            raise ScheduleError(f"step {len(schedule) + 1} is of agent {agent}, which cannot step there")
        machine.step(agent, choose)
        schedule.append((agent, *extra))
        extra.clear()


def _run(
    machine: Machine, choose_agent: ChooseAgent, choose: Choose, schedule: list[Step], extra: list[int], max_steps: int
) -> None:
    """Do what `_run_traced` does with `enabled` and `step` written out: this loop is what fuzzing spends its time in.

    It knows a machine's inner parts, and leaves to them all that is rare. tests/machine/test_run_loop.py holds the two
    against each other.
    """
    memory = machine.memory
    # where a model has no cells, no kind of operation is one that looks them up or sets them
    cells: dict[Address, Value] = {} if memory.cells is None else memory.cells
    loads, stores, fetches = (None, None, None) if memory.cells is None else (Load, Store, Fetch)
    no_effect = memory.no_effect if not machine.reports_hardware else frozenset[type]()
    has_agents = machine._has_agents
    dead = machine.allocator.dead
    watched = machine._watched
    pending: list[Any] = machine._pending
    waiting = machine._waiting
    sends = [program.send for program in machine._programs]
    stopping.run_by(sends)
    cpus = len(sends)
    alone: list[Step] = [(cpu,) for cpu in range(cpus)]
    simple = _ALWAYS_ENABLED
    steps = machine.steps
    last = steps + max_steps
    ready = machine.enabled()
    while ready:
        if steps >= last:
            machine.exceeded(max_steps, endless=max_steps >= MAX_STEPS)
            break
        agent = choose_agent(ready, machine)
        if agent not in ready:
            raise ScheduleError(f"step {len(schedule) + 1} is of agent {agent}, which cannot step there")
        if agent >= cpus:
            machine.step(agent, choose)
            steps += 1
            schedule.append((agent, *extra))
            extra.clear()
            ready = machine.enabled()
            continue
        steps += 1
        machine.steps = steps
        op = pending[agent]
        kind = type(op)
        # whether the same agents can step after this step as before it
        settled = True
        try:
            if kind in no_effect:
                response = None
            elif kind is loads and op.address >> OFFSET_BITS not in dead:
                response = cells.get(op.address, 0)
            elif kind is stores and (number := op.address >> OFFSET_BITS) not in dead and number not in watched:
                response = None
                cells[op.address] = op.value
                settled = not waiting
            elif kind is fetches:
                response = cells.get(op.address, 0)
            else:
                response = EXECUTE[kind](machine, agent, op, choose)
                settled = not has_agents and not waiting
        except ModelError as error:
            machine._fail(error, agent, machine.stack(agent))
            schedule.append((agent, *extra))
            break
        except BaseException as error:
            raise executing_error(machine._programs[agent], op, error) from error
        if extra:
            schedule.append((agent, *extra))
            extra.clear()
        else:
            schedule.append(alone[agent])
        try:
            op = sends[agent](response)
            if type(op) not in simple:
                machine._received(agent, op)
                settled = False
            else:
                pending[agent] = op
                if waiting and agent in waiting:
                    del waiting[agent]
                    settled = False
        except (StopIteration, ModelError) as ending:
            machine._ended(agent, ending)
            machine._settle()
            settled = False
        except BaseException as error:
            raise program_error(error) from error
        if not settled:
            ready = machine.enabled()


class InTurn:
    """The chooser that runs agents to their ends, or until they wait, in an order of theirs; others come last."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = order

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        return next((agent for agent in self._order if agent in enabled), enabled[0])

    def value(self, ways: int) -> int:
        return 0


class Replay:
    """The chooser that follows a schedule to the letter.

    Raises ScheduleError where the machine cannot follow, or goes on after the schedule has ended.
    """

    def __init__(self, schedule: Sequence[Step]) -> None:
        self._schedule = schedule
        self._next = 0
        self._values: list[int] = []

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        if self._values:
            raise ScheduleError(f"step {self._next} has {len(self._values)} choices more than it needs")
        if self._next == len(self._schedule):
            raise ScheduleError(f"the schedule ends after {self._next} steps and the run does not")
        agent, *values = self._schedule[self._next]
        self._values = values
        self._next += 1
        return agent

    def value(self, ways: int) -> int:
        if not self._values:
            raise ScheduleError(f"step {self._next} has a choice of {ways} ways and the schedule names none")
        return self._values.pop(0)

    def finish(self) -> None:
        """Raise ScheduleError if the run ended before the schedule did."""
        if self._values or self._next < len(self._schedule):
            raise ScheduleError(f"the run ends after {self._next} steps and the schedule goes on")
