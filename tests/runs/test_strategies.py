"""What the papers promise of the strategies, where it can be counted."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from fuzzvm.machine.execution import Execution, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Load, Steps, Store, address_of
from fuzzvm.machine.schedule import context_switches
from fuzzvm.runs.strategies import Strategy
from fuzzvm.runs.strategies.pct import Pct
from fuzzvm.runs.strategies.pos import Pos
from fuzzvm.runs.strategies.random_walk import RandomWalk
from fuzzvm.runs.strategies.surw import Surw
from fuzzvm.runs.strategies.urw import Urw


def loads(count: int) -> Steps[None]:
    done = 0
    while done < count:
        yield Load(address_of(0))
        done += 1


def run(strategy: Strategy, counts: tuple[int, ...]) -> Execution:
    machine = Machine(SequentialConsistency(len(counts)))
    machine.allocate(1, "word")
    machine.start([loads(count) for count in counts])
    strategy.begin(0, len(counts))
    execution = execute(machine, strategy)
    strategy.end(execution)
    return execution


def spread(strategy: Strategy, runs: int = 4000) -> Counter[tuple[int, ...]]:
    return Counter(tuple(step[0] for step in run(strategy, (1, 4)).schedule) for _ in range(runs))


def test_urw_takes_every_interleaving_alike() -> None:
    # one step beside four: five interleavings; a random walk takes the first of them every other time
    seen = spread(Urw(Random(1)))
    assert len(seen) == 5
    assert max(seen.values()) < 1.25 * min(seen.values())
    walked = spread(RandomWalk(Random(1)))
    assert max(walked.values()) > 4 * min(walked.values())


def test_pct_switches_rarely() -> None:
    strategy = Pct(Random(1))
    for _ in range(200):
        assert context_switches(run(strategy, (20, 20, 20)).schedule) <= 2 + 4


@pytest.mark.parametrize("strategy", [RandomWalk, Pct, Pos, Surw, Urw])
def test_the_same_random_numbers_make_the_same_runs(strategy: type[Strategy]) -> None:
    first, second = strategy(Random(5)), strategy(Random(5))
    assert [run(first, (5, 5)).schedule for _ in range(20)] == [run(second, (5, 5)).schedule for _ in range(20)]


def writes(word: int, count: int) -> Steps[None]:
    done = 0
    while done < count:
        yield Store(address_of(word), done)
        done += 1


def test_pos_draws_no_lots_over_places_that_nobody_races_for() -> None:
    # CPU 1 updates a word of its own ten times, and then one that both write
    def programs() -> list[Steps[None]]:
        def private_first() -> Steps[None]:
            yield from writes(1, 10)
            yield from writes(0, 1)

        return [writes(0, 1), private_first()]

    strategy = Pos(Random(1))
    first = Counter[int]()
    for number in range(600):
        machine = Machine(SequentialConsistency(2))
        machine.allocate(1, "shared")
        machine.allocate(1, "private")
        machine.start(programs())
        strategy.begin(0, 2)
        execution = execute(machine, strategy)
        strategy.end(execution)
        if number >= 100:
            # does CPU 1 reach the shared word before CPU 0 writes it? for the random walk, once in 2 ** 11 runs
            first[execution.schedule.index((0,)) == 11] += 1
    assert min(first[True], first[False]) > 150


def work_then_write(private: int, events: int, work: int) -> Steps[None]:
    """Update a word of its own for long, then the one that both write; and again."""
    done = 0
    while done < events:
        yield from writes(private, work)
        yield from writes(0, 1)
        done += 1


def orders(strategy: Strategy, work: tuple[int, int], runs: int) -> list[tuple[int, ...]]:
    """Return for each run in which order two CPUs wrote the word that both write, twice each."""
    seen = []
    for _ in range(runs):
        machine = Machine(SequentialConsistency(2))
        for name in ("shared", "own of 0", "own of 1"):
            machine.allocate(1, name)
        machine.start([work_then_write(1, 2, work[0]), work_then_write(2, 2, work[1])])
        strategy.begin(0, 2)
        schedule = execute(machine, strategy).schedule
        strategy.end(Execution(schedule, None))
        done = [0, 0]
        order = []
        for (cpu,) in schedule:
            done[cpu] += 1
            if done[cpu] % (work[cpu] + 1) == 0:
                order.append(cpu)
        seen.append(tuple(order))
    return seen


@pytest.mark.parametrize("work", [(1, 1), (0, 30), (12, 3)])
def test_surw_takes_every_order_of_the_events_alike_however_far_apart(work: tuple[int, int]) -> None:
    # the random walk takes two of the six orders once in 2 ** 30 runs where one CPU works for 30 steps
    seen = orders(Surw(Random(1)), work, 604)[4:]
    counts = Counter(seen)
    assert len(counts) == 6
    assert max(counts.values()) - min(counts.values()) <= 6


def test_surw_repeats_no_order_before_all_have_come_up() -> None:
    for seed in range(20):
        assert len(set(orders(Surw(Random(seed)), (5, 2), 14)[4:])) == 6


def test_pos_is_as_likely_to_hand_over_to_a_cpu_that_is_still_at_work() -> None:
    """A CPU that stands far from its event has no worse chances there than one that stands before it."""
    counts = Counter(orders(Pos(Random(1)), (4, 9), 1100)[100:])
    # as many coins as events until one CPU is done: 1/8 for the rarest, 1/4 for the others
    assert min(counts[order] for order in counts) > 80
    assert len(counts) == 6
