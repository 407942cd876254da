"""fuzzvm.kernel.locks: spinlocks and mutexes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locks import ExclusiveLock, mutex_lock, mutex_unlock, spin_lock, spin_unlock
from fuzzvm.machine.errors import DEADLOCK
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Load, Order, Rmw, Steps, Store
from tests.support import boot, executions, operations, run

Call = Callable[[Kernel, ExclusiveLock], Steps[None]]
KINDS = pytest.mark.parametrize(("lock", "unlock"), [(spin_lock, spin_unlock), (mutex_lock, mutex_unlock)])


@KINDS
def test_no_increment_is_lost_under_the_lock(lock: Call, unlock: Call) -> None:
    def increment(k: Kernel) -> Steps[None]:
        yield from lock(k, k.page_table_lock)
        value = yield Load(k.vmap_area_root)
        yield Store(k.vmap_area_root, value + 1)
        yield from unlock(k, k.page_table_lock)

    machines: list[tuple[Machine, Kernel]] = []

    def start() -> Machine:
        machine, kernel = boot(cpus=3)
        machine.start([increment(kernel.on(cpu)) for cpu in range(3)])
        machines.append((machine, kernel))
        return machine

    for execution in executions(start, 2):
        assert execution.failure is None
        machine, kernel = machines.pop()
        assert machine.memory.peek(kernel.vmap_area_root) == 3


@KINDS
def test_a_lock_is_not_recursive(lock: Call, unlock: Call) -> None:
    machine, kernel = boot(cpus=1)

    def twice(k: Kernel) -> Steps[None]:
        yield from lock(k, k.page_table_lock)
        yield from lock(k, k.page_table_lock)

    failure = run(machine, twice(kernel))
    assert failure is not None
    assert failure.error == DEADLOCK


@KINDS
@pytest.mark.parametrize("held_by_another", [False, True])
def test_unlock_without_lock(lock: Call, unlock: Call, held_by_another: bool) -> None:
    machine, kernel = boot(cpus=2)

    def nothing() -> Steps[None]:
        yield from ()

    other = lock(kernel.on(0), kernel.page_table_lock) if held_by_another else nothing()
    failure = run(machine, other, unlock(kernel.on(1), kernel.page_table_lock))
    assert failure is not None
    assert failure.error == UNLOCK_WITHOUT_LOCK
    assert failure.message == "init_mm.page_table_lock is not held by CPU 1"


@KINDS
def test_taking_acquires_and_releasing_releases(lock: Call, unlock: Call) -> None:
    machine, kernel = boot(cpus=1, tracing=True)

    def section(k: Kernel) -> Steps[None]:
        yield from lock(k, k.page_table_lock)
        yield from unlock(k, k.page_table_lock)

    assert run(machine, section(kernel)) is None
    orders = [op.order for op in operations(machine) if isinstance(op, Rmw)]
    assert orders == [Order.ACQUIRE, Order.RELEASE]
