"""fuzzvm.machine.execution: runs under a chooser, and replay of what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.machine.errors import NO_PROGRESS, ScheduleError
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory import Choose
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Await, Load, Steps, Store, Value, address_of
from fuzzvm.machine.schedule import Schedule, parse_schedule
from fuzzvm.machine.trace import digest
from tests.support import Seeded, executions, start_machine

X = address_of(0)


def stores(cpu: int, times: int) -> Steps[None]:
    done = 0
    while done < times:
        yield Load(X)
        yield Store(X, cpu * 100 + done)
        done += 1


def three() -> Machine:
    return start_machine(stores(0, 2), stores(1, 3), stores(2, 1), tracing=True)


class TwoWays(SequentialConsistency):
    """Memory in which every load has two ways to go, both to the same value."""

    name: ClassVar[str] = "two-ways"

    def load(self, cpu: int, op: Load | Await, choose: Choose) -> Value:
        choose(2)
        return super().load(cpu, op, choose)


def two_ways() -> Machine:
    machine = Machine(TwoWays(2), tracing=True)
    machine.start([stores(0, 1), stores(1, 1)])
    return machine


def replay(machine: Machine, schedule: Schedule) -> str:
    chooser = Replay(schedule)
    execute(machine, chooser)
    chooser.finish()
    return digest(machine.trace or ())


@given(st.integers(0, 1 << 32), st.sampled_from([three, two_ways]))
def test_the_same_schedule_is_the_same_run(seed: int, start: Callable[[], Machine]) -> None:
    machine = start()
    execution = execute(machine, Seeded(seed))
    assert execution.failure is None
    assert execution.steps == len(machine.trace or ()) == machine.steps
    assert replay(start(), execution.schedule) == digest(machine.trace or ())


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_different_schedules_are_different_runs(one: int, two: int) -> None:
    first, second = three(), three()
    schedules = [execute(machine, Seeded(seed)).schedule for machine, seed in ((first, one), (second, two))]
    same = digest(first.trace or ()) == digest(second.trace or ())
    assert same == (schedules[0] == schedules[1])


@pytest.mark.parametrize(
    ("start", "text", "message"),
    [
        (three, "3", "step 1 is of agent 3, which cannot step there"),
        (three, "0*5", "step 5 is of agent 0, which cannot step there"),
        (three, "0*4 1*6", "the schedule ends after 10 steps and the run does not"),
        (three, "", "the schedule ends after 0 steps and the run does not"),
        (three, "0*4 1*6 2*3", "the run ends after 12 steps and the schedule goes on"),
        (three, "0.1 0*3 1*6 2*2", "step 1 has 1 choices more than it needs"),
        (three, "0*4 1*6 2 2.0", "the run ends after 12 steps and the schedule goes on"),
        (two_ways, "0 0 1 1", "step 1 has a choice of 2 ways and the schedule names none"),
        (two_ways, "0.2 0 1.0 1", "step 1 takes way 2 of 2"),
        (two_ways, "0.1.1 0 1.0 1", "step 1 has 1 choices more than it needs"),
    ],
)
def test_replay_refuses_what_the_machine_cannot_follow(start: Callable[[], Machine], text: str, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        replay(start(), parse_schedule(text))
    assert message in str(caught.value)


def test_replay_takes_what_fits() -> None:
    replay(three(), parse_schedule("0*4 1*6 2*2"))
    replay(two_ways(), parse_schedule("0.1 0 1.0 1"))


def test_a_chooser_is_asked_with_ascending_agents_and_never_for_one_way() -> None:
    asked: list[int] = []

    class Chooser(Seeded):
        def agent(self, enabled: Sequence[int], machine: Machine) -> int:
            assert list(enabled) == sorted(set(enabled))
            assert enabled
            return super().agent(enabled, machine)

        def value(self, ways: int) -> int:
            asked.append(ways)
            return super().value(ways)

    execute(two_ways(), Chooser(1))
    execute(three(), Chooser(1))
    assert asked == [2, 2]


def test_a_run_without_end_is_no_progress() -> None:
    def spin() -> Steps[None]:
        while True:
            yield Load(X)

    execution = execute(start_machine(spin()), Seeded(0), max_steps=50)
    assert execution.failure is not None
    assert (execution.failure.error, execution.failure.cpu) == (NO_PROGRESS, None)
    assert execution.steps == 50


def test_no_cpu_has_anything_to_do() -> None:
    execution = execute(start_machine(stores(0, 0), stores(1, 0)), Seeded(0))
    assert (execution.schedule, execution.failure) == ((), None)


def test_the_bounded_search_of_these_tests_visits_every_schedule_once() -> None:
    """Two CPUs of two steps each have six interleavings, two of them without pre-emption."""

    def start() -> Machine:
        return start_machine(stores(0, 1), stores(1, 1))

    everything = [execution.schedule for execution in executions(start, 9)]
    assert len(everything) == len(set(everything)) == 6
    assert len(list(executions(start, 0))) == 2
    assert len(list(executions(start, 1))) == 4
