"""spinlock_t, raw_spinlock_t and struct mutex: one owner, acquire and release, and no more (kernel/locking/)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.locking.lock import Lock, LockAction, OfCpu, WaitType
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Order, Rmw, Steps

UNLOCKED = 0


@dataclass(frozen=True, slots=True)
class ExclusiveLock(Lock):
    """A spinlock, a raw spinlock or a mutex: the functions that take it say which. Its word holds 0, or an `Owner`."""


class Owner(NamedTuple):
    """The CPU that holds the lock."""

    cpu: int

    def renamed(self, names: Sequence[int]) -> Owner:
        """Return it after CPU `i` has become CPU `names[i]`."""
        return Owner(names[self.cpu])

    def left(self, name: str) -> str:
        """Return that the lock is still held."""
        return f"{name} is still held"

    def held_by(self, cpu: int) -> bool:
        """Return whether a CPU holds the lock."""
        return cpu == self.cpu

    def in_words(self) -> str:
        """Return who holds it."""
        return f"held by CPU {self.cpu}"


@dataclass(frozen=True, slots=True)
class _Unlocked:
    def __call__(self, owner: Owner | int) -> bool:
        return owner == UNLOCKED

    def blocked_by(self, owner: Owner | int) -> tuple[int, ...]:
        return (owner.cpu,) if isinstance(owner, Owner) else ()


@dataclass(frozen=True, slots=True)
class _Take(OfCpu):
    wait_type: WaitType
    waits: ClassVar[bool] = True

    @property
    def may_sleep(self) -> bool:
        return self.wait_type is WaitType.SLEEP

    @property
    def atomic(self) -> int:
        return int(not self.may_sleep)

    def __call__(self, old: Owner | int) -> Owner:
        return _owner(self.cpu)

    def action(self, old: Owner | int) -> LockAction:
        return LockAction(True)

    def unhindered(self) -> int:
        return UNLOCKED


@dataclass(frozen=True, slots=True)
class _Release(OfCpu):
    wait_type: WaitType

    @property
    def atomic(self) -> int:
        return -int(self.wait_type is not WaitType.SLEEP)

    def __call__(self, old: Owner | int) -> int:
        return UNLOCKED

    def action(self, old: Owner | int) -> LockAction:
        return LockAction(True, release=True)

    def unhindered(self) -> Owner:
        return _owner(self.cpu)


# one object each for a CPU: making them anew takes longer than what they do
_owner, _take, _release = cache(Owner), cache(_Take), cache(_Release)
_UNLOCKED = _Unlocked()


# each function yields its own operation, so that a story names it


def spin_lock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Take a spinlock; enabled only while it is free, which stands for the spinning."""
    yield _taking(cpu, lock, WaitType.CONFIG)


def spin_unlock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Release a spinlock. Raises ModelError unlock-without-lock."""
    owner = yield _releasing(cpu, lock, WaitType.CONFIG)
    _check_owner(owner, cpu, lock)


def raw_spin_lock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Take a raw spinlock, which spins with PREEMPT_RT as well: under it nothing may be taken that sleeps there."""
    yield _taking(cpu, lock, WaitType.SPIN)


def raw_spin_unlock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Release a raw spinlock. Raises ModelError unlock-without-lock."""
    owner = yield _releasing(cpu, lock, WaitType.SPIN)
    _check_owner(owner, cpu, lock)


def mutex_lock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Take a mutex; enabled only while it is free."""
    yield _taking(cpu, lock, WaitType.SLEEP)


def mutex_unlock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Release a mutex. Raises ModelError unlock-without-lock."""
    owner = yield _releasing(cpu, lock, WaitType.SLEEP)
    _check_owner(owner, cpu, lock)


def _taking(cpu: int, lock: ExclusiveLock, wait_type: WaitType) -> Rmw:
    return Rmw(lock.address, _take(cpu, wait_type), Order.ACQUIRE, _UNLOCKED)


def _releasing(cpu: int, lock: ExclusiveLock, wait_type: WaitType) -> Rmw:
    return Rmw(lock.address, _release(cpu, wait_type), Order.RELEASE)


def _check_owner(owner: object, cpu: int, lock: ExclusiveLock) -> None:
    if owner != _owner(cpu):
        raise ModelError(UNLOCK_WITHOUT_LOCK, f"{lock.name} is not held by CPU {cpu}", address=lock.address)
