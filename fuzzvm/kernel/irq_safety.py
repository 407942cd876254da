"""Locks and the interrupts of the CPU that holds them: lockdep's rule of irq-safe and irq-unsafe locks.

(kernel/locking/lockdep.c: mark_usage, check_irq_usage, verify_lock_unused; Documentation/locking/lockdep-design.rst,
"Single-lock state rules" and "Multi-lock dependency rules"; Linux 7.3.)

A lock that code in an interrupt waits for is safe for that context. It must never be held with the context enabled: an
interrupt on the holder's CPU would wait for ever. Nor may a safe lock be held while one is taken that is somewhere held
with the context enabled, directly or by way of others. As in lockdep, a trylock in an interrupt makes no lock safe,
since it does not wait; a trylock outside makes it unsafe, since the lock is held then. Two readers are no conflict.
Nothing disables NMIs, so that a lock that an NMI handler waits for is nobody else's.

An error needs no run in which it hurts: that both uses are there is enough.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fuzzvm.machine.ops import Address, Annotation


class Context(enum.Enum):
    """What a CPU executes: a task, or the handler of an interrupt of that kind."""

    PROCESS = "process"
    SOFTIRQ = "softirq"
    HARDIRQ = "hardirq"
    NMI = "nmi"


@dataclass(frozen=True, slots=True)
class Used(Annotation):
    """A lock is about to be taken: in a handler that waits for it (`inside`), or where the context may interrupt."""

    lock: Address
    context: Context
    inside: bool
    write: bool


class Conflict(NamedTuple):
    """`inside` makes a lock safe, and `outside` makes the last of `way` unsafe; `way` leads from one to the other.

    Each lock of the way is taken while the one before is held. It is one lock where safe and unsafe are the same.
    """

    inside: Used
    outside: Used
    way: tuple[Address, ...]


def conflict(uses: Iterable[Used], after: Mapping[Address, Iterable[Address]]) -> Conflict | None:
    """Return the conflict with the shortest way, the lowest addresses first; None where there is none.

    `after` has the locks that are taken while each lock is held.
    """
    ordered = sorted(uses, key=_key)
    found: Conflict | None = None
    for inside in (use for use in ordered if use.inside):
        for lock, way in _ways(inside.lock, after).items():
            if found is not None and len(way) >= len(found.way):
                continue
            outside = next((use for use in ordered if _conflicts(inside, use, lock)), None)
            if outside is not None:
                found = Conflict(inside, outside, way)
    return found


def _key(use: Used) -> tuple[Address, str, bool, bool]:
    return use.lock, use.context.value, use.inside, not use.write


def _conflicts(inside: Used, use: Used, lock: Address) -> bool:
    return use.lock == lock and not use.inside and use.context is inside.context and (inside.write or use.write)


def _ways(lock: Address, after: Mapping[Address, Iterable[Address]]) -> dict[Address, tuple[Address, ...]]:
    """Return the locks that are taken under a lock, itself first, each with a shortest way to it."""
    ways: dict[Address, tuple[Address, ...]] = {lock: (lock,)}
    todo = [lock]
    for held in todo:
        for taken in sorted(after.get(held, ())):
            if taken not in ways:
                ways[taken] = (*ways[held], taken)
                todo.append(taken)
    return ways
