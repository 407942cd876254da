"""mmap_lock of a struct mm_struct (include/linux/mmap_lock.h).

Its operations have points by what the lock is taken for, which is the `role` of the kernel that takes it, unless the
caller says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fuzzvm.kernel.locking.rwsem import (
    RwSemaphore,
    down_read,
    down_read_trylock,
    down_write,
    down_write_trylock,
    downgrade_write,
    up_read,
    up_write,
)
from fuzzvm.machine.ops import Address, Annotation, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


class Role(NamedTuple):
    """What a mmap_lock is taken for: the points of taking it, of releasing it, and of asserting that it is held."""

    lock: str
    unlock: str
    assertion: str = ""


WALK = Role("walk-lock", "walk-unlock", "walk-assertion")
WALK_BESIDE = Role("walk-init-lock", "walk-init-unlock", "walk-init-assertion")
"""What the hooks of a walk take, beside the lock of the mm that is walked."""
PROMOTION = Role("promotion-lock", "promotion-unlock")
FREE = Role("free-lock", "free-unlock")
COLLAPSE = Role("collapse-lock", "collapse-unlock")
ATTRIBUTES = Role("attributes-lock", "attributes-unlock")
LOOKUP = Role("lookup-lock", "lookup-unlock")
REMAP = Role("remap-lock", "remap-unlock")


@dataclass(frozen=True, slots=True)
class Mm:
    """The parts of struct mm_struct that a walk needs: the root table and the lock."""

    name: str
    pgd: Address
    mmap_lock: RwSemaphore


@dataclass(frozen=True, slots=True)
class AssertWriteLocked(Annotation):
    """mmap_assert_write_locked(): this CPU must hold the lock for writing here."""

    lock: RwSemaphore
    point: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class AssertLocked(Annotation):
    """mmap_assert_locked(): this CPU must hold the lock here, for reading or for writing."""

    lock: RwSemaphore
    point: str = field(default="", repr=False, compare=False)


def mmap_read_lock(k: Kernel, mm: Mm, role: Role | None = None) -> Steps[None]:
    """Take mm's mmap_lock for reading."""
    yield from down_read(k.cpu, mm.mmap_lock, (role or k.role).lock)


def mmap_read_trylock(k: Kernel, mm: Mm, role: Role | None = None) -> Steps[bool]:
    """Take mm's mmap_lock for reading if that is possible at once; return whether it was."""
    return (yield from down_read_trylock(k.cpu, mm.mmap_lock, (role or k.role).lock))


def mmap_read_unlock(k: Kernel, mm: Mm, role: Role | None = None) -> Steps[None]:
    """Release mm's mmap_lock taken for reading."""
    yield from up_read(k.cpu, mm.mmap_lock, (role or k.role).unlock)


def mmap_write_lock(k: Kernel, mm: Mm, role: Role | None = None) -> Steps[None]:
    """Take mm's mmap_lock for writing."""
    yield from down_write(k.cpu, mm.mmap_lock, (role or k.role).lock)


def mmap_write_trylock(k: Kernel, mm: Mm, role: Role | None = None) -> Steps[bool]:
    """Take mm's mmap_lock for writing if that is possible at once; return whether it was.

    Linux 6.12 and 7.3 call down_write_trylock(&mm->mmap_lock) where they want this; <linux/mmap_lock.h> has no
    function for it.
    """
    return (yield from down_write_trylock(k.cpu, mm.mmap_lock, (role or k.role).lock))


def mmap_write_downgrade(k: Kernel, mm: Mm, role: Role | None = None) -> Steps[None]:
    """Keep mm's mmap_lock for reading that was taken for writing; it is released by mmap_read_unlock()."""
    yield from downgrade_write(k.cpu, mm.mmap_lock, (role or k.role).unlock)


def mmap_write_lock_nested(k: Kernel, mm: Mm, role: Role | None = None) -> Steps[None]:
    """Take mm's mmap_lock for writing where another mm's is held: lockdep's subclass is all that differs."""
    yield from down_write(k.cpu, mm.mmap_lock, (role or k.role).lock)


def mmap_write_unlock(k: Kernel, mm: Mm, role: Role | None = None) -> Steps[None]:
    """Release mm's mmap_lock taken for writing."""
    yield from up_write(k.cpu, mm.mmap_lock, (role or k.role).unlock)
