"""Read-copy-update: read-side sections, grace periods and callbacks (kernel/rcu/tree.c, Linux 6.12).

All that matters of it is one word: which CPUs are in a read-side section, and for each grace period under way which
of them it still waits for. A grace period waits for the sections that had begun when it began, and for no other.

Ordering, as rcu_read_lock() and synchronize_rcu() guarantee it (Documentation/RCU/Design/Memory-Ordering): a grace
period is a full barrier; a section that it waited for has ended, with all its accesses, before what follows it; a
section that it did not wait for sees all that came before it. In the kernel the barriers of the last two are in the
quiescent states of the reader's CPU, in between its sections; here they are the acquire and the release of the
section's own operations, which orders no access of the section that those would not order.

Callbacks run on a CPU more, the softirq that rcu_core() runs in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.workqueue import Append, Work, WorkQueue, queue_no_more, state_of_open_queue, take_work
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Await, Barrier, Fence, Order, Rmw, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


class GracePeriod(NamedTuple):
    """A grace period: the CPU that waits for it, and those whose sections it waits for, in ascending order."""

    waiter: int
    readers: tuple[int, ...]


class RcuState(NamedTuple):
    """What the word holds. A CPU is in `readers` once for each nested section; both are in ascending order."""

    readers: tuple[int, ...] = ()
    grace_periods: tuple[GracePeriod, ...] = ()

    def renamed(self, names: tuple[int, ...]) -> RcuState:
        """Return it after CPU `i` has become CPU `names[i]`."""
        return RcuState(
            tuple(sorted(names[cpu] for cpu in self.readers)),
            tuple(
                sorted(
                    GracePeriod(names[waiter], tuple(sorted(names[cpu] for cpu in readers)))
                    for waiter, readers in self.grace_periods
                )
            ),
        )


IDLE = RcuState()


@dataclass(frozen=True, slots=True)
class Rcu:
    """The word of rcu_state."""

    address: Address
    name: str


def rcu_state(value: object) -> RcuState:
    """Return what the word holds; memory starts as 0, which is nobody reading."""
    return value if isinstance(value, RcuState) else IDLE


@dataclass(frozen=True, slots=True)
class _ReadLock:
    cpu: int

    def __call__(self, value: object) -> RcuState:
        state = rcu_state(value)
        return state._replace(readers=tuple(sorted((*state.readers, self.cpu))))


@dataclass(frozen=True, slots=True)
class _ReadUnlock:
    """End a section; the outermost one is waited for by no grace period any more, and one that waits for none is over.

    No change where the CPU is in no section.
    """

    cpu: int

    def __call__(self, value: object) -> RcuState:
        state = rcu_state(value)
        if self.cpu not in state.readers:
            return state
        place = state.readers.index(self.cpu)
        readers = state.readers[:place] + state.readers[place + 1 :]
        if self.cpu in readers:
            return state._replace(readers=readers)
        waiting = (
            GracePeriod(waiter, tuple(cpu for cpu in waited if cpu != self.cpu))
            for waiter, waited in state.grace_periods
        )
        return RcuState(readers, tuple(grace_period for grace_period in waiting if grace_period.readers))


@dataclass(frozen=True, slots=True)
class _Begin:
    """Begin a grace period for every section that has begun; it is over at once where there is none."""

    cpu: int

    def __call__(self, value: object) -> RcuState:
        state = rcu_state(value)
        others = tuple(grace_period for grace_period in state.grace_periods if grace_period.waiter != self.cpu)
        if not state.readers:
            return state._replace(grace_periods=others)
        readers = tuple(sorted(set(state.readers)))
        return state._replace(grace_periods=tuple(sorted((*others, GracePeriod(self.cpu, readers)))))


@dataclass(frozen=True, slots=True)
class Elapsed:
    """Holds once the grace period that a CPU waits for is over."""

    cpu: int

    def __call__(self, value: object) -> bool:
        return not self.blocked_by(value)

    def blocked_by(self, value: object) -> tuple[int, ...]:
        """Return the CPUs whose sections are waited for; the waiter itself, where it waits inside a section."""
        return next((readers for waiter, readers in rcu_state(value).grace_periods if waiter == self.cpu), ())


def rcu_read_lock(k: Kernel, rcu: Rcu) -> Steps[None]:
    """Begin a read-side section; sections nest."""
    yield Rmw(rcu.address, _ReadLock(k.cpu), Order.ACQUIRE)


def rcu_read_unlock(k: Kernel, rcu: Rcu) -> Steps[None]:
    """End a read-side section. Raises ModelError unlock-without-lock."""
    old = yield Rmw(rcu.address, _ReadUnlock(k.cpu), Order.RELEASE)
    if k.cpu not in rcu_state(old).readers:
        message = f"CPU {k.cpu} leaves a read-side section of RCU that it is not in"
        raise ModelError(UNLOCK_WITHOUT_LOCK, message, address=rcu.address)


def synchronize_rcu(k: Kernel, rcu: Rcu) -> Steps[None]:
    """Wait for a grace period that begins now."""
    # rcu_seq_snap(): smp_mb()
    yield Fence(Barrier.DMB_ISH)
    yield Rmw(rcu.address, _Begin(k.cpu), Order.ACQUIRE_RELEASE)
    yield Await(rcu.address, Elapsed(k.cpu), Order.ACQUIRE)
    # rcu_gp_cleanup() and the wake-up: smp_mb()
    yield Fence(Barrier.DMB_ISH)


def call_rcu(k: Kernel, callbacks: WorkQueue, head: Work) -> Steps[None]:
    """Have a callback run after a grace period that begins later than this; given twice, it runs twice.

    Raises RuntimeError as queue_work() does.
    """
    old = yield Rmw(callbacks.address, Append(head), Order.ACQUIRE_RELEASE)
    state_of_open_queue(callbacks, old)


@dataclass(frozen=True, slots=True)
class RcuCore:
    """The function of the softirq that runs callbacks."""

    rcu: Rcu

    def __call__(self, k: Kernel, queue: WorkQueue) -> Steps[None]:
        return rcu_core(k, self.rcu, queue)


def rcu_core(k: Kernel, rcu: Rcu, callbacks: WorkQueue) -> Steps[None]:
    """Take the callbacks that are there, wait for a grace period, run them; and again, to the end of the run."""
    while True:
        ready = yield from take_work(k, callbacks, everything=True)
        if not ready:
            break
        yield from synchronize_rcu(k, rcu)
        yield from rcu_do_batch(k, ready)
    yield from queue_no_more(k)


def rcu_do_batch(k: Kernel, ready: tuple[Work, ...]) -> Steps[None]:
    """Run callbacks whose grace period is over."""
    index = 0
    while index < len(ready):
        yield from ready[index].run(k)
        index += 1
