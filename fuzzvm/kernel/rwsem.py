"""struct rw_semaphore: many readers or one writer, and no starved writer (kernel/locking/rwsem.c, Linux 6.12).

The whole semaphore is one word that each call changes in one atomic step, the fast path's atomic operation and the
slow path's critical section under wait_lock alike. Who cannot have the lock queues; whoever releases it grants it to
the head of the queue, and if that is a reader to all readers of the queue together. A reader queues behind a waiting
writer even while other readers hold the lock: that is what makes a nested read lock deadlock. Lock stealing and
optimistic spinning are left out; they change only who comes first among waiters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Await, Order, Rmw, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


class RwsemState(NamedTuple):
    """What the word holds: the CPU that writes (or None), those that read (one entry a lock), who waits in order."""

    writer: int | None = None
    readers: tuple[int, ...] = ()
    waiters: tuple[tuple[int, bool], ...] = ()
    """CPU, and whether it waits to write."""


UNLOCKED = RwsemState()


@dataclass(frozen=True, slots=True)
class RwSemaphore:
    """A semaphore's word and name."""

    address: Address
    name: str


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
class _Down:
    """Take the lock, or queue for it unless it is a trylock."""

    cpu: int
    write: bool
    trylock: bool = False

    def __call__(self, value: object) -> RwsemState:
        sem = rwsem_state(value)
        writer, readers, waiters = sem
        if self.write and _can_write(sem):
            return RwsemState(self.cpu, (), ())
        if not self.write and _can_read(sem):
            return RwsemState(writer, (*readers, self.cpu), waiters)
        return sem if self.trylock else RwsemState(writer, readers, (*waiters, (self.cpu, self.write)))


@dataclass(frozen=True, slots=True)
class _Up:
    """Release the lock and grant it to who waits; no change where this CPU does not hold it."""

    cpu: int
    write: bool

    def __call__(self, value: object) -> RwsemState:
        sem = rwsem_state(value)
        if self.write:
            return _grant(RwsemState(None, sem.readers, sem.waiters)) if sem.writer == self.cpu else sem
        if self.cpu not in sem.readers:
            return sem
        place = sem.readers.index(self.cpu)
        return _grant(RwsemState(sem.writer, sem.readers[:place] + sem.readers[place + 1 :], sem.waiters))


@dataclass(frozen=True, slots=True)
class _Granted:
    """Holds once a CPU is no longer in the queue."""

    cpu: int

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


# one object each for a CPU: making them anew takes longer than what they do
_down, _up, _granted = cache(_Down), cache(_Up), cache(_Granted)


class RwsemUpdate(NamedTuple):
    """What an update does: releases the semaphore or takes it, to write or to read, waiting for it or not."""

    release: bool
    write: bool
    trylock: bool = False


def kind_of(update: object) -> RwsemUpdate | None:
    """Return what the update of an Rmw does to a semaphore, or None where it is no update of one."""
    if isinstance(update, _Down):
        return RwsemUpdate(False, update.write, update.trylock)
    return RwsemUpdate(True, update.write) if isinstance(update, _Up) else None


def is_free_for(value: object, *, write: bool) -> bool:
    """Return whether who finds the word so has the semaphore at once."""
    return _can_write(rwsem_state(value)) if write else _can_read(rwsem_state(value))


def is_grant(condition: object) -> bool:
    """Return whether a wait is for a semaphore to be granted."""
    return isinstance(condition, _Granted)


def granted_to_write(condition: object, value: object) -> bool:
    """Return whether the wait that the word's value ends was one to write."""
    return isinstance(condition, _Granted) and rwsem_state(value).writer == condition.cpu


def down_read(k: Kernel, sem: RwSemaphore) -> Steps[None]:
    """Take the lock for reading, after whoever writes or waits."""
    old = yield Rmw(sem.address, _down(k.cpu, False), Order.ACQUIRE)
    if not _can_read(rwsem_state(old)):
        yield Await(sem.address, _granted(k.cpu), Order.ACQUIRE)


def down_read_trylock(k: Kernel, sem: RwSemaphore) -> Steps[bool]:
    """Take the lock for reading if that is possible at once; return whether it was."""
    old = yield Rmw(sem.address, _down(k.cpu, False, True), Order.ACQUIRE)
    return _can_read(rwsem_state(old))


def up_read(k: Kernel, sem: RwSemaphore) -> Steps[None]:
    """Release a lock taken for reading. Raises ModelError unlock-without-lock."""
    old = yield Rmw(sem.address, _up(k.cpu, False), Order.RELEASE)
    if k.cpu not in rwsem_state(old).readers:
        raise ModelError(UNLOCK_WITHOUT_LOCK, f"CPU {k.cpu} does not hold {sem.name} for reading", address=sem.address)


def down_write(k: Kernel, sem: RwSemaphore) -> Steps[None]:
    """Take the lock for writing, after whoever holds it or waits."""
    old = yield Rmw(sem.address, _down(k.cpu, True), Order.ACQUIRE)
    if not _can_write(rwsem_state(old)):
        yield Await(sem.address, _granted(k.cpu), Order.ACQUIRE)


def up_write(k: Kernel, sem: RwSemaphore) -> Steps[None]:
    """Release a lock taken for writing. Raises ModelError unlock-without-lock."""
    old = yield Rmw(sem.address, _up(k.cpu, True), Order.RELEASE)
    if rwsem_state(old).writer != k.cpu:
        raise ModelError(UNLOCK_WITHOUT_LOCK, f"CPU {k.cpu} does not hold {sem.name} for writing", address=sem.address)
