"""AArch64 memory under a machine: each relaxation is there, and each ordering that takes it away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fuzzvm.machine.errors import USE_AFTER_FREE_READ
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.arm64 import MODEL
from fuzzvm.machine.ops import (
    Await,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Order,
    Rmw,
    Store,
)

OLD, NEW = 0, 1


class IsSet:
    def __call__(self, value: int) -> bool:
        return value == 1

    def blocked_by(self, value: int) -> tuple[int, ...]:
        return ()


def message_passing(
    between_stores: list[Any], between_loads: list[Any], store: Order = Order.PLAIN, load: Order = Order.PLAIN
) -> Callable[[Machine], list[Any]]:
    def setup(machine: Machine) -> list[Any]:
        x, y = machine.allocate(1, "x"), machine.allocate(1, "y")

        def writer() -> Any:
            yield Store(x, 1)
            for step in between_stores:  # noqa: UP028 - a list takes no responses
                yield step
            yield Store(y, 1, store)

        def reader() -> Any:
            flag = yield Load(y, load)
            for step in between_loads:  # noqa: UP028 - a list takes no responses
                yield step
            return flag, (yield Load(x))

        return [writer(), reader()]

    return setup


def seen(results: set[Any]) -> set[Any]:
    return {read for _, read in results}


DMB, DMB_ST, DMB_LD = Fence(Barrier.DMB_ISH), Fence(Barrier.DMB_ISHST), Fence(Barrier.DMB_ISHLD)


@pytest.mark.parametrize(
    ("stores", "loads", "store", "load", "stale"),
    [
        ([], [], Order.PLAIN, Order.PLAIN, True),
        ([], [DMB], Order.PLAIN, Order.PLAIN, True),
        ([DMB], [], Order.PLAIN, Order.PLAIN, True),
        ([DMB], [DMB], Order.PLAIN, Order.PLAIN, False),
        ([DMB_ST], [DMB_LD], Order.PLAIN, Order.PLAIN, False),
        ([DMB_LD], [DMB_LD], Order.PLAIN, Order.PLAIN, True),
        ([Fence(Barrier.DSB_ISHST)], [Fence(Barrier.DSB_ISHLD)], Order.PLAIN, Order.PLAIN, False),
        ([DMB_ST], [Fence(Barrier.ISB)], Order.PLAIN, Order.PLAIN, True),
        ([], [], Order.RELEASE, Order.ACQUIRE, False),
        ([], [], Order.RELEASE, Order.ACQUIRE_PC, False),
        ([], [], Order.RELEASE, Order.PLAIN, True),
        ([], [], Order.PLAIN, Order.ACQUIRE, True),
    ],
)
def test_message_passing(
    outcomes: Any, stores: list[Any], loads: list[Any], store: Order, load: Order, stale: bool
) -> None:
    results = seen(outcomes("arm64", message_passing(stores, loads, store, load)))
    assert ((1, 0) in results) is stale
    assert {(0, 0), (0, 1), (1, 1)} <= results


@pytest.mark.parametrize(("between", "stale"), [([], True), ([DMB_ST], False)])
def test_an_atomic_stores_after_what_a_store_barrier_orders_before_it(
    outcomes: Any, between: list[Any], stale: bool
) -> None:
    def setup(machine: Machine) -> list[Any]:
        x, y = machine.allocate(1, "x"), machine.allocate(1, "y")

        def writer() -> Any:
            yield Store(x, 1)
            for step in between:  # noqa: UP028 - a list takes no responses
                yield step
            yield Rmw(y, lambda old: 1)

        def reader() -> Any:
            flag = yield Load(y, Order.ACQUIRE)
            return flag, (yield Load(x))

        return [writer(), reader()]

    assert ((1, OLD) in seen(outcomes("arm64", setup))) == stale


def test_a_load_through_a_loaded_pointer_follows_the_load(outcomes: Any) -> None:
    def setup(machine: Machine) -> list[Any]:
        pointer, thing = machine.allocate(1, "pointer"), machine.allocate(1, "thing")

        def writer() -> Any:
            yield Store(thing, 1)
            yield DMB_ST
            yield Store(pointer, thing)

        def reader() -> Any:
            where = yield Load(pointer)
            return (yield Load(where)) if where else None

        return [writer(), reader()]

    assert seen(outcomes("arm64", setup)) == {None, 1}


def test_coherence(outcomes: Any) -> None:
    def setup(machine: Machine) -> list[Any]:
        x = machine.allocate(1, "x")

        def writer() -> Any:
            yield Store(x, 1)
            yield Store(x, 2)

        def reader() -> Any:
            first = yield Load(x)
            return first, (yield Load(x))

        return [writer(), reader()]

    results = seen(outcomes("arm64", setup))
    assert results == {(a, b) for a in range(3) for b in range(a, 3)}


def test_release_then_acquire_is_in_order(outcomes: Any) -> None:
    def setup(machine: Machine) -> list[Any]:
        x, y = machine.allocate(1, "x"), machine.allocate(1, "y")

        def side(mine: int, other: int) -> Any:
            yield Store(mine, 1, Order.RELEASE)
            return (yield Load(other, Order.ACQUIRE))

        return [side(x, y), side(y, x)]

    assert outcomes("arm64", setup) == {(0, 1), (1, 0), (1, 1)}


def test_a_lock_protects(outcomes: Any) -> None:
    def setup(machine: Machine) -> list[Any]:
        lock, data = machine.allocate(1, "lock"), machine.allocate(1, "data")

        def side() -> Any:
            if (yield Rmw(lock, lambda old: 1, Order.ACQUIRE)) == 0:
                value = yield Load(data)
                yield Store(data, value + 1)
                yield Store(lock, 0, Order.RELEASE)
                return value
            return None

        return [side(), side()]

    assert outcomes("arm64", setup) == {(0, None), (None, 0), (0, 1), (1, 0)}


SYNC = [CacheOperation.DC_CVAU, Barrier.DSB_ISH, CacheOperation.IC_IVAU, Barrier.DSB_ISH]


def patching(maintenance: list[Any], before_fetch: list[Any]) -> Callable[[Machine], list[Any]]:
    """CPU 0 patches and raises a flag, CPU 1 sees the flag and fetches."""

    def setup(machine: Machine) -> list[Any]:
        code, flag = machine.allocate(1, "code"), machine.allocate(1, "flag")

        def patcher() -> Any:
            yield Store(code, NEW)
            for step in maintenance:
                yield CacheMaintenance(step, code) if isinstance(step, CacheOperation) else Fence(step)
            yield Store(flag, 1)

        def fetcher() -> Any:
            yield Await(flag, IsSet())
            for step in before_fetch:  # noqa: UP028 - a list takes no responses
                yield step
            return (yield Fetch(code))

        return [patcher(), fetcher()]

    return setup


SYNCHRONISED = [Fence(Barrier.DSB_ISH), Fence(Barrier.ISB)]


def test_maintenance_and_context_synchronisation_show_the_patch(outcomes: Any) -> None:
    assert seen(outcomes("arm64", patching(SYNC, SYNCHRONISED))) == {NEW}


@pytest.mark.parametrize("missing", range(4))
def test_each_step_of_the_maintenance_is_needed(outcomes: Any, missing: int) -> None:
    maintenance = SYNC[:missing] + SYNC[missing + 1 :]
    assert seen(outcomes("arm64", patching(maintenance, SYNCHRONISED))) == {OLD, NEW}


@pytest.mark.parametrize("before", [[], SYNCHRONISED[:1], SYNCHRONISED[1:]])
def test_context_synchronisation_is_needed(outcomes: Any, before: list[Any]) -> None:
    assert seen(outcomes("arm64", patching(SYNC, before))) == {OLD, NEW}


def test_an_interrupt_of_all_cpus_synchronises(outcomes: Any) -> None:
    def setup(machine: Machine) -> list[Any]:
        code, done = machine.allocate(1, "code"), machine.allocate(1, "done")

        def patcher() -> Any:
            yield Store(code, NEW)
            for step in SYNC:
                yield CacheMaintenance(step, code) if isinstance(step, CacheOperation) else Fence(step)
            yield InterruptAll()
            yield Store(done, 1)

        def fetcher() -> Any:
            yield Await(done, IsSet())
            return (yield Fetch(code))

        return [patcher(), fetcher()]

    assert seen(outcomes("arm64", setup)) == {NEW}


@pytest.mark.parametrize(("order", "expected"), [(Order.PLAIN, {USE_AFTER_FREE_READ}), (Order.RELEASE, {(0, None)})])
def test_a_free_may_overtake_a_load_that_a_plain_store_follows(outcomes: Any, order: Order, expected: Any) -> None:
    def setup(machine: Machine) -> list[Any]:
        table, unlocked = machine.allocate(1, "table"), machine.allocate(1, "unlocked")

        def walker() -> Any:
            entry = yield Load(table)
            yield Store(unlocked, 1, order)
            return entry

        def freer() -> Any:
            yield Await(unlocked, IsSet(), Order.ACQUIRE)
            yield Free(table)

        return [walker(), freer()]

    assert outcomes("arm64", setup) == expected


def test_way_zero_is_sequential_consistency() -> None:
    memory = MODEL(2)
    memory.store(0, Store(1 << 16, 1), lambda ways: 0)
    assert memory.agents() == []
    assert memory.load(1, Load(1 << 16), lambda ways: 0) == 1


@pytest.mark.parametrize("operation", CacheOperation)
@pytest.mark.parametrize("order", [Order.RELEASE, Order.ACQUIRE_RELEASE])
def test_an_atomic_with_release_does_not_wait_for_cache_maintenance(operation: CacheOperation, order: Order) -> None:
    memory = MODEL(2)
    memory.maintain(0, CacheMaintenance(operation, 1 << 16), lambda ways: ways - 1)
    memory.store(0, Store(2 << 16, 1), lambda ways: ways - 1)
    memory.rmw(0, Rmw(3 << 16, lambda old: 1, order), lambda ways: 0)
    assert memory.agents() == [2]
    assert memory.load(1, Load(2 << 16), lambda ways: 0) == 1
    memory.fence(0, Fence(Barrier.DSB_ISH), lambda ways: 0)
    assert memory.agents() == []


def test_a_copy_goes_its_own_way() -> None:
    memory = MODEL(2)
    memory.store(0, Store(1 << 16, 1), lambda ways: 1)
    other = memory.copy()
    assert other.state() == memory.state()
    other.step(2, lambda ways: 0)
    assert (memory.peek(1 << 16), other.peek(1 << 16)) == (0, 1)
    assert other.state() != memory.state()


def test_two_searches_that_begin_with_one_memory_have_keys_of_their_own() -> None:
    boot = MODEL(1)
    boot.store(0, Store(1 << 16, 5), lambda ways: 0)
    states = []
    for name in ("first", "second"):
        memory = boot.copy()
        memory.key_of = lambda value, name=name: (name, value)
        states.append(memory.state())
    assert states[0] != states[1]


def test_boot_is_over_for_everybody() -> None:
    memory = MODEL(2)
    memory.store(0, Store(1 << 16, 1), lambda ways: 1)
    memory.synchronise()
    assert memory.load(1, Load(1 << 16), lambda ways: pytest.fail("no choice is left")) == 1


def test_readable_values_are_those_that_loads_return() -> None:
    memory = MODEL(2)
    x = 1 << 16
    for value in (1, 2):
        memory.store(0, Store(x, value), lambda ways: 0)
    assert memory.readable(0, x) == (2,)
    assert memory.readable(1, x) == (2, 1, 0)
    assert [memory.copy().load(1, Load(x), lambda ways, way=way: way) for way in range(3)] == [2, 1, 0]
    memory.load(1, Load(x), lambda ways: 1)
    assert memory.readable(1, x) == (2, 1)
