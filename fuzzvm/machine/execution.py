"""Runs a machine to its end under a chooser, and keeps the schedule that came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fuzzvm.machine.errors import Failure, ScheduleError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.schedule import Schedule, Step

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

    while enabled := machine.enabled():
        if len(schedule) >= max_steps:
            machine.exceeded(max_steps)
            break
        agent = chooser.agent(enabled, machine)
        if agent not in enabled:
            raise ScheduleError(f"step {len(schedule) + 1} is of agent {agent}, which cannot step there")
        machine.step(agent, choose)
        if extra:
            schedule.append((agent, *extra))
            extra.clear()
        else:
            schedule.append((agent,))
    if not machine.done:
        machine.stuck()
    return Execution(tuple(schedule), machine.failure)


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
