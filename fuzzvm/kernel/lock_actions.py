"""What an operation does to a lock, for those who read a trace."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.kernel import locks, rwsem
from fuzzvm.machine.ops import Address, Await, Operation, Rmw, Value


@dataclass(frozen=True, slots=True)
class LockAction:
    """A lock is taken, or released (`release`). `write` says whether nobody else may have it at the same time.

    `queued`: it was not free, and a wait follows, whose end is an action of its own.
    `failed`: a trylock that did not get it.
    """

    address: Address
    write: bool
    release: bool = False
    queued: bool = False
    failed: bool = False


def lock_action(op: Operation | None, response: Value) -> LockAction | None:
    """Return what an operation that got this response did to a lock, or None where it is about none."""
    if isinstance(op, Rmw):
        if (write := locks.sets_owner(op.update)) is not None:
            return LockAction(op.address, True, release=not write)
        return _rwsem_action(op, response)
    if isinstance(op, Await) and rwsem.is_grant(op.when):
        return LockAction(op.address, rwsem.granted_to_write(op.when, response))
    return None


def _rwsem_action(op: Rmw, response: Value) -> LockAction | None:
    kind = rwsem.kind_of(op.update)
    if kind is None:
        return None
    if kind.release:
        return LockAction(op.address, kind.write, release=True)
    if rwsem.is_free_for(response, write=kind.write):
        return LockAction(op.address, kind.write)
    return LockAction(op.address, kind.write, queued=not kind.trylock, failed=kind.trylock)
