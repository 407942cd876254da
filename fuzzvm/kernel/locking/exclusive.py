"""spinlock_t and struct mutex: one owner, acquire and release, and no more (kernel/locking/)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.locking.lock import Lock, LockAction, OfCpu
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Order, Rmw, Steps

UNLOCKED = 0


@dataclass(frozen=True, slots=True)
class ExclusiveLock(Lock):
    """A spinlock or a mutex. Its word holds 0, or an `Owner`."""


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
    spins: bool
    waits: ClassVar[bool] = True

    @property
    def may_sleep(self) -> bool:
        return not self.spins

    @property
    def atomic(self) -> int:
        return int(self.spins)

    def __call__(self, old: Owner | int) -> Owner:
        return _owner(self.cpu)

    def action(self, old: Owner | int) -> LockAction:
        return LockAction(True)

    def unhindered(self) -> int:
        return UNLOCKED


@dataclass(frozen=True, slots=True)
class _Release(OfCpu):
    spins: bool

    @property
    def atomic(self) -> int:
        return -int(self.spins)

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
    yield _taking(cpu, lock, spins=True)


def spin_unlock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Release a spinlock. Raises ModelError unlock-without-lock."""
    owner = yield _releasing(cpu, lock, spins=True)
    _check_owner(owner, cpu, lock)


def mutex_lock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Take a mutex; enabled only while it is free."""
    yield _taking(cpu, lock, spins=False)


def mutex_unlock(cpu: int, lock: ExclusiveLock) -> Steps[None]:
    """Release a mutex. Raises ModelError unlock-without-lock."""
    owner = yield _releasing(cpu, lock, spins=False)
    _check_owner(owner, cpu, lock)


def _taking(cpu: int, lock: ExclusiveLock, *, spins: bool) -> Rmw:
    return Rmw(lock.address, _take(cpu, spins), Order.ACQUIRE, _UNLOCKED)


def _releasing(cpu: int, lock: ExclusiveLock, *, spins: bool) -> Rmw:
    return Rmw(lock.address, _release(cpu, spins), Order.RELEASE)


def _check_owner(owner: object, cpu: int, lock: ExclusiveLock) -> None:
    if owner != _owner(cpu):
        raise ModelError(UNLOCK_WITHOUT_LOCK, f"{lock.name} is not held by CPU {cpu}", address=lock.address)
