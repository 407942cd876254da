"""fuzzvm.kernel.locking.rwsem, against a model of its own."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locking.rwsem import (
    RwSemaphore,
    RwsemState,
    down_read,
    down_read_trylock,
    down_write,
    down_write_trylock,
    downgrade_write,
    rwsem_state,
    up_read,
    up_write,
)
from fuzzvm.machine.errors import DEADLOCK, Failure
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Await, Rmw, Steps
from tests.kernel.locking import laws
from tests.support import boot, burst, executions, random_failures, run

OPERATIONS: dict[str, Callable[[int, RwSemaphore], Steps[object]]] = {
    "down_read": down_read,
    "up_read": up_read,
    "down_write": down_write,
    "up_write": up_write,
    "trylock": down_read_trylock,
    "trylock_write": down_write_trylock,
    "downgrade": downgrade_write,
}


class Reference:
    """The lock as kernel/locking/rwsem.c describes it: a set of holders and a queue in front."""

    def __init__(self) -> None:
        self.holders: list[tuple[int, str]] = []
        self.queue: deque[tuple[int, str]] = deque()

    def modes(self) -> set[str]:
        return {mode for _, mode in self.holders}

    def down(self, cpu: int, mode: str, *, may_wait: bool) -> bool:
        """Return whether the lock was taken at once."""
        free = not self.queue and (not self.holders or (mode == "read" and self.modes() == {"read"}))
        if free:
            self.holders.append((cpu, mode))
        elif may_wait:
            self.queue.append((cpu, mode))
        return free

    def downgrade(self, cpu: int) -> None:
        """rwsem_downgrade_wake(): readers are let in where one of them is at the front of the queue."""
        self.holders[self.holders.index((cpu, "write"))] = (cpu, "read")
        if self.queue and self.queue[0][1] == "read":
            self._readers()

    def up(self, cpu: int, mode: str) -> None:
        self.holders.remove((cpu, mode))
        if self.holders or not self.queue:
            return
        if self.queue[0][1] == "write":
            self.holders.append(self.queue.popleft())
        else:
            self._readers()

    def _readers(self) -> None:
        # "all readers are eligible to acquire the lock at the same time irrespective of their order in the queue"
        self.holders.extend(waiter for waiter in self.queue if waiter[1] == "read")
        self.queue = deque(waiter for waiter in self.queue if waiter[1] == "write")


def lock_calls(k: Kernel, sem: RwSemaphore, calls: Sequence[str], done: list[tuple[str, object]]) -> Steps[None]:
    """Make calls one after the other; skip the release after a trylock that failed."""
    index = 0
    while index < len(calls):
        result = yield from OPERATIONS[calls[index]](k.cpu, sem)
        done.append((calls[index], result))
        index += 2 if result is False else 1


SECTIONS = st.lists(
    st.sampled_from(
        [
            ("down_read", "up_read"),
            ("down_write", "up_write"),
            ("trylock", "up_read"),
            ("trylock_write", "up_write"),
            ("down_write", "downgrade", "up_read"),
        ]
    ),
    max_size=5,
).map(lambda sections: [call for section in sections for call in section])


@settings(max_examples=150)
@given(st.lists(SECTIONS, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_every_step_agrees_with_the_reference(programs: list[list[str]], choices: random.Random) -> None:
    machine, kernel = boot(cpus=len(programs))
    sem = kernel.init_mm.mmap_lock
    done: list[list[tuple[str, object]]] = [[] for _ in programs]
    machine.start([lock_calls(kernel.on(cpu), sem, calls, done[cpu]) for cpu, calls in enumerate(programs)])
    reference = Reference()
    places = [0] * len(programs)
    while not machine.done:
        enabled = machine.enabled()
        waiting = {cpu for cpu, _ in reference.queue}
        running = {cpu for cpu in range(len(programs)) if machine.pending(cpu) is not None}
        assert set(enabled) == running - waiting, "who waits is who is in the queue; nobody else, and never all"
        cpu = choices.choice(enabled)
        operation = machine.pending(cpu)
        machine.step(cpu, lambda ways: 0)
        assert machine.failure is None
        if isinstance(operation, Rmw):
            call = programs[cpu][places[cpu]]
            mode = "write" if call.endswith("write") else "read"
            if call == "downgrade":
                reference.downgrade(cpu)
                places[cpu] += 1
            elif call.startswith("up"):
                reference.up(cpu, mode)
                places[cpu] += 1
            else:
                tries = call.startswith("trylock")
                taken = reference.down(cpu, mode, may_wait=not tries)
                if tries:
                    assert done[cpu][-1] == (call, taken)
                places[cpu] += 2 if tries and not taken else 1
        else:
            assert isinstance(operation, Await)
        state = rwsem_state(machine.memory.peek(sem.address))
        holders = [(state.writer, "write")] if state.writer is not None else []
        holders += [(reader, "read") for reader in state.readers]
        assert Counter(holders) == Counter(reference.holders)
        assert list(state.waiters) == [(waiter, mode == "write") for waiter, mode in reference.queue]
        assert state.writer is None or not state.readers, "mutual exclusion"
    assert machine.memory.peek(sem.address) in (0, RwsemState()), "whoever released last left it unlocked"


@settings(max_examples=60)
@given(st.lists(SECTIONS, min_size=3, max_size=3), st.integers(0, 1 << 32))
def test_nobody_starves(programs: list[list[str]], seed: int) -> None:
    """Sections that do not nest all end, whatever the schedule."""

    def start() -> Machine:
        machine, kernel = boot()
        sem = kernel.init_mm.mmap_lock
        machine.start([lock_calls(kernel.on(cpu), sem, calls, []) for cpu, calls in enumerate(programs)])
        return machine

    assert random_failures(start, 5) == set()


def contest(*programs: Sequence[str]) -> tuple[Machine, RwSemaphore]:
    machine, kernel = boot(cpus=len(programs))
    sem = kernel.init_mm.mmap_lock
    machine.start([lock_calls(kernel.on(cpu), sem, calls, []) for cpu, calls in enumerate(programs)])
    return machine, sem


def step(machine: Machine, *cpus: int) -> None:
    for cpu in cpus:
        machine.step(cpu, lambda ways: 0)


def test_a_waiting_writer_stops_new_readers() -> None:
    machine, sem = contest(["down_read", "up_read"], ["down_write", "up_write"], ["down_read", "up_read"])
    step(machine, 0, 1, 2)
    assert rwsem_state(machine.memory.peek(sem.address)) == RwsemState(None, (0,), ((1, True), (2, False)))
    assert list(machine.enabled()) == [0]
    step(machine, 0)
    assert list(machine.enabled()) == [1], "the writer came first"
    step(machine, 1, 1)
    assert list(machine.enabled()) == [2]


def test_a_trylock_fails_behind_a_waiting_writer() -> None:
    machine, sem = contest(["down_read", "up_read"], ["down_write", "up_write"], ["trylock", "up_read"])
    step(machine, 0, 1, 2)
    assert machine.pending(2) is None
    assert rwsem_state(machine.memory.peek(sem.address)).readers == (0,)


@pytest.mark.parametrize("held", [["down_read", "up_read"], ["down_write", "up_write"]])
def test_a_trylock_to_write_fails_where_anybody_holds_the_lock(held: list[str]) -> None:
    machine, sem = contest(held, ["trylock_write", "up_write"])
    step(machine, 0)
    before = machine.memory.peek(sem.address)
    step(machine, 1)
    assert machine.pending(1) is None
    assert machine.memory.peek(sem.address) == before
    machine, sem = contest(held, ["trylock_write", "up_write"])
    step(machine, 1)
    assert rwsem_state(machine.memory.peek(sem.address)) == RwsemState(1)


def test_a_reader_phase_wakes_the_readers_behind_a_writer_as_well() -> None:
    """rwsem_mark_wake(): where the first waiter is a reader, all readers of the queue are woken."""
    machine, sem = contest(*[["down_write", "up_write"], ["down_read"], ["down_write"], ["down_read"]])
    step(machine, 0, 1, 2, 3, 0)
    assert rwsem_state(machine.memory.peek(sem.address)) == RwsemState(None, (1, 3), ((2, True),))


def test_a_downgrade_lets_readers_in_and_no_writer() -> None:
    machine, sem = contest(*[["down_write", "downgrade", "up_read"], ["down_read"], ["down_write"], ["down_read"]])
    step(machine, 0, 1, 2, 3, 0)
    assert rwsem_state(machine.memory.peek(sem.address)) == RwsemState(None, (0, 1, 3), ((2, True),))
    machine, sem = contest(*[["down_write", "downgrade", "up_read"], ["down_write"], ["down_read"]])
    step(machine, 0, 1, 2, 0)
    assert rwsem_state(machine.memory.peek(sem.address)) == RwsemState(None, (0,), ((1, True), (2, False)))


def test_a_trylock_to_write_fails_beside_a_reader_and_behind_a_waiter() -> None:
    machine, sem = contest(["down_read", "up_read"], ["trylock_write", "up_write"])
    step(machine, 0, 1)
    assert machine.pending(1) is None
    assert rwsem_state(machine.memory.peek(sem.address)) == RwsemState(None, (0,))
    machine, sem = contest(["trylock_write", "up_write"])
    step(machine, 0)
    assert rwsem_state(machine.memory.peek(sem.address)) == RwsemState(0)


def test_a_nested_read_behind_a_waiting_writer_deadlocks() -> None:
    nested = ["down_read", "down_read", "up_read", "up_read"]

    def start() -> Machine:
        return contest(nested, ["down_write", "up_write"])[0]

    machine, kernel = boot(cpus=2)
    sem = kernel.init_mm.mmap_lock
    failure = run(
        machine,
        lock_calls(kernel.on(0), sem, nested, []),
        lock_calls(kernel.on(1), sem, ["down_write", "up_write"], []),
        agents=burst((0, 1), (1, 1), (0, 1)),
    )
    assert failure is not None
    assert failure.error == DEADLOCK
    assert failure.message == "CPU 0 in down_read waits for CPU 1, CPU 1 in down_write waits for CPU 0"
    errors = [e.failure.error for e in executions(start, 2) if e.failure is not None]
    assert set(errors) == {DEADLOCK}

    def alone() -> Machine:
        return contest(nested, nested)[0]

    assert {e.failure for e in executions(alone, 2)} == {None}, "without a writer, reads nest"


def test_a_writer_that_takes_the_lock_again_waits_for_itself() -> None:
    machine, kernel = boot(cpus=1)
    failure = run(machine, lock_calls(kernel, kernel.init_mm.mmap_lock, ["down_write", "down_read"], []))
    assert failure is not None
    assert failure.error == DEADLOCK
    assert failure.message == "CPU 0 in down_read waits for CPU 0"


def test_opposite_orders_of_two_semaphores_deadlock_in_a_cycle() -> None:
    machine, kernel = boot(cpus=2)
    one, two = kernel.init_mm.mmap_lock, kernel.mem_hotplug_lock

    def both(k: Kernel, first: RwSemaphore, second: RwSemaphore) -> Steps[None]:
        yield from down_write(k.cpu, first)
        yield from down_write(k.cpu, second)
        yield from up_write(k.cpu, second)
        yield from up_write(k.cpu, first)

    failure = run(machine, both(kernel.on(0), one, two), both(kernel.on(1), two, one), agents=[0, 1])
    assert failure is not None
    assert failure.error == DEADLOCK


@pytest.mark.parametrize(
    ("calls", "function", "mode"),
    [
        (["up_read"], "up_read", "reading"),
        (["up_write"], "up_write", "writing"),
        (["down_read", "up_write"], "up_write", "writing"),
        (["down_write", "up_read"], "up_read", "reading"),
        (["down_read", "up_read", "up_read"], "up_read", "reading"),
        (["down_read", "downgrade"], "downgrade_write", "writing"),
        (["down_write", "downgrade", "up_write"], "up_write", "writing"),
    ],
)
def test_unlock_without_lock(calls: list[str], function: str, mode: str) -> None:
    machine, kernel = boot(cpus=1)
    failure = run(machine, lock_calls(kernel, kernel.init_mm.mmap_lock, calls, []))
    assert_unlock_fails(failure, 0, function, mode)


def test_unlock_of_what_another_cpu_holds() -> None:
    for take, release, mode in (("down_read", "up_read", "reading"), ("down_write", "up_write", "writing")):
        machine, kernel = boot(cpus=2)
        sem = kernel.init_mm.mmap_lock
        failure = run(machine, lock_calls(kernel.on(0), sem, [take], []), lock_calls(kernel.on(1), sem, [release], []))
        assert_unlock_fails(failure, 1, release, mode)
        state = rwsem_state(machine.memory.peek(sem.address))
        assert state.writer == 0 or state.readers == (0,), "the owner keeps it"


def assert_unlock_fails(failure: Failure | None, cpu: int, function: str, mode: str) -> None:
    assert failure is not None
    assert (failure.error, failure.cpu, failure.function) == (UNLOCK_WITHOUT_LOCK, cpu, function)
    assert failure.message == f"CPU {cpu} does not hold init_mm.mmap_lock for {mode}"


@given(st.lists(SECTIONS, min_size=2, max_size=4), st.integers(0, 1 << 30))
def test_the_laws_of_locks(programs: list[list[str]], seed: int) -> None:
    calls = [[OPERATIONS[name] for name in names] for names in programs]
    machine = laws.run(lambda words, name: RwSemaphore(words.lock_word(name), name), calls, seed)
    assert machine.failure is None
