"""Both executors do the same, step by step, and what cannot be keyed is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive.automaton import Automaton, Values
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import Space
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import ProgramError, UnkeyableError, UnkeyableValueError
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import Load, Order, Steps, Store
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

CELLS = [(mitigation, scenario) for mitigation in registry.shipped() for scenario in shipped.shipped()]
SPACES: dict[tuple[str, str, bool], tuple[System, Space]] = {}


def space_of(mitigation: str, scenario: str, *, fast: bool) -> tuple[System, Space]:
    """Return a system and a space for it that grows from example to example, as it does in a search."""
    key = (mitigation, scenario, fast)
    if key not in SPACES:
        system = System(shipped.get(scenario), registry.get(mitigation), "sc")
        SPACES[key] = system, Space(system, fast=fast, live_only=fast, forget=False)
    return SPACES[key]


@pytest.mark.product
@pytest.mark.parametrize(("mitigation", "scenario"), CELLS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.randoms(use_true_random=False), st.integers(1, 40), st.booleans())
def test_both_executors_agree_step_by_step(mitigation: str, scenario: str, random: Any, burst: int, fast: bool) -> None:
    system, space = space_of(mitigation, scenario, fast=fast)
    machine = system.machine()
    state = space.start
    assert isinstance(state, int)
    agent, left = 0, 0
    while not machine.done and machine.enabled():
        steps = space.steps(state)
        enabled = list(machine.enabled())
        assert [who for who, _ in steps] == enabled
        for lane in space.lanes:
            node = space.automata[lane.cpu].nodes[lane.local(state)]
            assert node.op == machine.pending(lane.cpu)
            assert node.op is None or node.stack == machine.stack(lane.cpu)
        if not left or agent not in enabled:
            agent, left = random.choice(enabled), random.randint(1, burst)
        left -= 1
        (way,) = [way for who, way in steps if who == agent]
        machine.step(agent, lambda ways: 0)
        if way.finding is not None:
            assert machine.failure is not None
            assert Finding.of(machine.failure) == way.finding
            return
        state += way.delta
        # the last step of a run carries the checks of its end
        assert machine.failure is None or not space.steps(state)
    if not machine.done:
        machine.stuck()
    ended = space.ended(state)
    assert ended == (None if machine.failure is None else Finding.of(machine.failure))


def program(make: Callable[[], Steps[object]]) -> Automaton:
    return Automaton(GeneratorProgram(make), Values())


def answer_all(automaton: Automaton, response: int = 0, most: int = 50) -> None:
    """Let a program run with the same response to everything."""
    node = automaton.start.target
    for _ in range(most):
        if node is None or node.op is None:
            return
        node = automaton.next(node, response).target


def test_states_that_differ_in_dead_variables_alone_are_one() -> None:
    def run() -> Steps[None]:
        value = yield Load(1)
        value = yield Load(2)
        yield Store(3, value)

    values = Values()
    one = values.number(1)
    automaton = Automaton(GeneratorProgram(run), values)
    start = automaton.start.target
    assert start is not None
    assert automaton.next(start, one).target is automaton.next(start, 0).target
    values = Values(live_only=False)
    one = values.number(1)
    exact = Automaton(GeneratorProgram(run), values)
    start = exact.start.target
    assert start is not None
    assert exact.next(start, one).target is not exact.next(start, 0).target


def test_the_pending_operation_is_part_of_a_state_even_if_its_variables_are_dead() -> None:
    def run() -> Steps[None]:
        value = yield Load(1)
        yield Store(2, value)

    values = Values()
    automaton = Automaton(GeneratorProgram(run), values)
    start = automaton.start.target
    assert start is not None
    one = automaton.next(start, values.number(1)).target
    two = automaton.next(start, values.number(2)).target
    assert one is not None
    assert two is not None
    assert (one.op, two.op) == (Store(2, 1), Store(2, 2))


def test_a_state_is_made_anew_by_replaying_what_led_there() -> None:
    def run() -> Steps[int]:
        total = 0
        index = 0
        while index < 5:
            value = yield Load(index)
            total += value
            index += 1
        return total

    values = Values()
    automaton = Automaton(GeneratorProgram(run), values)
    node = automaton.start.target
    for index in range(4):
        assert node is not None
        assert node.op == Load(index)
        for response in (3, 2, 1, 0):
            target = automaton.next(node, values.number(response)).target
        node = target
    # the end, the start, and four ways on from each of the four states that were asked
    assert len(automaton.nodes) == 2 + 4 * 4


class Unfrozen:
    """Something that may change during a run."""


@dataclass
class Record:
    count: int


def collects(seen: object) -> Steps[None]:
    yield Load(1)
    yield Store(2, seen is None)


def outer(value: object) -> Steps[None]:
    yield from collects(value)


@pytest.mark.parametrize("value", [[], {}, set(), Unfrozen(), Record(1), 1.5, iter(())], ids=lambda v: type(v).__name__)
def test_a_local_that_cannot_be_keyed_is_refused_by_function_and_variable(value: object) -> None:
    with pytest.raises(UnkeyableError, match=r"test_automaton\.py:\d+: collects: variable 'seen': a \w+") as caught:
        program(partial(outer, value))
    assert isinstance(caught.value, ProgramError)


def test_an_operation_that_cannot_be_keyed_is_refused() -> None:
    def run() -> Steps[None]:
        yield Store(1, [])  # type: ignore[arg-type]

    with pytest.raises(UnkeyableError, match="run: the operation Store"):
        program(run)


def loops_with_for() -> Steps[None]:
    for address in (1, 2, 3):
        yield Load(address)


def yields_in_an_argument() -> Steps[None]:
    str((yield Load(1)))


def yields_in_a_with() -> Steps[None]:
    with memoryview(b""):
        yield Load(1)


def delegates_to_a_list() -> Steps[None]:
    yield from [Load(1), Load(2)]


@pytest.mark.parametrize("make", [loops_with_for, yields_in_an_argument, yields_in_a_with, delegates_to_a_list])
def test_state_that_cannot_be_seen_is_refused(make: Callable[[], Steps[None]]) -> None:
    with pytest.raises(UnkeyableError, match=rf"test_automaton\.py:\d+: {re.escape(make.__name__)}"):
        answer_all(program(make))


def guarded() -> Steps[None]:
    try:
        value = yield Load(1)
        value = yield Load(value)
    except KeyError:
        value = 7
    finally:
        yield Store(2, 0)
    yield Store(3, value)


def delegates() -> Steps[int]:
    first = yield from inner(1)
    second = yield from inner(first)
    return first + second


def inner(address: int) -> Steps[int]:
    value: int = yield Load(address)
    return value


@pytest.mark.parametrize("make", [guarded, delegates])
def test_what_can_be_seen_is_accepted(make: Callable[[], Steps[object]]) -> None:
    answer_all(program(make))


def test_keys_tell_apart_what_python_calls_equal() -> None:
    keys = Values().keys
    equal_in_python = [1, True, Level.P4D]
    assert len({keys.of(value) for value in equal_in_python}) == 3
    assert keys.of((1, 2)) != keys.of((True, 2))
    assert keys.of((1, (2,))) == keys.of((1, (2,)))
    assert keys.of(Order.PLAIN) != keys.of(Order.ACQUIRE)
    assert keys.of(frozenset({1})) != keys.of(frozenset({True}))


def test_functions_with_captured_variables_have_no_key() -> None:
    captured = 1

    def closure(old: int) -> int:
        return old + captured

    with pytest.raises(UnkeyableValueError, match="function"):
        Values().keys.of(closure)
