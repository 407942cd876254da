"""x86-TSO: what store buffers show, and what they do not."""

from __future__ import annotations

from typing import Any

import pytest

from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.tso import TotalStoreOrder
from fuzzvm.machine.ops import Barrier, Fence, InterruptAll, Load, Rmw, Store


def writer_then_reader(x: int, y: int, between: list[Any]) -> Any:
    yield Store(x, 1)
    for step in between:  # noqa: UP028 - a list takes no responses
        yield step
    return (yield Load(y))


def store_buffering(between: list[Any]) -> Any:
    def setup(machine: Machine) -> list[Any]:
        x, y = machine.allocate(1, "x"), machine.allocate(1, "y")
        return [writer_then_reader(x, y, between), writer_then_reader(y, x, between)]

    return setup


def test_a_load_overtakes_a_buffered_store(outcomes: Any) -> None:
    assert outcomes("tso", store_buffering([])) == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("between", [[Fence(Barrier.DMB_ISH)], [Fence(Barrier.ISB)], [InterruptAll()]])
def test_a_barrier_drains(outcomes: Any, between: list[Any]) -> None:
    assert (0, 0) not in outcomes("tso", store_buffering(between))


@pytest.mark.parametrize("kind", [Barrier.DMB_ISHST, Barrier.DMB_ISHLD])
def test_partial_barriers_do_not_drain(outcomes: Any, kind: Barrier) -> None:
    assert (0, 0) in outcomes("tso", store_buffering([Fence(kind)]))


def test_a_locked_instruction_drains(outcomes: Any) -> None:
    def setup(machine: Machine) -> list[Any]:
        x, y, z = (machine.allocate(1, name) for name in "xyz")
        locked = [Rmw(z, lambda old: old + 1)]
        return [writer_then_reader(x, y, locked), writer_then_reader(y, x, locked)]

    assert (0, 0) not in outcomes("tso", setup)


def test_stores_stay_in_order(outcomes: Any) -> None:
    def setup(machine: Machine) -> list[Any]:
        x, y = machine.allocate(1, "x"), machine.allocate(1, "y")

        def writer() -> Any:
            yield Store(x, 1)
            yield Store(y, 1)

        def reader() -> Any:
            flag = yield Load(y)
            return flag, (yield Load(x))

        return [writer(), reader()]

    assert {read for _, read in outcomes("tso", setup)} == {(0, 0), (0, 1), (1, 1)}


def test_a_cpu_sees_its_own_buffer_first() -> None:
    memory = TotalStoreOrder(2)
    memory.store(0, Store(8, 1), lambda ways: 1)
    memory.store(0, Store(8, 2), lambda ways: 1)
    assert memory.load(0, Load(8), lambda ways: 0) == 2
    assert memory.load(1, Load(8), lambda ways: 0) == 0
    assert memory.agents() == [2]
    assert memory.owner(2) == 0
    memory.step(2, lambda ways: 0)
    assert memory.peek(8) == 1


def test_a_copy_goes_its_own_way() -> None:
    memory = TotalStoreOrder(1)
    memory.store(0, Store(8, 1), lambda ways: 1)
    other = memory.copy()
    assert other.state() == memory.state()
    other.synchronise()
    assert (memory.peek(8), other.peek(8)) == (0, 1)
    assert other.state() != memory.state()
