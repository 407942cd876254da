"""Bytes as runs, mutations of them, and the counters that tell the fuzzer what is new."""

from __future__ import annotations

from functools import cache
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.machine.execution import Execution, execute
from fuzzvm.mitigations import registry
from fuzzvm.runs.guided.codec import PLACES, TO_THE_END, decode, encode
from fuzzvm.runs.guided.counters import FeatureCounters
from fuzzvm.runs.guided.mutator import MUTATIONS, Mutation, mutate, swap_accesses, take_prefix
from fuzzvm.runs.plans.orders import FollowOrders, Orders
from fuzzvm.runs.plans.plan import FollowPlan, Plan, plan_in_accesses
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

STEPS = st.integers(1, 255) | st.just(TO_THE_END)
BURSTS = st.lists(st.tuples(st.integers(0, 15), STEPS), max_size=20)
ORDERS = st.dictionaries(st.integers(0, PLACES - 1), st.lists(st.integers(0, 3), min_size=1, max_size=8), max_size=4)
PLANS = st.builds(
    lambda bursts, values, orders, draws: Plan(
        tuple(bursts), tuple(values), tuple((place, tuple(order)) for place, order in orders.items()), draws
    ),
    BURSTS,
    st.lists(st.integers(0, 255), max_size=6),
    ORDERS,
    st.binary(max_size=8),
)
RANDOMS = st.integers(0, 2**32).map(Random)


@given(system=st.integers(0, 255), plan=PLANS)
def test_a_plan_comes_back_from_its_bytes(system: int, plan: Plan) -> None:
    assert decode(encode(system, plan), 256) == (system, plan)


@given(steps=st.integers(256, 5000), agent=st.integers(0, 15))
def test_a_long_burst_comes_back_in_pieces(steps: int, agent: int) -> None:
    _, plan = decode(encode(0, Plan(((agent, steps),))), 1)
    assert {who for who, _ in plan.bursts} == {agent}
    assert sum(count for _, count in plan.bursts) == steps


@given(data=st.binary(max_size=80), systems=st.integers(1, 20), agents=st.integers(1, 16))
def test_all_bytes_mean_a_run(data: bytes, systems: int, agents: int) -> None:
    system, plan = decode(data, systems, agents)
    assert 0 <= system < systems
    assert all(0 <= agent < agents and steps > 0 for agent, steps in plan.bursts)
    assert decode(encode(system, plan), systems, agents) == (system, plan)


@cache
def known() -> tuple[System, Orders]:
    """Return a system, and what 40 runs of it have shown."""
    system = System(shipped.get("pmd-promotion"), registry.shipped()["static-key"], "sc")
    orders = Orders()
    random = Random(4)
    for _ in range(40):
        chooser = FollowOrders(orders.draw(random), orders)
        execute(system.machine(), chooser)
        chooser.end()
    return system, orders


def test_bytes_of_plans_that_were_bursts_alone_mean_the_same() -> None:
    """As they were written before plans had orders."""
    data = bytes([3, 0, 4, 1, 255, 128, 2, 0, 0])
    assert decode(data, 5) == (3, Plan(((0, 5), (1, TO_THE_END), (0, 1)), (2,)))


@settings(max_examples=20)
@given(bursts=st.lists(st.tuples(st.integers(0, 15), st.integers(1, 6)), max_size=4))
def test_a_plan_of_bursts_alone_runs_as_it_did_before_plans_had_orders(bursts: list[tuple[int, int]]) -> None:
    system, orders = known()
    plan = Plan(tuple((agent % system.cpus, steps) for agent, steps in bursts))
    run = execute(system.machine(), FollowOrders(plan, orders))
    assert run == execute(system.machine(), FollowPlan(plan, accesses=True))


def test_what_does_not_fit_is_a_place_of_a_high_number() -> None:
    plan = Plan((), (), ((PLACES, (0, 1)), (2, (1, 0))))
    assert decode(encode(0, plan), 1) == (0, Plan((), (), ((2, (1, 0)),)))


@pytest.mark.parametrize("mutation", sorted(set(MUTATIONS), key=lambda mutation: mutation.__name__))
@settings(max_examples=20)
@given(plan=PLANS, random=RANDOMS)
def test_every_mutation_makes_a_plan_that_bytes_can_hold(mutation: Mutation, plan: Plan, random: Random) -> None:
    data = encode(0, mutation(plan, known()[1], random))
    assert encode(*decode(data, 1)) == data


