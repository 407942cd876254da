"""The search that proves minimality, against every schedule of a small program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Await, Free, Load, Steps, Store, address_of
from fuzzvm.machine.schedule import Step, context_switches
from fuzzvm.scenario.system import System
from tests.exhaustive.context_bounded import Budget, shortest_failure

WORD, TABLE = address_of(0), address_of(1)


@dataclass(frozen=True)
class IsSet:
    def __call__(self, value: int) -> bool:
        return value == 1

    def blocked_by(self, value: int) -> tuple[int, ...]:
        return () if value else (1,)


def walker() -> Steps[None]:
    yield Load(WORD)
    first = yield Load(TABLE)
    yield Load(WORD)
    # waits for the other one, so that some context switches are forced
    yield Await(WORD, IsSet())
    yield Load(TABLE + 1 + first)


def freer() -> Steps[None]:
    yield Load(WORD)
    seen = yield Load(WORD)
    yield Store(WORD, 1)
    yield Load(WORD + seen)
    yield Free(TABLE)
    yield Load(WORD)


class Small(System):
    """Two programs that are short enough for every schedule to be tried; both reads of the table can fail."""

    def __init__(self) -> None:
        pass

    def machine(self, *, tracing: bool = False) -> Machine:
        machine = Machine(SequentialConsistency(2), tracing=tracing)
        machine.allocate(2, "word")
        machine.allocate(4, "table")
        machine.start([walker(), freer()])
        return machine


def every_failure(system: System) -> Iterator[Execution]:
    """Yield every failing run, by trying every schedule: no clever order, no bound."""
    todo: list[tuple[Step, ...]] = [()]
    while todo:
        schedule = todo.pop()
        machine: Machine = system.machine()
        for (agent,) in schedule:
            machine.step(agent, lambda ways: 0)
        if machine.failure is not None:
            yield Execution(schedule, machine.failure)
            continue
        todo.extend((*schedule, (agent,)) for agent in machine.enabled())


def test_finds_what_brute_force_finds() -> None:
    system = Small()
    failures = list(every_failure(system))
    assert failures
    kinds = {(f.failure.error, f.failure.function): f.failure for f in failures if f.failure is not None}
    for kind, failure in kinds.items():
        of_kind = [f.schedule for f in failures if f.failure and (f.failure.error, f.failure.function) == kind]
        best = min((context_switches(schedule), len(schedule)) for schedule in of_kind)
        found = shortest_failure(system, failure, Budget(1_000_000), switches=9, steps=1000)
        assert found.proven
        assert found.execution is not None
        assert (context_switches(found.execution.schedule), len(found.execution.schedule)) == best


def test_a_spent_budget_proves_nothing() -> None:
    system = Small()
    failure = next(every_failure(system)).failure
    assert failure is not None
    assert not shortest_failure(system, failure, Budget(5), switches=9, steps=1000).proven
