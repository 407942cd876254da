"""spinlock_t and struct mutex: one owner, acquire and release, and no more (kernel/locking/)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Order, Rmw, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

UNLOCKED = 0


@dataclass(frozen=True, slots=True)
class ExclusiveLock:
    """A spinlock or a mutex. Its word holds 0, or the owner's CPU number plus one."""

    address: Address
    name: str


@dataclass(frozen=True, slots=True)
class _Unlocked:
    def __call__(self, owner: int) -> bool:
        return owner == UNLOCKED

    def blocked_by(self, owner: int) -> tuple[int, ...]:
        return () if owner == UNLOCKED else (owner - 1,)


@dataclass(frozen=True, slots=True)
class _SetOwner:
    owner: int

    def __call__(self, old: int) -> int:
        return self.owner


# one object for each owner: making them anew takes longer than what they do
_set_owner = cache(_SetOwner)
_UNLOCKED = _Unlocked()


def sets_owner(update: object) -> bool | None:
    """Return whether the update of an Rmw takes a lock (True) or releases it (False); None where it does neither."""
    return update.owner != UNLOCKED if isinstance(update, _SetOwner) else None


def _lock(k: Kernel, lock: ExclusiveLock) -> Steps[None]:
    yield Rmw(lock.address, _set_owner(k.cpu + 1), Order.ACQUIRE, _UNLOCKED)


def _unlock(k: Kernel, lock: ExclusiveLock) -> Steps[None]:
    owner = yield Rmw(lock.address, _set_owner(UNLOCKED), Order.RELEASE)
    if owner != k.cpu + 1:
        raise ModelError(UNLOCK_WITHOUT_LOCK, f"{lock.name} is not held by CPU {k.cpu}", address=lock.address)


def spin_lock(k: Kernel, lock: ExclusiveLock) -> Steps[None]:
    """Take a spinlock; enabled only while it is free, which stands for the spinning."""
    yield from _lock(k, lock)


def spin_unlock(k: Kernel, lock: ExclusiveLock) -> Steps[None]:
    """Release a spinlock. Raises ModelError unlock-without-lock."""
    yield from _unlock(k, lock)


def mutex_lock(k: Kernel, lock: ExclusiveLock) -> Steps[None]:
    """Take a mutex; enabled only while it is free, which stands for the sleep."""
    yield from _lock(k, lock)


def mutex_unlock(k: Kernel, lock: ExclusiveLock) -> Steps[None]:
    """Release a mutex. Raises ModelError unlock-without-lock."""
    yield from _unlock(k, lock)
