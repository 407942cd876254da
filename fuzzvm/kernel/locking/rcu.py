"""Read-copy-update: read-side sections and grace periods (kernel/rcu/tree.c, Linux 6.12).

All that matters of it is one word: which CPUs are in a read-side section, and for each grace period under way which
of them it still waits for. A grace period waits for the sections that had begun when it began, and for no other.

Ordering, as rcu_read_lock() and synchronize_rcu() guarantee it (Documentation/RCU/Design/Memory-Ordering): a grace
period is a full barrier; a section that it waited for has ended, with all its accesses, before what follows it; a
section that it did not wait for sees all that came before it. In the kernel the barriers of the last two are in the
quiescent states of the reader's CPU, in between its sections; here they are the acquire and the release of the
section's own operations, which orders no access of the section that those would not order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.locking.lock import Lock, OfCpu
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Await, Barrier, Fence, Order, Rmw, Steps


class GracePeriod(NamedTuple):
    """A grace period: the CPU that waits for it, and those whose sections it waits for, in ascending order."""

    waiter: int
    readers: tuple[Any, ...]


GracePeriods = tuple[GracePeriod, ...]
"""Grace periods under way, by ascending waiter."""


def with_grace_period(grace_periods: GracePeriods, waiter: int, readers: tuple[Any, ...]) -> GracePeriods:
    """Return them with one that begins now and waits for these; it is over at once where there are none."""
    others = tuple(grace_period for grace_period in grace_periods if grace_period.waiter != waiter)
    return tuple(sorted((*others, GracePeriod(waiter, readers)))) if readers else others


def without_reader(grace_periods: GracePeriods, reader: Any) -> GracePeriods:
    """Return them where one of those that are waited for has left; without those that wait for nobody any more."""
    waiting = (GracePeriod(waiter, tuple(one for one in of if one != reader)) for waiter, of in grace_periods)
    return tuple(grace_period for grace_period in waiting if grace_period.readers)


class RcuState(NamedTuple):
    """What the word holds. A CPU is in `readers` once for each nested section; both are in ascending order."""

    readers: tuple[int, ...] = ()
    grace_periods: GracePeriods = ()

    def renamed(self, names: Sequence[int]) -> RcuState:
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

    def left(self, name: str) -> str:
        """Return who has never left a section."""
        return f"CPU {self.readers[0]} never left a read-side section of RCU" if self.readers else ""

    def held_by(self, cpu: int) -> bool:
        """Return whether a CPU is in a section."""
        return cpu in self.readers

    def in_words(self) -> str:
        """Return who is in a section, and which sections are waited for."""
        parts = [f"CPU {cpu} reads" for cpu in self.readers]
        for waiter, readers in self.grace_periods:
            parts.append(f"CPU {waiter} waits for the section of {', '.join(f'CPU {cpu}' for cpu in readers)}")
        return "; ".join(parts) or UNUSED


UNUSED = "nobody reads"
IDLE = RcuState()


@dataclass(frozen=True, slots=True)
class Rcu(Lock):
    """rcu_state. Its word holds 0, or a `RcuState`."""


def rcu_state(value: object) -> RcuState:
    """Return what the word holds; memory starts as 0, which is nobody reading."""
    return value if isinstance(value, RcuState) else IDLE


@dataclass(frozen=True, slots=True)
class _ReadLock(OfCpu):
    atomic: ClassVar[int] = 1

    def __call__(self, value: object) -> RcuState:
        state = rcu_state(value)
        return state._replace(readers=tuple(sorted((*state.readers, self.cpu))))

    def unhindered(self) -> RcuState:
        return IDLE


@dataclass(frozen=True, slots=True)
class _ReadUnlock(OfCpu):
    """End a section; the outermost one is waited for by no grace period any more, and one that waits for none is over.

    No change where the CPU is in no section.
    """

    atomic: ClassVar[int] = -1

    def __call__(self, value: object) -> RcuState:
        state = rcu_state(value)
        if self.cpu not in state.readers:
            return state
        place = state.readers.index(self.cpu)
        readers = state.readers[:place] + state.readers[place + 1 :]
        if self.cpu in readers:
            return state._replace(readers=readers)
        return RcuState(readers, without_reader(state.grace_periods, self.cpu))

    def unhindered(self) -> RcuState:
        return RcuState(readers=(self.cpu,))


@dataclass(frozen=True, slots=True)
class _Begin(OfCpu):
    """Begin a grace period for every section that has begun; it is over at once where there is none."""

    may_sleep: ClassVar[bool] = True

    def __call__(self, value: object) -> RcuState:
        state = rcu_state(value)
        readers = tuple(sorted(set(state.readers)))
        return state._replace(grace_periods=with_grace_period(state.grace_periods, self.cpu, readers))


@dataclass(frozen=True, slots=True)
class _Elapsed(OfCpu):
    """Holds once the grace period that a CPU waits for is over."""

    ending: ClassVar[str] = ": the grace period is over"

    def __call__(self, value: object) -> bool:
        return not self.blocked_by(value)

    def blocked_by(self, value: object) -> tuple[int, ...]:
        """Return the CPUs whose sections are waited for; the waiter itself, where it waits inside a section."""
        return next((readers for waiter, readers in rcu_state(value).grace_periods if waiter == self.cpu), ())

    def why(self, value: object, blocker: int) -> str:
        """Return that a section holds the grace period up."""
        return f"a grace period that the read-side section of CPU {blocker} holds up"


# one object each for a CPU: making them anew takes longer than what they do
_read_lock, _read_unlock, _begin, _elapsed = cache(_ReadLock), cache(_ReadUnlock), cache(_Begin), cache(_Elapsed)


def rcu_read_lock(cpu: int, rcu: Rcu) -> Steps[None]:
    """Begin a read-side section; sections nest."""
    yield Rmw(rcu.address, _read_lock(cpu), Order.ACQUIRE, point="rcu-read-lock")


def rcu_read_unlock(cpu: int, rcu: Rcu) -> Steps[None]:
    """End a read-side section. Raises ModelError unlock-without-lock."""
    old = yield Rmw(rcu.address, _read_unlock(cpu), Order.RELEASE, point="rcu-read-unlock")
    if cpu not in rcu_state(old).readers:
        message = f"CPU {cpu} leaves a read-side section of RCU that it is not in"
        raise ModelError(UNLOCK_WITHOUT_LOCK, message, address=rcu.address)


def synchronize_rcu(cpu: int, rcu: Rcu) -> Steps[None]:
    """Wait for a grace period that begins now."""
    # rcu_seq_snap(): smp_mb()
    yield Fence(Barrier.DMB_ISH, "grace-period-begin-fence")
    yield Rmw(rcu.address, _begin(cpu), Order.ACQUIRE_RELEASE, point="grace-period-begin")
    yield Await(rcu.address, _elapsed(cpu), Order.ACQUIRE, "grace-period-wait")
    # rcu_gp_cleanup() and the wake-up: smp_mb()
    yield Fence(Barrier.DMB_ISH, "grace-period-end-fence")
