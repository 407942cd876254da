"""The static-key scheme with one step of it broken or moved: each a subclass with the one change."""

from __future__ import annotations

from typing import Any

from fuzzvm.kernel.jump_label import (
    static_branch_dec,
    static_branch_disable,
    static_branch_enable,
    static_branch_inc,
    static_branch_unlikely,
)
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_lock, mmap_read_trylock, mmap_read_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations.static_key import SITES, StaticKeyMitigation

# Broken


class LockNeverTaken(StaticKeyMitigation):
    """The freeing side looks at the key and does not wait."""

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from static_branch_unlikely(k, self.key, SITES[level])


class KeyCheckedBeforeClear(StaticKeyMitigation):
    """The key may be turned on, and the entry read, between the check and the clear."""

    def before_clear(self, k: Kernel, level: Level) -> Steps[bool]:
        taken = yield from static_branch_unlikely(k, self.key, SITES[level])
        return bool(taken)

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        if token:
            yield from mmap_read_lock(k, k.init_mm)
            yield from mmap_read_unlock(k, k.init_mm)


class LockDroppedBeforeClear(StaticKeyMitigation):
    """It waits for the walks under way, and then clears an entry that the next walk may have read."""

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from super().before_free(k, level, None)

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from ()


class KeyOffBeforeWalkEnds(StaticKeyMitigation):
    """The key is off again while entries are still read."""

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from static_branch_dec(k, self.key)

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from ()


class PlainFlag(StaticKeyMitigation):
    """The first of two walks to end turns the key off for both."""

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from static_branch_enable(k, self.key)

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from static_branch_disable(k, self.key)


class KeyNeverOn(StaticKeyMitigation):
    """The walk does not turn the key on."""

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from ()

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from ()


class KeyOnAfterFirstRead(StaticKeyMitigation):
    """The key is on only once the walk is over: as good as never."""

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from ()

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from static_branch_inc(k, self.key)


class OneSiteUnpatched(StaticKeyMitigation):
    """pud_free_pmd_page has no site."""

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        if level == Level.PMD:
            yield from super().before_free(k, level, token)


class TrylockInstead(StaticKeyMitigation):
    """Where the lock is not free it goes on, which is just when it must not."""

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        taken = yield from static_branch_unlikely(k, self.key, SITES[level])
        if taken:
            locked = yield from mmap_read_trylock(k, k.init_mm)
            if locked:
                yield from mmap_read_unlock(k, k.init_mm)


class KeyLeftOn(StaticKeyMitigation):
    """Nobody turns the key off again."""

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from ()


class KeyOffTwice(StaticKeyMitigation):
    """One dec too many."""

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from static_branch_dec(k, self.key)
        yield from static_branch_dec(k, self.key)


class LockKept(StaticKeyMitigation):
    """The read lock is never released: the next walk waits for ever."""

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        taken = yield from static_branch_unlikely(k, self.key, SITES[level])
        if taken:
            yield from mmap_read_lock(k, k.init_mm)


# Harmless


class KeyOnUnderWriteLock(StaticKeyMitigation):
    """The key is on only after the write lock is held, but before the first read."""

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from ()

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from static_branch_inc(k, self.key)


class KeyOffUnderWriteLock(StaticKeyMitigation):
    """The key is off after the last read, but before the unlock."""

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from static_branch_dec(k, self.key)

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from ()


class TablesFreedInTheOldOrder(StaticKeyMitigation):
    """pud_free_pmd_page frees the PTE tables before it clears the PUD, waiting for walks before each."""

    isolates_first = False
