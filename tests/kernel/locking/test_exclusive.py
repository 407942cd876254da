"""fuzzvm.kernel.locking.exclusive: spinlocks and mutexes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locking.exclusive import ExclusiveLock, mutex_lock, mutex_unlock, spin_lock, spin_unlock
from fuzzvm.machine.errors import DEADLOCK, ProgramError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Load, Order, Rmw, Steps, Store
from tests.kernel.locking import laws
from tests.support import boot, executions, operations, run

Call = Callable[[int, ExclusiveLock], Steps[None]]
KINDS = pytest.mark.parametrize(("lock", "unlock"), [(spin_lock, spin_unlock), (mutex_lock, mutex_unlock)])


@KINDS
def test_no_increment_is_lost_under_the_lock(lock: Call, unlock: Call) -> None:
    def increment(k: Kernel) -> Steps[None]:
        yield from lock(k.cpu, k.page_table_lock)
        value = yield Load(k.vmap_area_root)
        yield Store(k.vmap_area_root, value + 1)
        yield from unlock(k.cpu, k.page_table_lock)

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
        yield from lock(k.cpu, k.page_table_lock)
        yield from lock(k.cpu, k.page_table_lock)

    failure = run(machine, twice(kernel))
    assert failure is not None
    assert failure.error == DEADLOCK


@KINDS
@pytest.mark.parametrize("held_by_another", [False, True])
def test_unlock_without_lock(lock: Call, unlock: Call, held_by_another: bool) -> None:
    machine, kernel = boot(cpus=2)

    def nothing() -> Steps[None]:
        yield from ()

    other = lock(0, kernel.page_table_lock) if held_by_another else nothing()
    failure = run(machine, other, unlock(1, kernel.page_table_lock))
    assert failure is not None
    assert failure.error == UNLOCK_WITHOUT_LOCK
    assert failure.message == "init_mm.page_table_lock is not held by CPU 1"


@KINDS
def test_taking_acquires_and_releasing_releases(lock: Call, unlock: Call) -> None:
    machine, kernel = boot(cpus=1, tracing=True)

    def section(k: Kernel) -> Steps[None]:
        yield from lock(k.cpu, k.page_table_lock)
        yield from unlock(k.cpu, k.page_table_lock)

    assert run(machine, section(kernel)) is None
    orders = [op.order for op in operations(machine) if isinstance(op, Rmw)]
    assert orders == [Order.ACQUIRE, Order.RELEASE]


@KINDS
def test_stories_name_the_function_of_the_kernel(lock: Call, unlock: Call) -> None:
    machine, kernel = boot(cpus=1)

    def section(k: Kernel) -> Steps[None]:
        yield from lock(k.cpu, k.page_table_lock)
        yield from unlock(k.cpu, k.page_table_lock)

    machine.start([section(kernel)])
    for function in (lock, unlock):
        assert machine.stack(0)[0] == function.__name__
        machine.step(0, lambda ways: 0)


@KINDS
@given(sections=st.lists(st.integers(0, 3), min_size=2, max_size=4), seed=st.integers(0, 1 << 30))
def test_the_laws_of_locks(lock: Call, unlock: Call, sections: list[int], seed: int) -> None:
    machine = laws.run(
        lambda words, name: ExclusiveLock(words.lock_word(name), name), [[lock, unlock] * n for n in sections], seed
    )
    assert machine.failure is None


def test_a_lock_is_given_the_number_of_a_cpu() -> None:
    """The kernel itself in the place of its CPU's number is refused where the hook is, and by name."""
    machine, kernel = boot(cpus=1)

    def wrong(k: Kernel) -> Steps[None]:
        yield from spin_lock(k, k.page_table_lock)  # type: ignore[arg-type]

    with pytest.raises(ProgramError, match=r"the number of a CPU, k\.cpu, and not a Kernel") as raised:
        run(machine, wrong(kernel))
    assert raised.value.filename == __file__
