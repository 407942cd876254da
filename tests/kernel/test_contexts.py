"""What may sleep where, and the order of locks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from fuzzvm.exhaustive import Limits, verify
from fuzzvm.kernel.errors import INVALID_WAIT_CONTEXT, IRQ_UNSAFE_LOCK, LOCK_ORDER, SLEEP_IN_ATOMIC
from fuzzvm.kernel.functions import Functions
from fuzzvm.kernel.gfp import GFP_ATOMIC
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.interrupts import local_irq_restore, local_irq_save, spin_lock_bh, spin_unlock_bh
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.exclusive import (
    ExclusiveLock,
    mutex_lock,
    mutex_unlock,
    raw_spin_lock,
    raw_spin_unlock,
    spin_lock,
    spin_unlock,
)
from fuzzvm.kernel.locking.rcu import Rcu, rcu_read_lock, rcu_read_unlock, synchronize_rcu
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_lock, mmap_read_trylock, mmap_read_unlock
from fuzzvm.kernel.pgtable import Level, TableLabel
from fuzzvm.kernel.rcu_callbacks import call_rcu
from fuzzvm.kernel.workqueue import queue_work
from fuzzvm.machine.ops import Address, Alloc, Free, Load, Order, Rmw, Steps
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.pairs import scenarios
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.verify.lock_order import with_lock_order
from fuzzvm.verify.matrix import Bounds, Cell, memories, verify_cell

PROMOTION = shipped.get("pmd-promotion")
COLLAPSE = scenarios()["pair-x86_64-collapse-pmd-ptdump"]


def errors(scheme: type[Mitigation], scenario: Scenario = PROMOTION, memory: str = "sc") -> str:
    """Return the error of a scheme, '' where it is safe."""
    verdict = verify_cell(Cell(scheme.name, scenario, memory), Bounds(Limits()), scheme).verdict
    assert verdict.complete
    return verdict.failure.error if verdict.failure else ""


class Locks(Mitigation):
    """Has locks of its own, and does `inside` between the clear and the flush."""

    name = "locks"
    mutex: ExclusiveLock
    other: ExclusiveLock
    spin: ExclusiveLock
    raw: ExclusiveLock
    rcu: Rcu

    def attach(self, boot: Boot) -> None:
        self.mutex, self.other, self.spin = boot.lock("a_mutex"), boot.lock("b_mutex"), boot.lock("a_spinlock")
        self.raw = boot.lock("a_raw_spinlock")
        self.rcu = boot.rcu()

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        return (yield from mmap_read_trylock(k, k.init_mm))

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)

    def after_clear(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from self.inside(k)

    def inside(self, k: Kernel) -> Steps[None]:
        yield from ()


class MutexUnderSpinlock(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.spin)
        yield from mutex_lock(k.cpu, self.mutex)
        yield from mutex_unlock(k.cpu, self.mutex)
        yield from spin_unlock(k.cpu, self.spin)


class SpinlockUnderMutex(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from mutex_lock(k.cpu, self.mutex)
        yield from spin_lock(k.cpu, self.spin)
        yield from spin_unlock(k.cpu, self.spin)
        yield from mutex_unlock(k.cpu, self.mutex)


class MutexAfterSpinlock(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.spin)
        yield from spin_unlock(k.cpu, self.spin)
        yield from mutex_lock(k.cpu, self.mutex)
        yield from mutex_unlock(k.cpu, self.mutex)


class GracePeriodInReader(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from rcu_read_lock(k.cpu, self.rcu)
        yield from synchronize_rcu(k.cpu, self.rcu)
        yield from rcu_read_unlock(k.cpu, self.rcu)


class TrylockUnderSpinlock(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.spin)
        got = yield from mmap_read_trylock(k, k.init_mm)
        if got:
            yield from mmap_read_unlock(k, k.init_mm)
        yield from spin_unlock(k.cpu, self.spin)


class OneWayOnly(Locks):
    """Which lock it holds depends on what nobody reads any more where it sleeps."""

    def inside(self, k: Kernel) -> Steps[None]:
        taken = k.cpu == 0
        if taken:
            yield from spin_lock(k.cpu, self.spin)
        else:
            yield from mutex_lock(k.cpu, self.mutex)
        del taken
        yield from mutex_lock(k.cpu, self.other)
        yield from mutex_unlock(k.cpu, self.other)


@pytest.mark.parametrize(
    ("scheme", "error"),
    [
        (MutexUnderSpinlock, SLEEP_IN_ATOMIC),
        (GracePeriodInReader, SLEEP_IN_ATOMIC),
        (OneWayOnly, SLEEP_IN_ATOMIC),
        (SpinlockUnderMutex, ""),
        (MutexAfterSpinlock, ""),
        (TrylockUnderSpinlock, ""),
    ],
)
@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_what_may_sleep(scheme: type[Mitigation], error: str, memory: str) -> None:
    assert errors(scheme, memory=memory) == error


class UnderRaw(Locks):
    """Does something under a raw spinlock."""

    def inside(self, k: Kernel) -> Steps[None]:
        yield from raw_spin_lock(k.cpu, self.raw)
        yield from self.under(k)
        yield from raw_spin_unlock(k.cpu, self.raw)

    def under(self, k: Kernel) -> Steps[None]:
        yield from ()


class SpinlockUnderRaw(UnderRaw):
    def under(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.spin)
        yield from spin_unlock(k.cpu, self.spin)


class SpinlockUnderRawUnderSpinlock(UnderRaw):
    """The raw spinlock counts, though a spinlock is held outside."""

    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.other)
        yield from super().inside(k)
        yield from spin_unlock(k.cpu, self.other)

    under = SpinlockUnderRaw.under


class SpinlockAfterRaw(UnderRaw):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from super().inside(k)
        yield from spin_lock(k.cpu, self.spin)
        yield from spin_unlock(k.cpu, self.spin)


@dataclass(frozen=True)
class _Mark:
    def __call__(self, old: int) -> int:
        return 1


class SpinlockUnderRawOneWayOnly(Locks):
    """How it holds a lock depends on what nobody reads any more where it takes the other."""

    raw_where: ClassVar[int] = 1

    def attach(self, boot: Boot) -> None:
        super().attach(boot)
        self.word = boot.lock_word("w")

    def inside(self, k: Kernel) -> Steps[None]:
        seen = yield Rmw(self.word, _Mark(), Order.ACQUIRE_RELEASE)
        if seen == self.raw_where:
            yield from raw_spin_lock(k.cpu, self.raw)
        else:
            yield from spin_lock(k.cpu, self.raw)
        del seen
        # both ways come to one state here, unless how the lock is held tells them apart
        yield Load(self.word)
        yield from spin_lock(k.cpu, self.spin)
        yield from spin_unlock(k.cpu, self.spin)
        yield from spin_unlock(k.cpu, self.raw)

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield Rmw(self.word, _Mark(), Order.ACQUIRE_RELEASE)


class SpinlockUnderRawTheOtherWayOnly(SpinlockUnderRawOneWayOnly):
    raw_where = 0


class RawUnderSpinlock(Locks):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.spin)
        yield from raw_spin_lock(k.cpu, self.raw)
        yield from raw_spin_unlock(k.cpu, self.raw)
        yield from spin_unlock(k.cpu, self.spin)


class RawUnderRaw(UnderRaw):
    def under(self, k: Kernel) -> Steps[None]:
        yield from raw_spin_lock(k.cpu, self.other)
        yield from raw_spin_unlock(k.cpu, self.other)


class MutexUnderRaw(UnderRaw):
    def under(self, k: Kernel) -> Steps[None]:
        yield from mutex_lock(k.cpu, self.mutex)
        yield from mutex_unlock(k.cpu, self.mutex)


class TrylockUnderRaw(UnderRaw):
    """As in lockdep: a trylock waits for nothing."""

    def under(self, k: Kernel) -> Steps[None]:
        got = yield from mmap_read_trylock(k, k.init_mm)
        if got:
            yield from mmap_read_unlock(k, k.init_mm)


class AllocatesUnderRaw(UnderRaw):
    """The page allocator takes zone->lock, a spinlock, with GFP_ATOMIC as well."""

    def under(self, k: Kernel) -> Steps[None]:
        yield Alloc(2, TableLabel(Level.PTE, k.geometry.base), flags=GFP_ATOMIC)


class FreesUnderRaw(UnderRaw):
    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield from raw_spin_lock(k.cpu, self.raw)
        yield Free(table)
        yield from raw_spin_unlock(k.cpu, self.raw)


@pytest.mark.parametrize(
    ("scheme", "error"),
    [
        (SpinlockUnderRaw, INVALID_WAIT_CONTEXT),
        (SpinlockUnderRawUnderSpinlock, INVALID_WAIT_CONTEXT),
        (SpinlockUnderRawOneWayOnly, INVALID_WAIT_CONTEXT),
        (SpinlockUnderRawTheOtherWayOnly, INVALID_WAIT_CONTEXT),
        (AllocatesUnderRaw, INVALID_WAIT_CONTEXT),
        (FreesUnderRaw, INVALID_WAIT_CONTEXT),
        (MutexUnderRaw, SLEEP_IN_ATOMIC),
        (SpinlockAfterRaw, ""),
        (RawUnderSpinlock, ""),
        (RawUnderRaw, ""),
        (TrylockUnderRaw, ""),
    ],
)
@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_a_spinlock_is_not_taken_under_a_raw_spinlock(scheme: type[Mitigation], error: str, memory: str) -> None:
    assert errors(scheme, memory=memory) == error


def test_it_says_which_locks() -> None:
    verdict = verify_cell(Cell("locks", PROMOTION, "sc"), Bounds(Limits()), SpinlockUnderRaw).verdict
    assert verdict.failure is not None
    assert verdict.failure.message == "a_spinlock may sleep with PREEMPT_RT, under a_raw_spinlock"


class InterruptsOff(Mitigation):
    name = "interrupts-off"

    def before_change_attr(self, k: Kernel) -> Steps[None]:
        yield from local_irq_save(k)
        yield from mmap_read_lock(k, k.init_mm)

    def after_change_attr(self, k: Kernel, token: Any) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)
        yield from local_irq_restore(k)


def test_nothing_sleeps_with_interrupts_off() -> None:
    assert errors(InterruptsOff, scenarios()["pair-x86_64-collapse-pmd-perf"]) == SLEEP_IN_ATOMIC


class ReadLockAroundTheFree(Mitigation):
    """ "x86/mm/pat: acquire mmap lock on page table free to avoid ptdump UAF" (July 2026)."""

    name = "read-lock-around-the-free"

    def before_collapse_free(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)

    def after_collapse_free(self, k: Kernel, token: Any) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)


class BothFixesOfJuly(ReadLockAroundTheFree):
    """It met cpa_lock, which another fix held over the whole collapse: each was right alone."""

    name = "both-fixes-of-july"
    functions = Functions(collapse_holds_cpa_lock=True)


def test_two_fixes_that_are_right_alone_sleep_in_atomic_context_together() -> None:
    assert errors(ReadLockAroundTheFree, COLLAPSE) == ""
    assert errors(BothFixesOfJuly, COLLAPSE) == SLEEP_IN_ATOMIC


class OneOrder(Locks):
    """The freeing side takes a_mutex and then b_mutex, under a third lock that the walk holds as well."""

    def inside(self, k: Kernel) -> Steps[None]:
        yield from mutex_lock(k.cpu, self.mutex)
        yield from mutex_lock(k.cpu, self.other)
        yield from mutex_unlock(k.cpu, self.other)
        yield from mutex_unlock(k.cpu, self.mutex)

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        # the walk holds mmap_lock for writing, and the freeing side for reading: the two never wait here
        yield from mutex_lock(k.cpu, self.mutex)
        yield from mutex_lock(k.cpu, self.other)
        yield from mutex_unlock(k.cpu, self.other)
        yield from mutex_unlock(k.cpu, self.mutex)


class TwoOrders(OneOrder):
    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from mutex_lock(k.cpu, self.other)
        yield from mutex_lock(k.cpu, self.mutex)
        yield from mutex_unlock(k.cpu, self.mutex)
        yield from mutex_unlock(k.cpu, self.other)


@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_orders_that_close_a_cycle_are_an_error_though_nobody_waits(memory: str) -> None:
    assert errors(OneOrder, memory=memory) == ""
    assert errors(TwoOrders, memory=memory) == LOCK_ORDER


SCHEMES = {**registry.shipped(), **registry.releases()}


@pytest.mark.product
@pytest.mark.parametrize(
    ("name", "scenario"), [(name, scenario) for name in SCHEMES for scenario in (shipped.shipped() | scenarios())]
)
def test_what_ships_sleeps_nowhere_and_keeps_its_order(name: str, scenario: str) -> None:
    found = (shipped.shipped() | scenarios())[scenario]
    assert memories(found)[0] == "sc"
    run = verify_cell(Cell(name, found, "sc"), Bounds(Limits()))
    rules = {SLEEP_IN_ATOMIC, INVALID_WAIT_CONTEXT, LOCK_ORDER}
    assert run.verdict.failure is None or run.verdict.failure.error not in rules


class OrdersThatExcludeEachOther(Mitigation):
    """One CPU takes A and then B, the other B and then A, but only one of them in any run; C and D they always take."""

    name = "orders-that-exclude-each-other"
    first_pair: ClassVar[bool] = True
    locks: tuple[ExclusiveLock, ...]
    gate: ExclusiveLock
    word: Address

    def attach(self, boot: Boot) -> None:
        self.word = boot.lock_word("w")
        self.gate = boot.lock("gate")
        self.locks = tuple(boot.lock(name) for name in "ABCD")

    def both(self, k: Kernel, first: ExclusiveLock, second: ExclusiveLock) -> Steps[None]:
        yield from mutex_lock(k.cpu, first)
        yield from mutex_lock(k.cpu, second)
        yield from mutex_unlock(k.cpu, second)
        yield from mutex_unlock(k.cpu, first)

    def before_change_attr(self, k: Kernel) -> Steps[None]:
        a, b, c, d = self.locks if k.cpu == 0 else (*self.locks[1::-1], *self.locks[:1:-1])
        if self.first_pair:
            seen = yield Rmw(self.word, _Mark(), Order.ACQUIRE_RELEASE)
            if seen == 0:
                yield from self.both(k, a, b)
        yield from mutex_lock(k.cpu, self.gate)
        yield from self.both(k, c, d)
        yield from mutex_unlock(k.cpu, self.gate)


class OrdersOfEveryRun(OrdersThatExcludeEachOther):
    name = "orders-of-every-run"
    first_pair = False


TWO_CHANGES = Scenario.from_data(
    {
        "arch": "x86_64",
        "page_size": "4K",
        "levels": 4,
        "fanout": 2,
        "setup": ["vmap(page=0, nr_pages=2, max_page_shift='pte')"],
        "cpus": [["set_memory_ro(page=0, nr_pages=1)"], ["set_memory_ro(page=1, nr_pages=1)"]],
    }
)


@pytest.mark.parametrize("scheme", [OrdersOfEveryRun, OrdersThatExcludeEachOther])
def test_a_cycle_that_no_run_closes_hides_none_that_some_run_does(scheme: type[Mitigation]) -> None:
    assert errors(scheme, TWO_CHANGES) == LOCK_ORDER


def test_where_the_search_for_orders_is_cut_nothing_is_complete() -> None:
    system = System(TWO_CHANGES, OrdersOfEveryRun, "sc")
    first = verify(system, Limits())
    assert (first.verdict, first.complete) == ("safe", True)
    cut = with_lock_order(system, first, Limits(max_states=3))
    assert (cut.verdict, cut.complete) == ("safe", False)
    assert "--max-states 3" in cut.stopped


@pytest.mark.parametrize("walker", ["kcore", "perf-invlpgb", "spurious-fault-invlpgb"])
@pytest.mark.parametrize("scheme", ["rcu-free", "linux-7.3+rcu-free"])
def test_a_grace_period_waits_for_who_has_preemption_or_interrupts_off(walker: str, scheme: str) -> None:
    """Tables freed by RCU would mend all that is open in 7.3 beside a collapse."""
    scenario = scenarios()[f"pair-x86_64-collapse-pmd-{walker}"]
    assert errors(registry.get(scheme), scenario) == ""


@dataclass(frozen=True)
class Head:
    """An rcu_head or a work item, whose function takes a mutex."""

    mutex: ExclusiveLock

    def run(self, k: Kernel) -> Steps[None]:
        yield from mutex_lock(k.cpu, self.mutex)
        yield from mutex_unlock(k.cpu, self.mutex)


class CallbackSleeps(Locks):
    def attach(self, boot: Boot) -> None:
        super().attach(boot)
        self.queue = boot.rcu_callbacks()

    def inside(self, k: Kernel) -> Steps[None]:
        yield from call_rcu(k, self.queue, Head(self.mutex))


class WorkSleeps(Locks):
    def attach(self, boot: Boot) -> None:
        super().attach(boot)
        self.queue = boot.system_wq()

    def inside(self, k: Kernel) -> Steps[None]:
        yield from queue_work(k, self.queue, Head(self.mutex))


@dataclass(frozen=True)
class TakesASpinlock:
    """An rcu_head whose function takes a spinlock."""

    spin: ExclusiveLock

    def run(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.spin)
        yield from spin_unlock(k.cpu, self.spin)


class CallbackTakesALock(CallbackSleeps):
    """A task takes the lock of its callback with softirqs on: a softirq that comes to its CPU waits for ever."""

    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.spin)
        yield from spin_unlock(k.cpu, self.spin)
        yield from call_rcu(k, self.queue, TakesASpinlock(self.spin))


class CallbackTakesALockBh(CallbackSleeps):
    def inside(self, k: Kernel) -> Steps[None]:
        yield from spin_lock_bh(k, self.spin)
        yield from spin_unlock_bh(k, self.spin)
        yield from call_rcu(k, self.queue, TakesASpinlock(self.spin))


@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.parametrize(("scheme", "error"), [(CallbackTakesALock, IRQ_UNSAFE_LOCK), (CallbackTakesALockBh, "")])
def test_the_locks_of_a_callback_of_rcu_are_taken_in_a_softirq(
    scheme: type[Mitigation], error: str, memory: str
) -> None:
    assert errors(scheme, memory=memory) == error


@pytest.mark.parametrize(("scheme", "error"), [(CallbackSleeps, SLEEP_IN_ATOMIC), (WorkSleeps, "")])
def test_a_callback_of_rcu_may_not_sleep_and_work_may(scheme: type[Mitigation], error: str) -> None:
    assert errors(scheme) == error
