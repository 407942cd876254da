"""Bytes as runs, mutations of them, and the counters that tell the fuzzer what is new."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.explore.guided.codec import TO_THE_END, decode, encode
from fuzzvm.explore.guided.counters import FeatureCounters
from fuzzvm.explore.guided.mutator import MUTATIONS, mutate, splice
from fuzzvm.explore.plan import FollowPlan, Plan
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

STEPS = st.integers(1, 255) | st.just(TO_THE_END)
BURSTS = st.lists(st.tuples(st.integers(0, 15), STEPS), max_size=20)
PLANS = st.builds(
    lambda bursts, values: Plan(tuple(bursts), tuple(values)), BURSTS, st.lists(st.integers(0, 255), max_size=6)
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


@pytest.mark.parametrize("mutation", sorted(set(MUTATIONS), key=lambda mutation: mutation.__name__))
@given(bursts=BURSTS, random=RANDOMS)
def test_every_mutation_keeps_a_plan_a_plan(
    mutation: Callable[[list[tuple[int, int]], Random], list[tuple[int, int]]],
    bursts: list[tuple[int, int]],
    random: Random,
) -> None:
    before = list(bursts)
    after = mutation(bursts, random)
    assert bursts == before
    assert all(agent >= 0 and steps > 0 for agent, steps in after)
    assert abs(len(after) - len(before)) <= 2


@given(data=st.binary(max_size=200), max_size=st.integers(1, 200), random=RANDOMS)
def test_a_mutation_fits_and_runs(data: bytes, max_size: int, random: Random) -> None:
    mutated = mutate(data, max_size, random)
    assert len(mutated) <= max_size
    _, plan = decode(mutated, 1, 2)
    system = System(shipped.get("pmd-promotion"), registry.shipped()["static-key"], "sc")
    assert execute(system.machine(), FollowPlan(plan)).failure is None


@given(first=st.binary(max_size=60), second=st.binary(max_size=60), max_size=st.integers(1, 120), random=RANDOMS)
def test_a_splice_begins_like_one_and_ends_like_the_other(
    first: bytes, second: bytes, max_size: int, random: Random
) -> None:
    spliced = splice(first, second, max_size, random)
    assert len(spliced) <= max_size
    system, plan = decode(spliced, 256)
    assert system == decode(first, 256)[0]
    known = {*decode(first, 256)[1].bursts, *decode(second, 256)[1].bursts}
    assert set(plan.bursts) <= known


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
