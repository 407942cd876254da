"""fuzzvm.machine.memory: how models are found; fuzzvm.machine.memory.sc: one memory for all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.machine import memory
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Barrier, Fence, Fetch, InterruptAll, Load, Rmw, Store


def no_choice(ways: int) -> int:
    raise AssertionError("sequential consistency has no choices")


def increment(old: int) -> int:
    return old + 1


def test_models_are_found_by_name_sc_first() -> None:
    assert memory.names()[0] == "sc"
    assert memory.get("sc") is SequentialConsistency
    for name in memory.names():
        assert memory.get(name).name == name
    with pytest.raises(KeyError):
        memory.get("alpha")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 9), st.sampled_from("lswf"))))
def test_every_cpu_sees_the_latest_write(steps: list[tuple[int, int, int, str]]) -> None:
    model = SequentialConsistency(3)
    cells = dict.fromkeys(range(4), 0)
    for cpu, address, value, kind in steps:
        if kind == "l":
            assert model.load(cpu, Load(address), no_choice) == cells[address]
        elif kind == "s":
            model.store(cpu, Store(address, value), no_choice)
            cells[address] = value
        elif kind == "w":
            assert model.rmw(cpu, Rmw(address, increment), no_choice) == cells[address]
            cells[address] += 1
        else:
            assert model.fetch(cpu, Fetch(address), no_choice) == cells[address]
        assert model.peek(address) == cells[address]


def test_barriers_change_nothing_and_nothing_runs_by_itself() -> None:
    model = SequentialConsistency(1)
    model.fence(0, Fence(Barrier.DSB_ISH), no_choice)
    model.maintain(0, InterruptAll(), no_choice)
    model.synchronise()
    assert model.agents() == ()
    with pytest.raises(NotImplementedError):
        model.step(1, no_choice)
    with pytest.raises(NotImplementedError):
        model.owner(1)


def test_a_copy_goes_its_own_way() -> None:
    model = SequentialConsistency(1)
    model.store(0, Store(0, 1), no_choice)
    other = model.copy()
    other.store(0, Store(0, 2), no_choice)
    model.store(0, Store(1, 3), no_choice)
    assert (model.peek(0), other.peek(0), other.peek(1)) == (1, 2, 0)
