"""struct percpu_rw_semaphore: cheap readers, and writers that wait for them (kernel/locking/percpu-rwsem.c, Linux 7.3).

A writer sets `block`, which keeps new readers and other writers away, and then waits until the readers that are in have
left. So a reader that asks a second time, after a writer has come, waits for that writer, who waits for it. Whoever has
to wait queues; a writer that leaves lets in the readers at the head of the queue, and the first writer behind them.

The per-CPU counts and `block` are one word, which each call changes in one atomic step; in the kernel it takes the
barriers A to D of that file, and a grace period where no reader came by the slow path, to make it look so. What the
grace period costs the writer is left out, and so is stealing: who comes between a release and the wake-up that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.locking.lock import Lock, LockAction, OfCpu, Words, readers_and_writers
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Await, Barrier, Fence, Order, Rmw, Steps


class PercpuRwsemState(NamedTuple):
    """What the word holds: the CPU that has set `block` (or None), one entry for each read lock, who waits in order.

    The writer has the semaphore once there are no readers. Nobody waits where `block` is not set.
    """

    block: int | None = None
    readers: tuple[int, ...] = ()
    waiters: tuple[tuple[int, bool], ...] = ()
    """CPU, and whether it waits to write."""

    def renamed(self, names: Sequence[int]) -> PercpuRwsemState:
        """Return it after CPU `i` has become CPU `names[i]`."""
        return PercpuRwsemState(
            None if self.block is None else names[self.block],
            tuple(sorted(names[cpu] for cpu in self.readers)),
            tuple((names[cpu], writes) for cpu, writes in self.waiters),
        )

    def left(self, name: str) -> str:
        """Return that the semaphore is still held, where it is."""
        return "" if self == UNLOCKED else f"{name} is still held"

    def held_by(self, cpu: int) -> bool:
        """Return whether a CPU reads, or has set `block`."""
        return cpu == self.block or cpu in self.readers

    def in_words(self) -> str:
        """Return who has it and who waits."""
        does = "waits for the readers" if self.readers else "writes"
        writer = "" if self.block is None else f"CPU {self.block} {does}"
        return readers_and_writers(writer, self.readers, self.waiters)


UNLOCKED = PercpuRwsemState()


@dataclass(frozen=True, slots=True)
class PercpuRwSemaphore(Lock):
    """A semaphore. Its word holds 0, or a `PercpuRwsemState`."""


def percpu_rwsem_state(value: object) -> PercpuRwsemState:
    """Return what the word holds; memory starts as 0, which is an unlocked semaphore."""
    return value if isinstance(value, PercpuRwsemState) else UNLOCKED


def _wake(sem: PercpuRwsemState) -> PercpuRwsemState:
    """Let in the readers at the head of the queue, and the first writer behind them (percpu_rwsem_wake_function)."""
    readers, waiters = sem.readers, sem.waiters
    while waiters:
        (cpu, writes), waiters = waiters[0], waiters[1:]
        if writes:
            return PercpuRwsemState(cpu, readers, waiters)
        readers = tuple(sorted((*readers, cpu)))
    return PercpuRwsemState(None, readers, ())


@dataclass(frozen=True, slots=True)
class _DownRead(OfCpu):
    trylock: bool = False

    @property
    def waits(self) -> bool:
        return not self.trylock

    @property
    def may_sleep(self) -> bool:
        return not self.trylock

    def __call__(self, value: object) -> PercpuRwsemState:
        sem = percpu_rwsem_state(value)
        if sem.block is None:
            return sem._replace(readers=tuple(sorted((*sem.readers, self.cpu))))
        return sem if self.trylock else sem._replace(waiters=(*sem.waiters, (self.cpu, False)))

    def action(self, old: object) -> LockAction:
        blocked = percpu_rwsem_state(old).block is not None
        return LockAction(False, queued=blocked and not self.trylock, failed=blocked and self.trylock)

    def unhindered(self) -> PercpuRwsemState:
        return UNLOCKED


@dataclass(frozen=True, slots=True)
class _UpRead(OfCpu):
    def __call__(self, value: object) -> PercpuRwsemState:
        sem = percpu_rwsem_state(value)
        if self.cpu not in sem.readers:
            return sem
        place = sem.readers.index(self.cpu)
        return sem._replace(readers=sem.readers[:place] + sem.readers[place + 1 :])

    def action(self, old: object) -> LockAction:
        return LockAction(False, release=True)

    def unhindered(self) -> PercpuRwsemState:
        return PercpuRwsemState(readers=(self.cpu,))


@dataclass(frozen=True, slots=True)
class _DownWrite(OfCpu):
    waits: ClassVar[bool] = True
    may_sleep: ClassVar[bool] = True

    def __call__(self, value: object) -> PercpuRwsemState:
        sem = percpu_rwsem_state(value)
        return (
            sem._replace(block=self.cpu)
            if sem.block is None
            else sem._replace(waiters=(*sem.waiters, (self.cpu, True)))
        )

    def action(self, old: object) -> LockAction:
        return LockAction(True, queued=percpu_rwsem_state(old) != UNLOCKED)

    def unhindered(self) -> PercpuRwsemState:
        return UNLOCKED


@dataclass(frozen=True, slots=True)
class _UpWrite(OfCpu):
    def __call__(self, value: object) -> PercpuRwsemState:
        sem = percpu_rwsem_state(value)
        return _wake(sem) if sem.block == self.cpu else sem

    def action(self, old: object) -> LockAction:
        return LockAction(True, release=True)

    def unhindered(self) -> PercpuRwsemState:
        return PercpuRwsemState(block=self.cpu)


@dataclass(frozen=True, slots=True)
class _LetIn(OfCpu):
    """Holds once a CPU that queued, or that has set `block`, has the semaphore."""

    write: bool

    def __call__(self, value: object) -> bool:
        return not self.blocked_by(value)

    def blocked_by(self, value: object) -> tuple[int, ...]:
        """Return the readers that a writer waits for, or else who has set `block` and who is ahead in the queue."""
        sem = percpu_rwsem_state(value)
        cpus = [cpu for cpu, _ in sem.waiters]
        if self.cpu in cpus:
            assert sem.block is not None
            return (sem.block, *cpus[: cpus.index(self.cpu)])
        return sem.readers if self.write else ()

    def action(self, value: object) -> LockAction:
        return LockAction(self.write)

    def why(self, value: object, blocker: int) -> str:
        """Return whether readers are in, a writer is, or a waiter is ahead."""
        sem = percpu_rwsem_state(value)
        waiting = dict(sem.waiters)
        wants = "write" if self.write else "read"
        if self.cpu not in waiting:
            return f"it is to write as soon as the readers have left, and CPU {blocker} reads"
        if blocker == sem.block:
            return f"it is queued to {wants}, and CPU {blocker} keeps it away, which writes or is to write next"
        return (
            f"it is queued to {wants}, behind CPU {blocker}, which waits to {'write' if waiting[blocker] else 'read'}"
        )


# one object each for a CPU: making them anew takes longer than what they do
_down_read, _up_read = cache(_DownRead), cache(_UpRead)
_down_write, _up_write, _let_in = cache(_DownWrite), cache(_UpWrite), cache(_LetIn)


def _not_held(cpu: int, sem: PercpuRwSemaphore, mode: str) -> ModelError:
    return ModelError(UNLOCK_WITHOUT_LOCK, f"CPU {cpu} does not hold {sem.name} for {mode}", address=sem.address)


def percpu_init_rwsem(words: Words, name: str) -> PercpuRwSemaphore:
    """Return a new semaphore, unlocked. For `attach`, whose `boot` makes words."""
    return PercpuRwSemaphore(words.lock_word(name), name)


def percpu_down_read(cpu: int, sem: PercpuRwSemaphore) -> Steps[None]:
    """Take the semaphore for reading, after the writers that have come before."""
    old = yield Rmw(sem.address, _down_read(cpu), Order.ACQUIRE)
    if percpu_rwsem_state(old).block is not None:
        yield Await(sem.address, _let_in(cpu, False), Order.ACQUIRE)


def percpu_down_read_trylock(cpu: int, sem: PercpuRwSemaphore) -> Steps[bool]:
    """Take the semaphore for reading if that is possible at once; return whether it was."""
    old = yield Rmw(sem.address, _down_read(cpu, True), Order.ACQUIRE)
    return percpu_rwsem_state(old).block is None


def percpu_up_read(cpu: int, sem: PercpuRwSemaphore) -> Steps[None]:
    """Release a semaphore taken for reading. Raises ModelError unlock-without-lock."""
    old = yield Rmw(sem.address, _up_read(cpu), Order.RELEASE)
    if cpu not in percpu_rwsem_state(old).readers:
        raise _not_held(cpu, sem, "reading")


def percpu_down_write(cpu: int, sem: PercpuRwSemaphore) -> Steps[None]:
    """Take the semaphore for writing: keep new readers away, and wait until those that are in have left."""
    old = yield Rmw(sem.address, _down_write(cpu), Order.ACQUIRE_RELEASE)
    if percpu_rwsem_state(old) != UNLOCKED:
        yield Await(sem.address, _let_in(cpu, True), Order.ACQUIRE)
    # readers_active_check(): smp_mb(), "C matches B"
    yield Fence(Barrier.DMB_ISH)


def percpu_up_write(cpu: int, sem: PercpuRwSemaphore) -> Steps[None]:
    """Release a semaphore taken for writing. Raises ModelError unlock-without-lock."""
    old = yield Rmw(sem.address, _up_write(cpu), Order.RELEASE)
    if percpu_rwsem_state(old).block != cpu:
        raise _not_held(cpu, sem, "writing")
