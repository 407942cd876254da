"""fuzzvm.kernel.locking.percpu_rwsem, against a model of its own, and as what a scheme is made of."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.exhaustive import verify
from fuzzvm.kernel.errors import LOCK_NOT_RELEASED, UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.percpu_rwsem import (
    PercpuRwSemaphore,
    PercpuRwsemState,
    percpu_down_read,
    percpu_down_read_trylock,
    percpu_down_write,
    percpu_init_rwsem,
    percpu_rwsem_state,
    percpu_up_read,
    percpu_up_write,
)
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import Level
from fuzzvm.kernel.ptdump import ptdump_walk
from fuzzvm.machine.errors import DEADLOCK, USE_AFTER_FREE_READ
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Fence, Rmw, Steps
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.kernel.locking import laws
from tests.support import boot, run

CALLS: dict[str, Callable[[int, PercpuRwSemaphore], Steps[Any]]] = {
    "down_read": percpu_down_read,
    "up_read": percpu_up_read,
    "down_write": percpu_down_write,
    "up_write": percpu_up_write,
    "trylock_read": percpu_down_read_trylock,
}
SECTIONS = st.lists(
    st.sampled_from([("down_read", "up_read"), ("down_write", "up_write"), ("trylock_read", "up_read")]), max_size=4
).map(lambda sections: [call for section in sections for call in section])


def start(*programs: Sequence[str]) -> tuple[Machine, PercpuRwSemaphore]:
    machine = Machine(SequentialConsistency(len(programs)), tracing=True)
    sem = percpu_init_rwsem(laws.Words(machine), "sem")
    calls = [[CALLS[name] for name in names] for names in programs]
    machine.start([laws.program(cpu, sem, its_calls) for cpu, its_calls in enumerate(calls)])
    return machine, sem


def step(machine: Machine, *cpus: int) -> None:
    for cpu in cpus:
        machine.step(cpu, lambda ways: 0)


class Reference:
    """The semaphore as percpu-rwsem.c describes it: readers, a blocking writer, and a queue in front of both."""

    def __init__(self) -> None:
        self.readers: Counter[int] = Counter()
        self.blocking: int | None = None
        self.queue: list[tuple[int, str]] = []

    def has(self, cpu: int, mode: str) -> bool:
        if mode == "read":
            return self.readers[cpu] > 0
        return self.blocking == cpu and not +self.readers

    def down(self, cpu: int, mode: str) -> None:
        if self.blocking is not None:
            self.queue.append((cpu, mode))
        elif mode == "read":
            self.readers[cpu] += 1
        else:
            self.blocking = cpu

    def up(self, cpu: int, mode: str) -> None:
        if mode == "read":
            self.readers[cpu] -= 1
            return
        self.blocking = None
        while self.queue and self.blocking is None:
            self.down(*self.queue.pop(0))


@given(st.lists(SECTIONS, min_size=2, max_size=4), st.integers(0, 1 << 30))
def test_every_step_agrees_with_the_reference(programs: list[list[str]], seed: int) -> None:
    machine, sem = start(*programs)
    reference = Reference()
    asked: list[str | None] = [None] * len(programs)
    places = [0] * len(programs)
    rng = random.Random(seed)
    while enabled := machine.enabled():
        waiting = {cpu for cpu, mode in enumerate(asked) if mode is not None and not reference.has(cpu, mode)}
        running = {cpu for cpu in range(len(programs)) if machine.pending(cpu) is not None}
        assert set(enabled) == running - waiting, "who waits is who does not have it, and never all wait"
        cpu = rng.choice(enabled)
        operation = machine.pending(cpu)
        step(machine, cpu)
        assert machine.failure is None
        if isinstance(operation, Rmw):
            call = programs[cpu][places[cpu]]
            mode = "write" if call.endswith("write") else "read"
            if call.startswith("up"):
                reference.up(cpu, mode)
            elif call == "trylock_read" and reference.blocking is not None:
                places[cpu] += 1
            else:
                reference.down(cpu, mode)
                asked[cpu] = mode
            places[cpu] += 1
        elif not isinstance(operation, Fence):
            assert asked[cpu] is not None and reference.has(cpu, asked[cpu] or "")
        if not machine.blocked(cpu, machine.pending(cpu)):
            asked[cpu] = None
        state = percpu_rwsem_state(machine.memory.peek(sem.address))
        assert (state.block, Counter(state.readers)) == (reference.blocking, +reference.readers)
        assert [(waiter, "write" if write else "read") for waiter, write in state.waiters] == reference.queue
    assert machine.done and machine.memory.peek(sem.address) in (0, PercpuRwsemState())


@given(st.lists(SECTIONS, min_size=2, max_size=4), st.integers(0, 1 << 30))
def test_the_laws_of_locks(programs: list[list[str]], seed: int) -> None:
    machine = laws.run(percpu_init_rwsem, [[CALLS[name] for name in names] for names in programs], seed)
    assert machine.failure is None


def test_a_writer_that_leaves_lets_in_readers_up_to_the_next_writer() -> None:
    machine, sem = start(["down_write", "up_write"], ["down_read"], ["down_read"], ["down_write"], ["down_read"])
    step(machine, 0, 0, 1, 2, 3, 4, 0)
    assert percpu_rwsem_state(machine.memory.peek(sem.address)) == PercpuRwsemState(3, (1, 2), ((4, False),))
    assert list(machine.enabled()) == [1, 2], "the next writer waits for the readers, the last reader for it"


def test_a_nested_read_behind_a_writer_deadlocks() -> None:
    machine, _ = start(["down_read", "down_read", "up_read", "up_read"], ["down_write", "up_write"])
    step(machine, 0, 1, 0)
    machine.stuck()
    assert machine.failure is not None and machine.failure.error == DEADLOCK
    assert machine.failure.message == (
        "CPU 0 in percpu_down_read waits for CPU 1, CPU 1 in percpu_down_write waits for CPU 0"
    )


def test_a_trylock_fails_beside_a_writer_that_is_not_in_yet() -> None:
    machine, sem = start(["down_read", "up_read"], ["down_write", "up_write"], ["trylock_read", "up_read"])
    step(machine, 0, 1, 2)
    assert machine.pending(2) is None
    assert percpu_rwsem_state(machine.memory.peek(sem.address)) == PercpuRwsemState(1, (0,))


@pytest.mark.parametrize(
    ("calls", "mode"),
    [(["up_read"], "reading"), (["up_write"], "writing"), (["down_read", "up_write"], "writing")],
)
def test_unlock_without_lock(calls: list[str], mode: str) -> None:
    machine, _ = start(calls)
    while machine.enabled():
        step(machine, 0)
    assert machine.failure is not None
    assert (machine.failure.error, machine.failure.message) == (
        UNLOCK_WITHOUT_LOCK,
        f"CPU 0 does not hold sem for {mode}",
    )


class WriterFrees(Mitigation):
    """Walks of whichever mm read, whoever frees writes."""

    name = "writer-frees"

    def attach(self, boot: Boot) -> None:
        self.sem = percpu_init_rwsem(boot, "ptdump_rwsem")

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from percpu_down_write(k.cpu, self.sem)

    def after_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from percpu_up_write(k.cpu, self.sem)

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from percpu_down_read(k.cpu, self.sem)

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from percpu_up_read(k.cpu, self.sem)


class OnlyWaits(WriterFrees):
    """The free waits for the walks that have begun, where an entry may be cleared that a later one reads."""

    name = "only-waits"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from percpu_down_write(k.cpu, self.sem)
        yield from percpu_up_write(k.cpu, self.sem)

    def after_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from ()


class Keeps(WriterFrees):
    name = "keeps"

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from ()


@pytest.mark.parametrize(
    ("scheme", "scenario", "memory", "error"),
    [
        (WriterFrees, "pmd-promotion", "sc", None),
        (WriterFrees, "two-walkers", "sc", None),
        (WriterFrees, "x86-other-mm", "sc", None),
        (WriterFrees, "pmd-promotion", "arm64", None),
        (OnlyWaits, "pmd-promotion", "sc", USE_AFTER_FREE_READ),
    ],
)
def test_as_a_scheme(scheme: type[Mitigation], scenario: str, memory: str, error: str | None) -> None:
    verdict = verify(System(shipped.get(scenario), scheme, memory))
    assert verdict.complete or verdict.failure
    assert (verdict.failure and verdict.failure.error) == error


def test_what_is_still_held_at_the_end_is_an_error() -> None:
    machine, kernel = boot(mitigation=Keeps, cpus=1)
    failure = run(machine, ptdump_walk(kernel, kernel.init_mm))
    assert failure is not None
    assert (failure.error, failure.message) == (LOCK_NOT_RELEASED, "ptdump_rwsem is still held")
