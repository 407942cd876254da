"""struct rw_semaphore: many readers or one writer, and no starved writer (kernel/locking/rwsem.c, Linux 6.12).

The whole semaphore is one word that each call changes in one atomic step, the fast path's atomic operation and the
slow path's critical section under wait_lock alike. Who cannot have the lock queues; whoever releases it grants it to
the head of the queue, and if that is a reader to all readers of the queue together. A reader queues behind a waiting
writer even while other readers hold the lock: that is what makes a nested read lock deadlock, in 7.3 as well
(rwsem_down_read_slowpath steals nothing from readers).

Lock stealing, optimistic spinning and handoff are left out: they change only who comes first among waiters. Whoever
takes a free lock ahead of one that waits could have taken it before that one called down_read() or down_write(): a
waiter does nothing between its call and its turn. tests/kernel/locking/test_rwsem_stealing.py has verdicts with
stealing beside those without. One thing is left: between a release and the turn of who waits a trylock fails, though
nobody has the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.locking.lock import Lock, LockAction, OfCpu, readers_and_writers
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Await, Order, Rmw, Steps


class RwsemState(NamedTuple):
    """What the word holds: the CPU that writes (or None), those that read (one entry a lock), who waits in order."""

    writer: int | None = None
    readers: tuple[int, ...] = ()
    waiters: tuple[tuple[int, bool], ...] = ()
    """CPU, and whether it waits to write."""

    def renamed(self, names: Sequence[int]) -> RwsemState:
        """Return it after CPU `i` has become CPU `names[i]`."""
        return RwsemState(
            None if self.writer is None else names[self.writer],
            tuple(names[cpu] for cpu in self.readers),
            tuple((names[cpu], writes) for cpu, writes in self.waiters),
        )

    def left(self, name: str) -> str:
        """Return that the semaphore is still held, or waited for, where it is."""
        return "" if self == UNLOCKED else f"{name} is still held"

    def held_by(self, cpu: int) -> bool:
        """Return whether a CPU has the semaphore, to write or to read."""
        return cpu == self.writer or cpu in self.readers

    def in_words(self) -> str:
        """Return who has it and who waits."""
        writer = "" if self.writer is None else f"CPU {self.writer} writes"
        return readers_and_writers(writer, self.readers, self.waiters)


UNLOCKED = RwsemState()


@dataclass(frozen=True, slots=True)
class RwSemaphore(Lock):
    """A semaphore. Its word holds 0, or a `RwsemState`."""


def rwsem_state(value: object) -> RwsemState:
    """Return what a word holds; memory starts as 0, which is an unlocked semaphore."""
    return value if isinstance(value, RwsemState) else UNLOCKED


def _grant(sem: RwsemState) -> RwsemState:
    """Hand the lock to the head of the queue (rwsem_mark_wake).

    That is one writer, or, where a reader is first, all readers that wait, those behind a writer as well: the reader
    phase of a phase-fair lock.
    """
    if sem.writer is not None or not sem.waiters:
        return sem
    cpu, writes = sem.waiters[0]
    if writes:
        return sem if sem.readers else RwsemState(cpu, (), sem.waiters[1:])
    woken = tuple(cpu for cpu, writes in sem.waiters if not writes)
    return RwsemState(None, (*sem.readers, *woken), tuple(waiter for waiter in sem.waiters if waiter[1]))


def _can_read(sem: RwsemState) -> bool:
    # RWSEM_READ_FAILED_MASK: a writer, or anybody waiting
    return sem.writer is None and not sem.waiters


def _can_write(sem: RwsemState) -> bool:
    return sem == UNLOCKED


@dataclass(frozen=True, slots=True)
class _Down(OfCpu):
    """Take the lock, or queue for it unless it is a trylock."""

    write: bool
    trylock: bool = False

    @property
    def waits(self) -> bool:
        return not self.trylock

    @property
    def may_sleep(self) -> bool:
        return not self.trylock

    def __call__(self, value: object) -> RwsemState:
        sem = rwsem_state(value)
        writer, readers, waiters = sem
        if self.write and _can_write(sem):
            return RwsemState(self.cpu, (), ())
        if not self.write and _can_read(sem):
            return RwsemState(writer, (*readers, self.cpu), waiters)
        return sem if self.trylock else RwsemState(writer, readers, (*waiters, (self.cpu, self.write)))

    def action(self, old: object) -> LockAction:
        sem = rwsem_state(old)
        free = _can_write(sem) if self.write else _can_read(sem)
        return LockAction(self.write, queued=not free and not self.trylock, failed=not free and self.trylock)

    def unhindered(self) -> RwsemState:
        return UNLOCKED


@dataclass(frozen=True, slots=True)
class _Up(OfCpu):
    """Release the lock and grant it to who waits; no change where this CPU does not hold it."""

    write: bool

    def __call__(self, value: object) -> RwsemState:
        sem = rwsem_state(value)
        if self.write:
            return _grant(RwsemState(None, sem.readers, sem.waiters)) if sem.writer == self.cpu else sem
        if self.cpu not in sem.readers:
            return sem
        place = sem.readers.index(self.cpu)
        return _grant(RwsemState(sem.writer, sem.readers[:place] + sem.readers[place + 1 :], sem.waiters))

    def action(self, old: object) -> LockAction:
        return LockAction(self.write, release=True)

    def unhindered(self) -> RwsemState:
        return RwsemState(writer=self.cpu) if self.write else RwsemState(readers=(self.cpu,))


@dataclass(frozen=True, slots=True)
class _Downgrade(OfCpu):
    """Have the lock to read that was had to write, and let in the readers that wait, unless a writer is ahead of all.

    No change where this CPU does not have it to write.
    """

    def __call__(self, value: object) -> RwsemState:
        sem = rwsem_state(value)
        return _grant(RwsemState(None, (self.cpu,), sem.waiters)) if sem.writer == self.cpu else sem

    def action(self, old: object) -> LockAction:
        return LockAction(True, release=True, downgrade=True)

    def unhindered(self) -> RwsemState:
        return RwsemState(writer=self.cpu)


@dataclass(frozen=True, slots=True)
class _Granted(OfCpu):
    """Holds once a CPU is no longer in the queue."""

    def __call__(self, value: object) -> bool:
        return all(cpu != self.cpu for cpu, _ in rwsem_state(value).waiters)

    def blocked_by(self, value: object) -> tuple[int, ...]:
        """Return the holder, and for a reader the writer that it queued behind."""
        sem = rwsem_state(value)
        cpus = [cpu for cpu, _ in sem.waiters]
        if self.cpu not in cpus:
            return ()
        place = cpus.index(self.cpu)
        ahead = tuple(cpu for cpu, _ in sem.waiters[:place])
        if sem.writer is not None:
            return (sem.writer, *ahead)
        return (*ahead, *sem.readers) if sem.waiters[place][1] else ahead

    def action(self, value: object) -> LockAction:
        return LockAction(rwsem_state(value).writer == self.cpu)

    def why(self, value: object, blocker: int) -> str:
        """Return who has the semaphore, or which waiter is ahead."""
        sem = rwsem_state(value)
        wants = "write" if dict(sem.waiters)[self.cpu] else "read"
        if blocker == sem.writer:
            return f"it is queued to {wants}, and CPU {blocker} holds it for writing"
        cpus = [cpu for cpu, _ in sem.waiters]
        if blocker in cpus[: cpus.index(self.cpu)]:
            does = "write" if dict(sem.waiters)[blocker] else "read"
            return f"it is queued to {wants}, behind CPU {blocker}, which waits to {does}"
        return f"it is queued to {wants}, and CPU {blocker} holds it for reading"


# one object each for a CPU: making them anew takes longer than what they do
_down, _up, _downgrade, _granted = cache(_Down), cache(_Up), cache(_Downgrade), cache(_Granted)


def _not_held(cpu: int, sem: RwSemaphore, mode: str) -> ModelError:
    return ModelError(UNLOCK_WITHOUT_LOCK, f"CPU {cpu} does not hold {sem.name} for {mode}", address=sem.address)


def down_read(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[None]:
    """Take the lock for reading, after whoever writes or waits."""
    old = yield Rmw(sem.address, _down(cpu, False), Order.ACQUIRE, point=point)
    if not _can_read(rwsem_state(old)):
        yield Await(sem.address, _granted(cpu), Order.ACQUIRE, point)


def down_read_trylock(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[bool]:
    """Take the lock for reading if that is possible at once; return whether it was."""
    old = yield Rmw(sem.address, _down(cpu, False, True), Order.ACQUIRE, point=point)
    return _can_read(rwsem_state(old))


def up_read(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[None]:
    """Release a lock taken for reading. Raises ModelError unlock-without-lock."""
    old = yield Rmw(sem.address, _up(cpu, False), Order.RELEASE, point=point)
    if cpu not in rwsem_state(old).readers:
        raise _not_held(cpu, sem, "reading")


def down_write(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[None]:
    """Take the lock for writing, after whoever holds it or waits."""
    old = yield Rmw(sem.address, _down(cpu, True), Order.ACQUIRE, point=point)
    if not _can_write(rwsem_state(old)):
        yield Await(sem.address, _granted(cpu), Order.ACQUIRE, point)


def down_write_trylock(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[bool]:
    """Take the lock for writing if that is possible at once; return whether it was."""
    old = yield Rmw(sem.address, _down(cpu, True, True), Order.ACQUIRE, point=point)
    return _can_write(rwsem_state(old))


def downgrade_write(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[None]:
    """Keep for reading what was taken for writing. Raises ModelError unlock-without-lock."""
    old = yield Rmw(sem.address, _downgrade(cpu), Order.RELEASE, point=point)
    if rwsem_state(old).writer != cpu:
        raise _not_held(cpu, sem, "writing")


def up_write(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[None]:
    """Release a lock taken for writing. Raises ModelError unlock-without-lock."""
    old = yield Rmw(sem.address, _up(cpu, True), Order.RELEASE, point=point)
    if rwsem_state(old).writer != cpu:
        raise _not_held(cpu, sem, "writing")
