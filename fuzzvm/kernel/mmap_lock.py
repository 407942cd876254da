"""mmap_lock of a struct mm_struct (include/linux/mmap_lock.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.kernel.rwsem import RwSemaphore, down_read, down_read_trylock, down_write, up_read, up_write
from fuzzvm.machine.ops import Address, Annotation, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


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


def mmap_read_lock(k: Kernel, mm: Mm) -> Steps[None]:
    """Take mm's mmap_lock for reading."""
    yield from down_read(k, mm.mmap_lock)


def mmap_read_trylock(k: Kernel, mm: Mm) -> Steps[bool]:
    """Take mm's mmap_lock for reading if that is possible at once; return whether it was."""
    return (yield from down_read_trylock(k, mm.mmap_lock))


def mmap_read_unlock(k: Kernel, mm: Mm) -> Steps[None]:
    """Release mm's mmap_lock taken for reading."""
    yield from up_read(k, mm.mmap_lock)


def mmap_write_lock(k: Kernel, mm: Mm) -> Steps[None]:
    """Take mm's mmap_lock for writing."""
    yield from down_write(k, mm.mmap_lock)


def mmap_write_lock_nested(k: Kernel, mm: Mm) -> Steps[None]:
    """Take mm's mmap_lock for writing where another mm's is held: lockdep's subclass is all that differs."""
    yield from down_write(k, mm.mmap_lock)


def mmap_write_unlock(k: Kernel, mm: Mm) -> Steps[None]:
    """Release mm's mmap_lock taken for writing."""
    yield from up_write(k, mm.mmap_lock)
