"""x86-TSO: what store buffers show, and what they do not."""

from __future__ import annotations

from typing import Any

import pytest

from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.tso import TotalStoreOrder
from fuzzvm.machine.ops import Barrier, Fence, Fetch, InterruptAll, Load, Rmw, Store
from fuzzvm.machine.remarks import StaleFetch


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


# Instruction fetch


def code(cpus: int, *values: int) -> TotalStoreOrder:
    """Return memory whose code location 8 has been written, by CPU 0 and at once, with each of these values."""
    memory = TotalStoreOrder(cpus)
    memory.hold_code(8)
    for value in values:
        memory.store(0, Store(8, value), lambda ways: 0)
    return memory


def fetched(memory: TotalStoreOrder, cpu: int, address: int = 8) -> set[Any]:
    """Return what a CPU may fetch."""
    offered = [1]

    def count(ways: int) -> int:
        offered[0] = ways
        return 0

    newest = memory.fetch(cpu, Fetch(address), count)
    assert newest == memory.peek(address), "way 0 is what sc would do"
    return {memory.fetch(cpu, Fetch(address), lambda ways, way=way: way) for way in range(offered[0])}  # type: ignore[misc]


def test_a_fetch_may_be_of_what_was_there() -> None:
    memory = code(2, 1, 2)
    assert fetched(memory, 0) == fetched(memory, 1) == {0, 1, 2}
    memory.fetch(1, Fetch(8), lambda ways: 1)
    assert memory.remark == StaleFetch(2)


def test_each_byte_may_be_of_another_time() -> None:
    """A NOP, a breakpoint over its first byte, the second byte of a jump, and its first one."""
    assert fetched(code(1, 0x00CC), 0) == {0x0000, 0x00CC}
    assert fetched(code(1, 0x01EB), 0) == {0x0000, 0x00EB, 0x0100, 0x01EB}
    assert fetched(code(1, 0x00CC, 0x01CC, 0x01EB), 0) == {b << 8 | a for a in (0, 0xCC, 0xEB) for b in (0, 1)}


@pytest.mark.parametrize("who", ["this", "all", "another", "nobody"])
def test_a_serialised_cpu_fetches_what_is_there(who: str) -> None:
    memory = code(2, 1)
    if who == "this":
        memory.fence(1, Fence(Barrier.ISB), lambda ways: 0)
    elif who == "all":
        memory.maintain(0, InterruptAll(), lambda ways: 0)
    elif who == "another":
        memory.fence(0, Fence(Barrier.ISB), lambda ways: 0)
    assert fetched(memory, 1) == ({1} if who in ("this", "all") else {0, 1})
    assert fetched(memory, 0) == ({1} if who in ("another", "all") else {0, 1})


def test_mfence_serialises_no_fetch() -> None:
    memory = code(1, 1)
    memory.fence(0, Fence(Barrier.DMB_ISH), lambda ways: 0)
    assert fetched(memory, 0) == {0, 1}


def test_what_is_buffered_is_not_fetched() -> None:
    memory = code(2)
    memory.store(0, Store(8, 1), lambda ways: 1)
    assert fetched(memory, 0) == fetched(memory, 1) == {0}
    memory.synchronise()
    assert fetched(memory, 1) == {1}


def test_a_location_that_is_no_code_is_coherent() -> None:
    memory = code(1)
    memory.store(0, Store(9, 1), lambda ways: 0)
    assert fetched(memory, 0, 9) == {1}
    assert memory.state() == (frozenset({(9, 1)}), ((),), (frozenset(),))


def test_only_what_was_replaced_makes_states_differ() -> None:
    """Code that is back to what it was, and CPUs that have serialised since, are where they began."""
    memory = code(2, 1, 0)
    assert memory.copy().state() == memory.state() != code(2, 0).state()
    memory.maintain(0, InterruptAll(), lambda ways: 0)
    assert memory.state() == code(2, 0).state()
    assert fetched(memory.copy(), 0) == {0}


def test_a_locked_instruction_may_patch_code() -> None:
    memory = code(1)
    memory.rmw(0, Rmw(8, lambda old: 7), lambda ways: 0)
    assert fetched(memory, 0) == {0, 7}


def test_code_is_integers() -> None:
    memory = code(1)
    memory.store(0, Store(8, "nop"), lambda ways: 0)
    with pytest.raises(TypeError, match="an instruction is an integer"):
        memory.fetch(0, Fetch(8), lambda ways: 0)
