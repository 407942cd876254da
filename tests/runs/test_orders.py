"""Plans that order places: what a run makes of them, and that orders do not come up again before all have."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import find, settings

from fuzzvm.bench import planted
from fuzzvm.machine.execution import Execution, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Await, Steps, Store, address_of
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations import registry
from fuzzvm.runs.plans.generate import plans
from fuzzvm.runs.plans.orders import Bytes, FollowOrders, Orders
from fuzzvm.runs.plans.plan import Plan
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System


def writes(*words: int) -> Steps[None]:
    at = 0
    while at < len(words):
        yield Store(address_of(words[at]), 0)
        at += 1


def run(plan: Plan, orders: Orders, *cpus: Sequence[int]) -> list[int]:
    """Run CPUs that write these words; return the CPUs in the order of their steps."""
    machine = Machine(SequentialConsistency(len(cpus)))
    for number in range(4):
        machine.allocate(1, number)
    machine.start([writes(*words) for words in cpus])
    chooser = FollowOrders(plan, orders)
    execution = execute(machine, chooser)
    chooser.end()
    return [agent for (agent,) in execution.schedule]


def order_of(word: int, steps: Sequence[int], *cpus: Sequence[int]) -> tuple[int, ...]:
    """Return the order in which CPUs wrote a word."""
    left = [list(words) for words in cpus]
    return tuple(cpu for cpu in steps if left[cpu].pop(0) == word)


def test_every_order_of_a_word_comes_up_once_before_one_does_twice() -> None:
    cpus = ((1, 1, 1, 0, 0, 0), (0, 2, 0, 2))
    for seed in range(10):
        orders, random = Orders(), Random(seed)
        run(Plan(()), orders, *cpus)
        place = next(place for place in orders.races.places if place == (0, address_of(0)))
        seen = []
        for _ in range(10):
            wanted = orders.draw_order(place, random)
            plan = Plan((), (), ((orders.numbers[place], wanted),), random.randbytes(8))
            seen.append(order_of(0, run(plan, orders, *cpus), *cpus))
            assert seen[-1] == wanted
        # one of the ten has been seen in the first run
        assert len(set(seen[:9])) == 9


def test_two_words_are_ordered_at_once() -> None:
    cpus = ((0, 3, 3, 1), (2, 0, 2, 1))
    orders = Orders()
    run(Plan(()), orders, *cpus)
    numbers = {place[1]: number for place, number in orders.numbers.items()}
    for first, second in ((0, 0), (0, 1), (1, 1)):
        wanted = ((numbers[address_of(0)], (first, 1 - first)), (numbers[address_of(1)], (second, 1 - second)))
        steps = run(Plan((), (), wanted, b"\0"), orders, *cpus)
        assert order_of(0, steps, *cpus) == wanted[0][1]
        assert order_of(1, steps, *cpus) == wanted[1][1]


@pytest.mark.parametrize("ranks", [(0, 1), (1, 0)])
def test_of_orders_that_contradict_each_other_the_first_is_followed(ranks: tuple[int, int]) -> None:
    """CPU 0 writes word 0, then word 1; CPU 1 the other way round: each cannot wait for the other."""
    cpus = ((0, 1), (1, 0))
    orders = Orders()
    run(Plan(()), orders, *cpus)
    numbers = [orders.numbers[0, address_of(word)] for word in range(2)]
    # word 0 by CPU 1 first, word 1 by CPU 0 first
    wanted = [(1, 0), (0, 1)]
    plan = Plan((), (), tuple((numbers[word], wanted[word]) for word in ranks), b"\0")
    assert order_of(ranks[0], run(plan, orders, *cpus), *cpus) == wanted[ranks[0]]


def test_a_cpu_that_cannot_step_is_not_waited_for() -> None:
    """The plan has CPU 1 first, which waits for what CPU 0 writes; the next one is CPU 2."""

    def awaits() -> Steps[None]:
        yield Await(address_of(0), lambda value: value == 1)
        yield Store(address_of(0), 2)

    def sets() -> Steps[None]:
        yield Store(address_of(0), 1)

    orders = Orders()
    first = []
    for _ in range(3):
        machine = Machine(SequentialConsistency(3))
        machine.allocate(1, "word")
        machine.start([sets(), awaits(), writes(0)])
        chooser = FollowOrders(Plan((), (), ((0, (1, 2, 0, 1)),), b"\0"), orders)
        first.append(execute(machine, chooser).schedule[0])
        chooser.end()
    # in the first run nothing is known of the word
    assert first == [(0,), (2,), (2,)]


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_a_plan_and_what_is_known_determine_the_run(memory: str) -> None:
    system = System(shipped.get("pmd-promotion"), registry.get("rcu-free"), memory)

    def runs() -> list[Execution]:
        orders, random, found = Orders(), Random(2), []
        for _ in range(10):
            chooser = FollowOrders(orders.draw(random), orders)
            found.append(execute(system.machine(), chooser))
            chooser.end()
        return found

    assert runs() == runs()


def test_of_zeros_a_plan_orders_nothing_and_switches_at_the_end_alone() -> None:
    system = System(shipped.get("pmd-promotion"), registry.get("none"), "sc")
    orders = Orders()
    for data in (b"\xff" * 256, b""):
        plan = orders.draw(Bytes(data))
        chooser = FollowOrders(plan, orders)
        execution = execute(system.machine(), chooser)
        chooser.end()
    assert plan.orders == ()
    assert context_switches(execution.schedule) <= system.cpus


def test_shrinking_ends_at_few_context_switches() -> None:
    system = System(shipped.get("pmd-promotion"), registry.get("none"), "sc")

    def fails(plan: Plan) -> bool:
        return execute(system.machine(), FollowOrders(plan, Orders())).failure is not None

    smallest = find(plans(Orders()), fails, settings=settings(max_examples=200, database=None), random=Random(1))
    assert smallest.orders == ()
    assert context_switches(execute(system.machine(), FollowOrders(smallest, Orders())).schedule) <= 3


@pytest.mark.always
@pytest.mark.parametrize(("bug", "median"), [("Deep3A", 13), ("Window4B", 22), ("Deep5A", 34)])
def test_planted_bugs_are_found_in_no_more_runs_than_by_surw(bug: str, median: int) -> None:
    """Its medians are those of docs/benchmarks.md."""
    system = System(planted.SCENARIO, planted.MITIGATIONS[bug], "sc")
    assert sorted(runs_to_the_bug(system, seed) for seed in range(9))[4] <= median


def runs_to_the_bug(system: System, seed: int) -> int:
    orders, random, runs = Orders(), Random(seed), 0
    while True:
        runs += 1
        chooser = FollowOrders(orders.draw(random), orders)
        execution = execute(system.machine(), chooser)
        chooser.end()
        if execution.failure is not None:
            return runs
