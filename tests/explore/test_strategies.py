"""What the papers promise of the strategies, where it can be counted."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from fuzzvm.explore.strategies import Strategy
from fuzzvm.explore.strategies.pct import Pct
from fuzzvm.explore.strategies.random_walk import RandomWalk
from fuzzvm.explore.strategies.urw import Urw
from fuzzvm.machine.execution import Execution, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Load, Steps, address_of
from fuzzvm.machine.schedule import context_switches


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


@pytest.mark.parametrize("strategy", [RandomWalk, Pct, Urw])
def test_the_same_random_numbers_make_the_same_runs(strategy: type[Strategy]) -> None:
    first, second = strategy(Random(5)), strategy(Random(5))
    assert [run(first, (5, 5)).schedule for _ in range(20)] == [run(second, (5, 5)).schedule for _ in range(20)]
