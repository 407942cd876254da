"""fuzzvm.kernel.mmap_lock: the kernel's names for an mm's rw_semaphore."""

from __future__ import annotations

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locking.rwsem import rwsem_state
from fuzzvm.kernel.mmap_lock import (
    mmap_read_lock,
    mmap_read_trylock,
    mmap_read_unlock,
    mmap_write_downgrade,
    mmap_write_lock,
    mmap_write_trylock,
    mmap_write_unlock,
)
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Steps
from tests.support import boot, executions, run


def test_readers_share_and_a_trylock_says_whether_it_took_it() -> None:
    machine, kernel = boot(cpus=2)

    def reader(k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)
        taken = yield from mmap_read_trylock(k, k.init_mm)
        assert taken is True
        yield from mmap_read_unlock(k, k.init_mm)
        yield from mmap_read_unlock(k, k.init_mm)

    assert run(machine, reader(kernel.on(0)), reader(kernel.on(1)), agents=[0, 1, 0, 1]) is None


def test_a_writer_is_alone() -> None:
    def start() -> Machine:
        machine, kernel = boot(cpus=2)

        def writer(k: Kernel) -> Steps[None]:
            yield from mmap_write_lock(k, k.init_mm)
            assert rwsem_state(machine.memory.peek(k.init_mm.mmap_lock.address)).writer == k.cpu
            yield from mmap_write_unlock(k, k.init_mm)

        def reader(k: Kernel) -> Steps[None]:
            taken = yield from mmap_read_trylock(k, k.init_mm)
            if taken:
                assert rwsem_state(machine.memory.peek(k.init_mm.mmap_lock.address)).writer is None
                yield from mmap_read_unlock(k, k.init_mm)

        machine.start([writer(kernel.on(0)), reader(kernel.on(1))])
        return machine

    assert {execution.failure for execution in executions(start, 4)} == {None}


def test_a_trylock_to_write_excludes_everybody_or_takes_nothing() -> None:
    def start() -> Machine:
        machine, kernel = boot(cpus=2)

        def tries(k: Kernel) -> Steps[None]:
            if (yield from mmap_write_trylock(k, k.init_mm)):
                assert rwsem_state(machine.memory.peek(k.init_mm.mmap_lock.address)).readers == ()
                yield from mmap_write_unlock(k, k.init_mm)

        def reader(k: Kernel) -> Steps[None]:
            yield from mmap_read_lock(k, k.init_mm)
            assert rwsem_state(machine.memory.peek(k.init_mm.mmap_lock.address)).writer is None
            yield from mmap_read_unlock(k, k.init_mm)

        machine.start([tries(kernel.on(0)), reader(kernel.on(1))])
        return machine

    assert {execution.failure for execution in executions(start, 4)} == {None}


def test_a_trylock_for_writing_and_a_downgrade() -> None:
    def start() -> Machine:
        machine, kernel = boot(cpus=2)

        def writer(k: Kernel) -> Steps[None]:
            taken = yield from mmap_write_trylock(k, k.init_mm)
            state = rwsem_state(machine.memory.peek(k.init_mm.mmap_lock.address))
            assert taken == (state.writer == k.cpu)
            if taken:
                yield from mmap_write_downgrade(k, k.init_mm)
                state = rwsem_state(machine.memory.peek(k.init_mm.mmap_lock.address))
                assert state.writer is None and k.cpu in state.readers
                yield from mmap_read_unlock(k, k.init_mm)

        machine.start([writer(kernel.on(cpu)) for cpu in range(2)])
        return machine

    assert {execution.failure for execution in executions(start, 3)} == {None}
