"""Schemes without a lock on the way of a walk: hazard pointers, and sequence counters both ways round.

Hazard pointers: Michael, "Hazard pointers: safe memory reclamation for lock-free objects", IEEE TPDS 15(6), 2004. Each
scheme has variants with one thing wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.exclusive import mutex_lock, mutex_unlock
from fuzzvm.kernel.locking.page_ref import get_page_unless_zero, page_ref_init, put_page_testzero
from fuzzvm.kernel.locking.seqcount import (
    read_seqcount_begin,
    read_seqcount_retry,
    seqcount_init,
    write_seqcount_begin,
    write_seqcount_end,
)
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import Level, pxd_pgtable
from fuzzvm.machine.ops import Address, Await, Barrier, Fence, Free, Load, Order, Steps, Store
from fuzzvm.mitigations.rcu_free import RcuFree


@dataclass(frozen=True, slots=True)
class NoHazard:
    """Holds while a slot does not name a table."""

    table: Address
    cpu: int

    def __call__(self, value: object) -> bool:
        return value != self.table

    def blocked_by(self, value: object) -> Sequence[int]:
        return () if self(value) else (self.cpu,)


class HazardPointers(Mitigation):
    """A walk publishes each table before it reads it, and looks whether the entry still leads there.

    Whoever frees a table waits, after the clear, until nobody has it published.
    """

    name = "hazard-pointers"
    fenced: ClassVar[bool] = True

    def attach(self, boot: Boot) -> None:
        # what no table is freed of needs no slot: the entries above the PUD lead to tables that stay
        self.slots = {
            (cpu, level): boot.word(f"hazard_{level.name.lower()}{cpu}")
            for cpu in range(boot.nr_cpus)
            for level in (Level.PUD, Level.PMD)
        }

    def before_descend(self, k: Kernel, level: Level, pxdp: Address, pxd: int) -> Steps[bool]:
        slot = self.slots.get((k.cpu, level))
        if slot is None:
            return True
        yield Store(slot, pxd_pgtable(pxd))
        if self.fenced:
            # the slot is seen before the entry is read again
            yield Fence(Barrier.DMB_ISH)
        again = yield Load(pxdp)
        if again != pxd:
            yield Store(slot, 0)
        return bool(again == pxd)

    def after_descend(self, k: Kernel, level: Level, pxd: int) -> Steps[None]:
        slot = self.slots.get((k.cpu, level))
        if slot is not None:
            yield Store(slot, 0, Order.RELEASE)

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield from self.wait_for_walks(k, table, level)
        yield Free(table)

    def wait_for_walks(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        """Wait until no CPU has published a table."""
        # the clear is seen before the slots are read
        yield Fence(Barrier.DMB_ISH)
        cpu = 0
        while (cpu, level) in self.slots:
            yield Await(self.slots[cpu, level], NoHazard(table, cpu), Order.ACQUIRE)
            cpu += 1


class LooksOnce(HazardPointers):
    """The entry is not looked at again: the table may have been freed before it was published."""

    name = "looks-once"

    def before_descend(self, k: Kernel, level: Level, pxdp: Address, pxd: int) -> Steps[bool]:
        slot = self.slots.get((k.cpu, level))
        if slot is not None:
            yield Store(slot, pxd_pgtable(pxd))
        return True


class LetsGoTooEarly(HazardPointers):
    """The table is let go before it is read."""

    name = "lets-go-too-early"

    def before_descend(self, k: Kernel, level: Level, pxdp: Address, pxd: int) -> Steps[bool]:
        go_on = yield from super().before_descend(k, level, pxdp, pxd)
        yield from super().after_descend(k, level, pxd)
        return bool(go_on)

    def after_descend(self, k: Kernel, level: Level, pxd: int) -> Steps[None]:
        yield from ()


class WaitsBeforeTheClear(HazardPointers):
    """The slots are looked at while the entry still leads to the table."""

    name = "waits-before-the-clear"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        # every slot, whichever table it names
        yield Fence(Barrier.DMB_ISH)
        cpu = 0
        while (cpu, level) in self.slots:
            yield Await(self.slots[cpu, level], Empty(cpu), Order.ACQUIRE)
            cpu += 1

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield Free(table)


@dataclass(frozen=True, slots=True)
class Empty:
    """Holds while a slot names nothing."""

    cpu: int

    def __call__(self, value: object) -> bool:
        return value == 0

    def blocked_by(self, value: object) -> Sequence[int]:
        return () if value == 0 else (self.cpu,)


class Unfenced(HazardPointers):
    """The entry may be read again before the slot is seen: the classic store buffering."""

    name = "unfenced"
    fenced = False


class References(Mitigation):
    """A walk holds a reference to each table that it reads; whoever puts the last one frees the table."""

    name = "references"

    def attach(self, boot: Boot) -> None:
        self.refs = page_ref_init(boot, "page_refs", 64)

    def before_descend(self, k: Kernel, level: Level, pxdp: Address, pxd: int) -> Steps[bool]:
        return (yield from get_page_unless_zero(k.cpu, self.refs, pxd_pgtable(pxd)))

    def after_descend(self, k: Kernel, level: Level, pxd: int) -> Steps[None]:
        yield from self.free_table(k, pxd_pgtable(pxd), level)

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        last = yield from put_page_testzero(k.cpu, self.refs, table)
        if last:
            yield Free(table)


class FreesWithReferences(References):
    """The table is freed whoever has a reference."""

    name = "frees-with-references"

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield Free(table)

    def after_descend(self, k: Kernel, level: Level, pxd: int) -> Steps[None]:
        yield from put_page_testzero(k.cpu, self.refs, pxd_pgtable(pxd))


class WalksCount(Mitigation):
    """A walk makes a sequence count odd; who frees a table goes on at once only where no walk began meanwhile.

    mmap_lock keeps walks of init_mm apart, as a write section must be; a walk of another mm is another matter.
    """

    name = "walks-count"
    fenced: ClassVar[bool] = True

    def attach(self, boot: Boot) -> None:
        self.s = seqcount_init(boot, "ptdump_seq")

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from write_seqcount_begin(k.cpu, self.s)
        if self.fenced:
            # smp_wmb() does not keep the reads of entries behind the count
            yield Fence(Barrier.DMB_ISH)

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        # nor does it keep them before the count is even again
        if self.fenced:
            yield Fence(Barrier.DMB_ISH)
        yield from write_seqcount_end(k.cpu, self.s)

    def before_clear(self, k: Kernel, level: Level) -> Steps[int]:
        return (yield from read_seqcount_begin(k.cpu, self.s))

    def after_clear(self, k: Kernel, level: Level, token: int) -> Steps[None]:
        yield Fence(Barrier.DMB_ISH)

    def before_free(self, k: Kernel, level: Level, token: int) -> Steps[None]:
        began = yield from read_seqcount_retry(k.cpu, self.s, token)
        if began:
            yield from read_seqcount_begin(k.cpu, self.s)


class NoRetry(WalksCount):
    """Waits for the walks before the clear, and not for those that have begun since."""

    name = "no-retry"

    def before_free(self, k: Kernel, level: Level, token: int) -> Steps[None]:
        yield from ()


class EvenTooEarly(WalksCount):
    """The count is even again before the first entry is read."""

    name = "even-too-early"

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from super().walk_locked(k, mm, token)
        yield from super().walk_unlocking(k, mm, token)

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from ()


class WalksCountUnfenced(WalksCount):
    """A walk's reads may take place before its count is seen to be odd."""

    name = "walks-count-unfenced"
    fenced = False


class PromotionsCount(RcuFree):
    """A promotion makes a sequence count odd, and a walk during which one was under way is made again.

    What keeps the walk from freed tables is RCU; the count makes what it prints a picture of one moment.
    """

    name = "promotions-count"

    def attach(self, boot: Boot) -> None:
        super().attach(boot)
        self.s = seqcount_init(boot, "promotion_seq")
        self.mutex = boot.lock("promotion_mutex")

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        yield from mutex_lock(k.cpu, self.mutex)
        yield from write_seqcount_begin(k.cpu, self.s)
        return True

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from write_seqcount_end(k.cpu, self.s)
        yield from mutex_unlock(k.cpu, self.mutex)

    def before_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[int]:
        return (yield from read_seqcount_begin(k.cpu, self.s))

    def after_attempt(self, k: Kernel, mm: Mm, token: int) -> Steps[bool]:
        return (yield from read_seqcount_retry(k.cpu, self.s, token))
