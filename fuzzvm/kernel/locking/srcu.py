"""Sleepable RCU: a srcu_struct has read-side sections and grace periods of its own (kernel/rcu/srcutree.c, Linux 7.3).

srcu_read_lock() returns an index that srcu_read_unlock() is given back, so sections need not nest. A grace period waits
for the sections that had begun when it began. The kernel's may wait for some that begin soon after it as well, those
that still find the old index: whatever such a section does, one that began a little earlier does too.

As with RCU, the counts and grace periods are one word. The smp_mb() after the count of a section that begins (B), and
the one before that of a section that ends (C), are the acquire and the release of the section's operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import ClassVar, NamedTuple

from fuzzvm.kernel.errors import UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.locking.lock import Lock, OfCpu, Words
from fuzzvm.kernel.locking.rcu import GracePeriod, GracePeriods, with_grace_period, without_reader
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Await, Barrier, Fence, Order, Rmw, Steps

UNUSED = "nobody reads"


class Section(NamedTuple):
    """A read-side section: the CPU that is in it, and its index."""

    cpu: int
    idx: int


class SrcuState(NamedTuple):
    """What the word holds: the sections that have begun, and for each grace period those that it waits for."""

    readers: tuple[Section, ...] = ()
    grace_periods: GracePeriods = ()

    def renamed(self, names: Sequence[int]) -> SrcuState:
        """Return it after CPU `i` has become CPU `names[i]`."""

        def sections(of: Sequence[Section]) -> tuple[Section, ...]:
            return tuple(sorted(Section(names[cpu], idx) for cpu, idx in of))

        waits = (GracePeriod(names[waiter], sections(of)) for waiter, of in self.grace_periods)
        return SrcuState(sections(self.readers), tuple(sorted(waits)))

    def left(self, name: str) -> str:
        """Return who has never left a section."""
        return f"CPU {self.readers[0].cpu} never left a read-side section of {name}" if self.readers else ""

    def held_by(self, cpu: int) -> bool:
        """Return whether a CPU is in a section."""
        return any(section.cpu == cpu for section in self.readers)

    def in_words(self) -> str:
        """Return who is in a section, and which sections are waited for."""
        parts = [f"CPU {section.cpu} reads ({section.idx})" for section in self.readers]
        for waiter, sections in self.grace_periods:
            of = ", ".join(f"CPU {cpu} ({idx})" for cpu, idx in sections)
            parts.append(f"CPU {waiter} waits for the section of {of}")
        return "; ".join(parts) or UNUSED

    def next_index(self, cpu: int) -> int:
        """Return the index of the next section of a CPU: the lowest that none of its sections has."""
        return next(idx for idx in count() if Section(cpu, idx) not in self.readers)


IDLE = SrcuState()


@dataclass(frozen=True, slots=True)
class SrcuStruct(Lock):
    """A srcu_struct. Its word holds 0, or a `SrcuState`."""


def srcu_state(value: object) -> SrcuState:
    """Return what the word holds; memory starts as 0, which is nobody reading."""
    return value if isinstance(value, SrcuState) else IDLE


@dataclass(frozen=True, slots=True)
class _ReadLock(OfCpu):
    def __call__(self, value: object) -> SrcuState:
        state = srcu_state(value)
        section = Section(self.cpu, state.next_index(self.cpu))
        return state._replace(readers=tuple(sorted((*state.readers, section))))

    def unhindered(self) -> SrcuState:
        return IDLE


@dataclass(frozen=True, slots=True)
class _ReadUnlock(OfCpu):
    """End a section; no change where the CPU is not in it."""

    idx: int

    def __call__(self, value: object) -> SrcuState:
        state = srcu_state(value)
        section = Section(self.cpu, self.idx)
        if section not in state.readers:
            return state
        readers = tuple(one for one in state.readers if one != section)
        return SrcuState(readers, without_reader(state.grace_periods, section))

    def unhindered(self) -> SrcuState:
        return SrcuState((Section(self.cpu, self.idx),))


@dataclass(frozen=True, slots=True)
class _Begin(OfCpu):
    """Begin a grace period for every section that has begun."""

    may_sleep: ClassVar[bool] = True

    def __call__(self, value: object) -> SrcuState:
        state = srcu_state(value)
        return state._replace(grace_periods=with_grace_period(state.grace_periods, self.cpu, state.readers))


@dataclass(frozen=True, slots=True)
class _Elapsed(OfCpu):
    """Holds once the grace period that a CPU waits for is over."""

    ending: ClassVar[str] = ": the grace period is over"

    def __call__(self, value: object) -> bool:
        return not self.blocked_by(value)

    def blocked_by(self, value: object) -> tuple[int, ...]:
        """Return the CPUs whose sections are waited for; the waiter itself, where it waits inside a section."""
        waits = dict(srcu_state(value).grace_periods)
        return tuple(sorted({section.cpu for section in waits.get(self.cpu, ())}))

    def why(self, value: object, blocker: int) -> str:
        """Return that a section holds the grace period up."""
        return f"a grace period that a read-side section of CPU {blocker} holds up"


# one object each for a CPU: making them anew takes longer than what they do
_read_lock, _read_unlock, _begin, _elapsed = cache(_ReadLock), cache(_ReadUnlock), cache(_Begin), cache(_Elapsed)


def init_srcu_struct(words: Words, name: str) -> SrcuStruct:
    """Return a new srcu_struct. For `attach`, whose `boot` makes words."""
    return SrcuStruct(words.lock_word(name, UNUSED), name)


def srcu_read_lock(cpu: int, ssp: SrcuStruct) -> Steps[int]:
    """Begin a read-side section; return its index."""
    old = yield Rmw(ssp.address, _read_lock(cpu), Order.ACQUIRE)
    return srcu_state(old).next_index(cpu)


def srcu_read_unlock(cpu: int, ssp: SrcuStruct, idx: int) -> Steps[None]:
    """End the read-side section of that index. Raises ModelError unlock-without-lock."""
    old = yield Rmw(ssp.address, _read_unlock(cpu, idx), Order.RELEASE)
    if Section(cpu, idx) not in srcu_state(old).readers:
        message = f"CPU {cpu} leaves section {idx} of {ssp.name}, which it is not in"
        raise ModelError(UNLOCK_WITHOUT_LOCK, message, address=ssp.address)


def synchronize_srcu(cpu: int, ssp: SrcuStruct) -> Steps[None]:
    """Wait for a grace period of a srcu_struct that begins now."""
    yield Fence(Barrier.DMB_ISH)
    yield Rmw(ssp.address, _begin(cpu), Order.ACQUIRE_RELEASE)
    yield Await(ssp.address, _elapsed(cpu), Order.ACQUIRE)
    yield Fence(Barrier.DMB_ISH)
