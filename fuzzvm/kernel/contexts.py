"""What a CPU may do where it is: the rules of context, and the order of locks.

(kernel/sched/core.c: __might_resched; kernel/locking/lockdep.c; Linux 7.3.)

Under a spinlock, in an RCU reader and with interrupts off nothing may be called that may sleep: mutexes, semaphores,
grace periods, and allocations, all of which are GFP_KERNEL here. That is an error of the run at the step that would
sleep, whether or not it does, as with CONFIG_DEBUG_ATOMIC_SLEEP.

Locks are taken in some order. Where a run takes B while it holds A, and later A while it holds B, there is a schedule
in which two CPUs wait for each other, or only other locks prevent it. As in lockdep that is an error though nobody
waits, locks that are only tried for begin no wait, and readers count as writers: a reader queues behind a writer that
waits. The orders are those of one run, so that its schedule shows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fuzzvm.kernel.errors import SLEEP_IN_ATOMIC
from fuzzvm.kernel.locking.lock import lock_action
from fuzzvm.kernel.pgtable import TableLabel
from fuzzvm.machine.blame import executing_error
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import Address, Alloc, Annotation, Await, Operation, Rmw, Steps, Value
from fuzzvm.machine.program import Keys, LocalState
from fuzzvm.machine.rewrite import Rewrite


@dataclass(frozen=True, slots=True)
class Taken(Annotation):
    """One lock is about to be taken while this CPU holds another; the word of each."""

    held: Address
    taken: Address


class LockOrder:
    """The orders in which the locks of one kernel are taken, over all runs so far; `name` says what one is called.

    `watched` are the orders that the oracles are told of: most of them are part of no cycle, and a search need not
    remember them. None is all.
    """

    def __init__(self, name: Callable[[Address], str]) -> None:
        self.name = name
        self.seen: set[Taken] = set()
        self.watched: frozenset[Taken] | None = frozenset()

    def in_cycles(self) -> frozenset[Taken]:
        """Return those of the orders seen without which there is no cycle: all that are part of one, and few others."""
        left = set(self.seen)
        # what nothing leads to, or leads nowhere, closes no cycle
        while True:
            held, taken = {order.held for order in left}, {order.taken for order in left}
            inner = {order for order in left if order.held in taken and order.taken in held}
            if inner == left:
                return frozenset(left)
            left = inner


def cycle(orders: Iterable[Taken]) -> tuple[Taken, ...]:
    """Return the orders of a shortest cycle among some, beginning with the lowest address; none where there is none."""
    after: dict[Address, list[Address]] = {}
    for order in orders:
        after.setdefault(order.held, []).append(order.taken)
    ways = [way for lock in sorted(after) if (way := _shortest_way(after, lock))]
    if not ways:
        return ()
    shortest = min(ways, key=len)
    return tuple(Taken(held, taken) for held, taken in pairwise(shortest))


def _shortest_way(after: Mapping[Address, list[Address]], lock: Address) -> tuple[Address, ...]:
    """Return the locks of a shortest way from one back to itself, with it at both ends; none if there is none."""
    ways: list[tuple[Address, ...]] = [(lock,)]
    seen: set[Address] = set()
    while ways:
        longer = [(*way, following) for way in ways for following in sorted(after.get(way[-1], ()))]
        for way in longer:
            if way[-1] == lock:
                return way
        ways = []
        for way in longer:
            if way[-1] not in seen:
                seen.add(way[-1])
                ways.append(way)
    return ()


class KernelProgram(GeneratorProgram):
    """A generator of the kernel's that knows which locks its CPU holds, and why it may not sleep.

    Both follow from its own operations and their responses. Raises ModelError sleep-in-atomic, and tells the oracles
    the orders of locks that `order` watches.
    """

    __slots__ = ("_atomic", "_held", "_inner", "_op", "_order", "_queued")

    def __init__(self, make: Callable[[], Steps[object]], rewrite: Rewrite | None, order: LockOrder) -> None:
        super().__init__(make, rewrite)
        self._inner = self.send
        self.send = self._send_watched
        self._order = order
        self._op: Rmw | Await | None = None
        self._queued: list[Operation | Annotation] = []
        self._held: tuple[Address, ...] = ()
        self._atomic: tuple[Address, ...] = ()

    def fresh(self) -> KernelProgram:
        return KernelProgram(self._make, self._rewrite, self._order)

    def _send_watched(self, response: Value) -> Operation | Annotation:
        if self._queued:
            # what was sent is the answer to an annotation: none
            return self._queued.pop(0)
        done = self._op
        if done is not None:
            self._op = None
            try:
                self._after(done, response)
            except BaseException as error:
                raise executing_error(self, done, error) from error
        op = self._inner(response)
        kind = type(op)
        if kind is Rmw or kind is Await:
            self._op = op  # type: ignore[assignment]
            try:
                orders = self._before(op)  # type: ignore[arg-type]
            except ModelError:
                raise
            except BaseException as error:
                # what an operation carries is the user's, and an exception of it must not end the program in silence
                raise executing_error(self, op, error) from error  # type: ignore[arg-type]
            if orders:
                self._queued = [*orders[1:], op]
                return orders[0]
        elif kind is Alloc and self._atomic and isinstance(op.label, TableLabel):  # type: ignore[union-attr]
            raise self._sleeps("an allocation (GFP_KERNEL) may sleep", None)
        return op

    def _before(self, op: Rmw | Await) -> list[Taken]:
        """Check what a CPU is about to do to a lock; return the orders that the oracles are to be told of."""
        about: Any = op.update if type(op) is Rmw else op.when
        may_sleep = getattr(about, "may_sleep", False) or getattr(op.when, "may_sleep", False)
        if may_sleep and self._atomic:
            raise self._sleeps(f"{self._order.name(op.address)} may be waited for", op.address)
        if not self._held or not getattr(about, "waits", False):
            return []
        orders = [Taken(held, op.address) for held in self._held]
        self._order.seen.update(orders)
        return [order for order in orders if self._order.watched is None or order in self._order.watched]

    def _after(self, op: Rmw | Await, response: Value) -> None:
        """Remember what a CPU has done to a lock."""
        about: Any = op.update if type(op) is Rmw else op.when
        atomic = getattr(about, "atomic", 0)
        if atomic > 0:
            self._atomic = (*self._atomic, op.address)
        elif atomic < 0:
            self._atomic = _without(self._atomic, op.address)
        action = lock_action(op, response)
        if action is None or action.queued or action.failed or action.downgrade:
            return
        self._held = _without(self._held, op.address) if action.release else (*self._held, op.address)

    def _sleeps(self, what: str, address: Address | None) -> ModelError:
        where = ", ".join(self._order.name(lock) for lock in self._atomic)
        return ModelError(SLEEP_IN_ATOMIC, f"{what} in atomic context: {where}", address=address)

    def stack_of(self, error: Exception) -> tuple[str, ...]:
        # an error of its own is raised while the generator stands at the operation that is refused
        return super().stack_of(error) or self.stack()

    def local_state(self, keys: Keys) -> LocalState:
        state = super().local_state(keys)
        if not self._held and not self._atomic:
            return state
        # most often they follow from where the program stands; code that takes a lock on one way alone is the exception
        return LocalState(state.location, (state.key, self._held, self._atomic))


def _without(locks: tuple[Address, ...], lock: Address) -> tuple[Address, ...]:
    """Return locks without the last one that is this one; as they are where it is none of them."""
    for place in range(len(locks) - 1, -1, -1):
        if locks[place] == lock:
            return locks[:place] + locks[place + 1 :]
    return locks
