"""Runs a task with its CPUs one after the other, and records each step as a visible operation.

No schedule is searched: the same order of CPUs is run on both sides. Each CPU is the first in one of the orders, so
each call is made with nobody before it. In one order more for each pair of them, a CPU that maps runs while a walk
holds init_mm's lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from fuzzvm.compare.operations import Visible
from fuzzvm.machine.errors import Failure, OutdatedProgramError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.program import Program
from fuzzvm.machine.task import Task
from fuzzvm.machine.trace import TraceStep
from fuzzvm.scenario.scenario import Scenario

MAX_TABLES = 60
"""Entries that a run may access, in tables: a PUD mapped page by page has as many tables as a table has entries."""
INIT_MM_LOCK = "init_mm.mmap_lock"


class Order(NamedTuple):
    """CPUs in the order in which they run. `holding` is one that first runs until it holds init_mm's lock, or -1."""

    cpus: tuple[int, ...]
    holding: int = -1

    def __str__(self) -> str:
        words = ", ".join(f"CPU {cpu}" for cpu in self.cpus)
        return f"{words} while CPU {self.holding} holds {INIT_MM_LOCK}" if self.holding >= 0 else words


def orders(scenario: Scenario) -> Iterator[Order]:
    """Yield the orders in which a scenario is run."""
    cpus = tuple(range(len(scenario.cpus)))
    for cpu in cpus:
        yield Order((cpu, *(other for other in cpus if other != cpu)))
    walkers = scenario.cpus_with(lambda call: call.walks)
    for walker in sorted(walkers):
        for mapper in sorted(scenario.cpus_with(lambda call: call.maps) - walkers):
            yield Order((mapper, walker), walker)


class Side(Protocol):
    """One of the two: a task, and what its steps are."""

    @property
    def task(self) -> Task:
        """The task that is run."""

    def begin(self, machine: Machine) -> None:
        """Forget the last run; `machine` has booted."""

    def before(self, program: Any) -> tuple[int, Any]:
        """Return the call that a program is in, and whatever is wanted of where it stands before its step."""

    def visible(self, step: TraceStep, stood: Any) -> Visible | str:
        """Return a step as an operation; or the name of what the other side does not have, which is not compared."""

    def again(self) -> None:
        """Begin anew with what has been learnt."""


@dataclass
class Recorded:
    """What calls have done, by CPU and number of the call; and how the run has ended where it has failed."""

    calls: dict[tuple[int, int], list[Visible]] = field(default_factory=dict)
    failure: Failure | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    """How often what is not compared was accessed, by name."""


class TooLongError(Exception):
    """A run takes more steps than it may."""


def record(side: Side, order: Order, entries: int) -> Recorded:
    """Run a task in an order of CPUs. One that waits lets the others go on.

    `entries` is the number of entries of a table. Raises TooLongError.
    """
    while True:
        try:
            return _record(side, order, MAX_TABLES * entries)
        except OutdatedProgramError:
            side.again()


def _record(side: Side, order: Order, most: int) -> Recorded:
    machine = side.task.booted(tracing=True)
    programs = side.task.programs()
    side.begin(machine)
    machine.start(programs)
    found = Recorded()
    if order.holding >= 0:
        for last in _steps(side, machine, programs, order.holding, found, most):
            if isinstance(last, Visible) and last.place == INIT_MM_LOCK and last.detail == "down_write":
                break
    # threads of the kernel's own come last
    rest = [cpu for cpu in range(len(programs)) if cpu not in order.cpus]
    turn: Sequence[int] = (*order.cpus, *rest)
    while machine.failure is None and machine.enabled():
        for cpu in turn:
            for _ in _steps(side, machine, programs, cpu, found, most):
                pass
    found.failure = machine.failure
    return found


def _steps(
    side: Side, machine: Machine, programs: Sequence[Program], cpu: int, found: Recorded, most: int
) -> Iterator[Visible | str]:
    """Run a CPU as far as it goes, and yield what each step was."""
    while machine.failure is None and cpu in machine.enabled():
        if machine.steps == most:
            raise TooLongError(f"it takes more than {most} steps: a call maps page by page what the model maps by few")
        call, stood = side.before(programs[cpu])
        machine.step(cpu, _sequential)
        assert machine.trace is not None
        seen = side.visible(machine.trace.pop(), stood)
        if isinstance(seen, Visible):
            found.calls.setdefault((cpu, call), []).append(seen)
        elif seen:
            found.left_out[seen] = found.left_out.get(seen, 0) + 1
        yield seen


def _sequential(choices: int) -> int:
    return 0
