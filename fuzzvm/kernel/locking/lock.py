"""What all kinds of lock have in common, and how others learn about one without knowing its kind.

A lock is one word, which each call changes in one atomic step. What the word holds, the updates of the steps and the
conditions that CPUs wait for are immutable objects of the kind. They answer for themselves: searches ask for
`renamed`, oracles for `left`, counters and exports for `action`, reports for `held_by`, `why` and `in_words`.
Each answer is optional, as `LockValue`, `LockUpdate` and `LockCondition` say.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

from fuzzvm.machine.ops import Address, Await, Operation, Rmw, Value


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock's word and name."""

    address: Address
    name: str


class Words(Protocol):
    """Makes the words of locks at boot."""

    def lock_word(self, name: str, unused: str = "free", words: int = 1) -> Address:
        """Return the address of a new word that holds 0, or of the first of several; `unused` says what 0 means."""


class WaitType(enum.IntEnum):
    """How a CPU waits for a lock (enum lockdep_wait_type of include/linux/lockdep_types.h, Linux 7.3).

    `SPIN`: it spins, raw_spinlock_t. `CONFIG`: it spins, but sleeps with PREEMPT_RT, spinlock_t. `SLEEP`: it sleeps.
    """

    SPIN = 2
    CONFIG = 3
    SLEEP = 4


class LockAction(NamedTuple):
    """A lock is taken, or released (`release`). `write` says whether nobody else may have it at the same time.

    `queued`: it was not free, and a wait follows, whose end is an action of its own.
    `failed`: a trylock that did not get it. `downgrade`: a release after which the CPU still has it to read.
    """

    write: bool
    release: bool = False
    queued: bool = False
    failed: bool = False
    downgrade: bool = False


class LockValue(Protocol):
    """What the word of a lock holds, where it is not 0. Immutable."""

    def renamed(self, names: Sequence[int]) -> Value:
        """Return it after CPU `i` has become CPU `names[i]`; left out where it holds no names of CPUs."""

    def left(self, name: str) -> str:
        """Return what is wrong with the lock of that name where a run ends so, '' where nothing is."""

    def held_by(self, cpu: int) -> bool:
        """Return whether a CPU has what others may wait for."""

    def in_words(self) -> str:
        """Return what it says, for reports; CPUs are called `CPU 1`."""


class LockUpdate(Protocol):
    """The update of an Rmw of a lock. Immutable, and compares by value."""

    waits: bool
    """Whether it is the beginning of taking a lock that waits until it has it; left out where it never waits."""
    may_sleep: bool
    """Whether the CPU may sleep in what it begins; left out where it never sleeps."""
    atomic: int
    """1 where the CPU may not sleep from here on, -1 where that ends; left out where it makes no difference."""
    wait_type: WaitType
    """How it waits for a spinlock, or which one it releases; left out of other kinds of lock, which sleep."""

    def __call__(self, value: Any, /) -> Value:
        """Return what the word holds afterwards."""

    def renamed(self, names: Sequence[int]) -> Self:
        """Return it after CPU `i` has become CPU `names[i]`; left out where it holds no names of CPUs."""

    def action(self, old: Any) -> LockAction | None:
        """Return what it does to the lock where the word held `old`; left out where it is no matter of having it."""

    def unhindered(self) -> Value:
        """Return what the word may have held where the update does what it is for: free to take, held to release."""


class LockCondition(Protocol):
    """What a CPU waits for at a lock; a `fuzzvm.machine.ops.Condition`, immutable, and compares by value."""

    may_sleep: bool
    """Whether the CPU may sleep while it waits, where the operation's update does not say; left out where it spins."""
    ending: str
    """What reports say behind the lock's name when the wait is over; ' is granted' where it is left out."""

    def renamed(self, names: Sequence[int]) -> Self:
        """Return it after CPU `i` has become CPU `names[i]`; left out where it holds no names of CPUs."""

    def action(self, value: Any) -> LockAction | None:
        """Return what was done to the lock where this value has ended the wait; left out as in updates."""

    def why(self, value: Any, blocker: int) -> str:
        """Return why a CPU that `blocked_by` names is waited for; `CPU 1 holds it` where it is left out."""


@dataclass(frozen=True, slots=True)
class OfCpu:
    """An update or condition of one CPU's. Raises TypeError where something else is given than the CPU's number."""

    cpu: int

    def __post_init__(self) -> None:
        if not isinstance(self.cpu, int):
            raise TypeError(f"a lock is given the number of a CPU, k.cpu, and not a {type(self.cpu).__name__}")

    def renamed(self, names: Sequence[int]) -> Self:
        """Return it after CPU `i` has become CPU `names[i]`."""
        return replace(self, cpu=names[self.cpu])


def lock_action(op: Operation | None, response: Value) -> LockAction | None:
    """Return what an operation that got this response did to a lock, or None where it is about none."""
    about = op.update if isinstance(op, Rmw) else op.when if isinstance(op, Await) else None
    action = getattr(about, "action", None)
    return None if action is None else action(response)


def left(value: Value, name: str) -> str:
    """Return what is wrong with a lock of that name whose word holds a value at the end of a run, '' if nothing is."""
    answer = getattr(value, "left", None)
    return "" if answer is None else answer(name)


def held_by(value: Value, cpu: int) -> bool:
    """Return whether a CPU has the lock whose word holds a value."""
    answer = getattr(value, "held_by", None)
    return answer is not None and answer(cpu)


def readers_and_writers(writer: str, readers: Sequence[int], waiters: Sequence[tuple[int, bool]]) -> str:
    """Return who has a lock to read or write and who waits, in words; `writer` says who writes, '' where nobody does.

    Waiters are CPUs in order, each with whether it waits to write.
    """
    parts = [writer] if writer else []
    if readers:
        parts.append(f"CPU {', '.join(map(str, readers))} read" + ("s" if len(readers) == 1 else ""))
    if waiters:
        waiting = ", ".join(f"CPU {cpu} to {'write' if write else 'read'}" for cpu, write in waiters)
        parts.append(f"waiting: {waiting}")
    return "; ".join(parts) or "free"