@settings(max_examples=20)
@given(order=st.lists(st.integers(0, 1), min_size=2, max_size=10), random=RANDOMS)
def test_a_swap_changes_two_accesses_of_different_cpus(order: list[int], random: Random) -> None:
    plan = Plan((), (), ((0, tuple(order)),), b"x")
    ((place, after),) = swap_accesses(plan, Orders(), random).orders or ((0, tuple(order)),)
    if len(set(order)) == 1:
        return
    differ = [index for index, (one, other) in enumerate(zip(order, after, strict=True)) if one != other]
    assert place == 0 and len(differ) == 2 and differ[1] == differ[0] + 1


@settings(max_examples=20)
@given(random=RANDOMS)
def test_what_is_drawn_anew_keeps_the_prefix(random: Random) -> None:
    bursts = ((0, 3), (1, 4), (0, 5))
    taken = take_prefix(Plan(bursts), known()[1], random)
    assert bursts[: len(taken.bursts)] == taken.bursts and len(taken.bursts) < 3
    assert taken.draws


@settings(max_examples=20)
@given(data=st.binary(max_size=200), max_size=st.integers(1, 200), random=RANDOMS)
def test_a_mutation_fits_and_runs(data: bytes, max_size: int, random: Random) -> None:
    system, orders = known()
    mutated = mutate(data, max_size, random, [orders], 0)
    assert len(mutated) <= max_size
    _, plan = decode(mutated, 1, 2)
    assert execute(system.machine(), FollowOrders(plan, orders)).failure is None


@settings(max_examples=20)
@given(random=RANDOMS)
def test_a_run_to_begin_with_is_followed_to_where_it_fails(random: Random) -> None:
    system = System(shipped.get("pmd-promotion"), registry.get("none"), "sc")
    orders = Orders()
    failing = next(run for run in iter(lambda: _run(system, orders, random), None) if run.failure is not None)
    data = encode(0, plan_in_accesses(system.machine(), failing.schedule))
    again = execute(system.machine(), FollowOrders(decode(data, 1)[1], orders))
    assert again.failure is not None
    assert (again.failure.error, again.failure.stack) == (failing.failure.error, failing.failure.stack)


def _run(system: System, orders: Orders, random: Random) -> Execution:
    chooser = FollowOrders(orders.draw(random), orders)
    execution = execute(system.machine(), chooser)
    chooser.end()
    return execution


class Internals:
    """What atheris offers its instrumentation; `left` counters can be had."""

    def __init__(self, left: int = 100) -> None:
        self.left = left
        self.traced: list[int] = []

    def _reserve_counter(self) -> int:
        if not self.left:
            raise RuntimeError("no counters left")
        self.left -= 1
        return self.left

    def _trace_branch(self, counter: int) -> None:
        self.traced.append(counter)


def test_a_feature_has_one_counter() -> None:
    internals = Internals()
    counters = FeatureCounters(internals, 2)
    assert internals.left == 98
    counters.report(["a", "b"])
    counters.report(["a"])
    assert counters.active
    assert internals.traced == [99, 98, 99]


def test_features_share_counters_when_there_are_more_of_them() -> None:
    internals = Internals()
    counters = FeatureCounters(internals, 2)
    counters.report(["a", "b", "c", "c"])
    assert internals.traced == [99, 98, 99, 99]


@pytest.mark.parametrize(
    "module",
    [
        SimpleNamespace(),
        SimpleNamespace(_reserve_counter=lambda: 1),
        SimpleNamespace(_trace_branch=lambda counter: None),
        SimpleNamespace(_reserve_counter=1, _trace_branch=2),
        SimpleNamespace(_reserve_counter=lambda size: 1, _trace_branch=lambda counter: None),
        Internals(left=1),
    ],
    ids=["neither", "no-trace", "no-reserve", "not-callable", "other-arguments", "too-few"],
)
def test_without_the_internals_there_are_no_counters(module: object) -> None:
    counters = FeatureCounters(module, 2)
    counters.report(["a"])
    assert not counters.active


def test_when_the_internals_take_other_arguments_reporting_ends() -> None:
    counters = FeatureCounters(SimpleNamespace(_reserve_counter=lambda: 1, _trace_branch=lambda: None), 2)
    assert counters.active
    counters.report(["a"])
    assert not counters.active
