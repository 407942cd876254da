"""What a CPU may do where it is: the rules of context, and the order of locks.

(kernel/sched/core.c: __might_resched; kernel/locking/lockdep.c; Linux 7.3.)

Under a spinlock, in an RCU reader, in the handler of an interrupt, and with interrupts or softirqs off nothing may be
called that may sleep: mutexes, semaphores, grace periods, and allocations that may reclaim. That is an error of the run
at the step that would sleep, whether or not it does, as with CONFIG_DEBUG_ATOMIC_SLEEP.

With PREEMPT_RT a spinlock sleeps and a raw spinlock does not. So a spinlock may not be waited for under a raw spinlock,
nor in a hardirq that PREEMPT_RT does not run in a thread: lockdep's rule of wait types (check_wait_context,
task_wait_context). The page allocator takes a spinlock, zone->lock, whatever the flags. As in lockdep, a trylock is no
wait, interrupts off are no lock, and NMI handlers are not looked at. Where every kernel sleeps, the error is the first.

Locks are taken in some order. Where a run takes B while it holds A, and later A while it holds B, there is a schedule
in which two CPUs wait for each other, or only other locks prevent it. As in lockdep that is an error though nobody
waits, locks that are only tried for begin no wait, and readers count as writers: a reader queues behind a writer that
waits. The orders are those of one run, so that its schedule shows all of them. What an interrupt's handler takes is not
taken under the locks of what it interrupts; for that there is `fuzzvm.kernel.irq_safety`.

Reclaim counts as a lock, as lockdep's `__fs_reclaim_map` does (mm/page_alloc.c): an allocation that may reclaim takes
it, and a shrinker runs while it is held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

from fuzzvm.kernel.errors import INVALID_WAIT_CONTEXT, LOCK_NOT_RELEASED, OF_FACTS, SLEEP_IN_ATOMIC
from fuzzvm.kernel.gfp import GFP_KERNEL, DirectReclaim, Gfp
from fuzzvm.kernel.interrupts import LocalBh
from fuzzvm.kernel.irq_safety import Conflict, Context, Used, conflict
from fuzzvm.kernel.locking.lock import WaitType, lock_action
from fuzzvm.kernel.pgtable import TableLabel
from fuzzvm.machine.blame import executing_error
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import (
    Address,
    Alloc,
    Annotation,
    Await,
    CacheMaintenance,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Steps,
    Store,
    Tlbi,
    Value,
)
from fuzzvm.machine.program import Keys, LocalState
from fuzzvm.machine.rewrite import Rewrite

BH_DISABLED = "local_bh_disable()"
SERVING_SOFTIRQ = "softirq_handle_begin()"
_OF_NO_RULE = frozenset({CacheMaintenance, Fence, Fetch, Free, InterruptAll, Load, Store, Tlbi})
"""The operations that may be executed anywhere."""


@dataclass(frozen=True, slots=True)
class Taken(Annotation):
    """One lock is about to be taken while this CPU holds another; the word of each."""

    held: Address
    taken: Address


Fact: TypeAlias = Taken | Used
"""What is remembered of how locks are taken."""


class LockOrder:
    """How the locks of one kernel are taken, over all runs so far; `name` says what one is called.

    `watched` is what the oracles are told of: most of it is part of no error, and a search need not remember it. None
    is all. `contexts` are the kinds of interrupts that there are, `irqs_off` the words of CPUs that have them off, and
    `fs_reclaim` is the word that stands for reclaim, None where there is no shrinker. `no_thread` says that PREEMPT_RT
    runs hardirqs in no thread.
    """

    def __init__(
        self,
        name: Callable[[Address], str],
        *,
        contexts: Collection[Context] = (),
        irqs_off: Collection[Address] = (),
        fs_reclaim: Address | None = None,
        no_thread: bool = False,
    ) -> None:
        self.name = name
        self.contexts = tuple(contexts)
        self.irqs_off = frozenset(irqs_off)
        self.fs_reclaim = fs_reclaim
        self.no_thread = no_thread
        self.seen: set[Fact] = set()
        self.watched: frozenset[Fact] | None = frozenset()
        self._learnt = 0

    def to_watch(self) -> frozenset[Fact]:
        """Return what the errors rest on that all runs together make; nothing where they make none."""
        return self.in_cycles() | (frozenset(self.seen) if irq_conflict(self.seen) else frozenset())

    def learn(self) -> bool:
        """Watch what the errors rest on that all runs so far make together; return whether that has changed."""
        if self.watched is None or len(self.seen) == self._learnt:
            return False
        self._learnt = len(self.seen)
        before, self.watched = self.watched, self.to_watch()
        return self.watched != before

    def watch_for(self, error: str) -> None:
        """Watch what a run needs that is known to end with an error: everything, or nothing."""
        self.watched = None if error in OF_FACTS else frozenset()

    def in_cycles(self) -> frozenset[Taken]:
        """Return those of the orders seen without which there is no cycle: all that are part of one, and few others."""
        left = {fact for fact in self.seen if isinstance(fact, Taken)}
        # what nothing leads to, or leads nowhere, closes no cycle
        while True:
            held, taken = {order.held for order in left}, {order.taken for order in left}
            inner = {order for order in left if order.held in taken and order.taken in held}
            if inner == left:
                return frozenset(left)
            left = inner


def irq_conflict(facts: Iterable[Fact]) -> Conflict | None:
    """Return the use of a lock in an interrupt, and of one with that interrupt enabled, that do not go together."""
    uses = [fact for fact in facts if isinstance(fact, Used)]
    return conflict(uses, _after(fact for fact in facts if isinstance(fact, Taken))) if uses else None


def cycle(orders: Iterable[Taken]) -> tuple[Taken, ...]:
    """Return the orders of a shortest cycle among some, beginning with the lowest address; none where there is none."""
    after = _after(orders)
    ways = [way for lock in sorted(after) if (way := _shortest_way(after, lock))]
    if not ways:
        return ()
    shortest = min(ways, key=len)
    return tuple(Taken(held, taken) for held, taken in pairwise(shortest))


def _after(orders: Iterable[Taken]) -> dict[Address, list[Address]]:
    after: dict[Address, list[Address]] = {}
    for order in orders:
        after.setdefault(order.held, []).append(order.taken)
    return after


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

    Both follow from its own operations and their responses. `context` is what it runs in. Raises ModelError
    sleep-in-atomic and invalid-wait-context, and tells the oracles what `order` watches.
    """

    __slots__ = ("_atomic", "_inner", "_locks", "_op", "_order", "_queued", "_spins", "_writes", "context")

    def __init__(
        self,
        make: Callable[[], Steps[object]],
        rewrite: Rewrite | None,
        order: LockOrder,
        context: Context = Context.PROCESS,
    ) -> None:
        super().__init__(make, rewrite)
        self._inner = self.send
        self.send = self._send_watched
        self._order = order
        self.context = context
        self._op: Rmw | Await | None = None
        self._queued: list[Operation | Annotation] = []
        self._locks: tuple[Address, ...] = ()
        self._writes: tuple[Address, ...] = ()
        """The locks that are held for writing, where interrupts are there."""
        self._atomic: tuple[Address | str, ...] = () if context is Context.PROCESS else (f"in {context.value}",)
        spins = context is Context.HARDIRQ and order.no_thread
        self._spins: tuple[Address | str, ...] = self._atomic if spins else ()
        """Why a spinlock may not be waited for: raw spinlocks that are held, and a hardirq that no thread runs."""

    def fresh(self) -> KernelProgram:
        return KernelProgram(self._make, self._rewrite, self._order, self.context)

    @property
    def softirqs_off(self) -> bool:
        """Whether it has softirqs disabled."""
        return BH_DISABLED in self._atomic or SERVING_SOFTIRQ in self._atomic

    @property
    def irqs_off(self) -> bool:
        """Whether it has interrupts disabled, softirqs with them."""
        return any(reason in self._order.irqs_off for reason in self._atomic)

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
        try:
            op = self._inner(response)
        except StopIteration:
            if BH_DISABLED in self._atomic:
                raise ModelError(LOCK_NOT_RELEASED, f"softirqs are still off: {BH_DISABLED}") from None
            raise
        kind = type(op)
        if kind in _OF_NO_RULE:
            if self._spins and kind is Free:
                raise self._waits("zone->lock, which a free takes,", op.address)  # type: ignore[union-attr]
            return op
        facts: list[Fact] = []
        if kind is Rmw or kind is Await:
            self._op = op  # type: ignore[assignment]
            try:
                facts = self._before(op)  # type: ignore[arg-type]
            except ModelError:
                raise
            except BaseException as error:
                # what an operation carries is the user's, and an exception of it must not end the program in silence
                raise executing_error(self, op, error) from error  # type: ignore[arg-type]
        elif kind is Alloc and isinstance(op.label, TableLabel):  # type: ignore[union-attr]
            flags = op.flags  # type: ignore[union-attr]
            facts = self._allocates(flags if isinstance(flags, Gfp) else GFP_KERNEL)
        elif kind is LocalBh:
            reason = SERVING_SOFTIRQ if op.serving else BH_DISABLED  # type: ignore[union-attr]
            if op.disabled:  # type: ignore[union-attr]
                self._atomic = (*self._atomic, reason)
            else:
                facts = self._to_tell(self._held_where_enabled(reason))
                self._atomic = _without(self._atomic, reason)
        elif kind is DirectReclaim:
            facts = self._reclaims(op)  # type: ignore[arg-type]
        if facts:
            self._queued = [*facts[1:], op]
            return facts[0]
        return op

    def _before(self, op: Rmw | Await) -> list[Fact]:
        """Check what a CPU is about to do to a lock; return what the oracles are to be told."""
        about: Any = op.update if type(op) is Rmw else op.when
        may_sleep = getattr(about, "may_sleep", False) or getattr(op.when, "may_sleep", False)
        if may_sleep and self._atomic:
            raise self._sleeps(f"{self._order.name(op.address)} may be waited for", op.address)
        waits = getattr(about, "waits", False)
        if self._spins and waits and getattr(about, "wait_type", WaitType.SPIN) > WaitType.SPIN:
            raise self._waits(self._order.name(op.address), op.address)
        facts: list[Fact] = []
        if self._order.contexts:
            facts += self._uses(op.address, about, waits=waits)
            if op.address in self._order.irqs_off and getattr(about, "atomic", 0) < 0:
                facts += self._held_where_enabled(op.address)
        if waits and self._locks:
            facts += [Taken(lock, op.address) for lock in self._locks]
        return self._to_tell(facts)

    def _to_tell(self, facts: list[Fact]) -> list[Fact]:
        if not facts:
            return facts
        self._order.seen.update(facts)
        watched = self._order.watched
        return facts if watched is None else [fact for fact in facts if fact in watched]

    def _uses(self, lock: Address, about: Any, *, waits: bool) -> list[Fact]:
        """Return how a lock is used that is about to be taken; nothing where it is not about that."""
        answer, unhindered = getattr(about, "action", None), getattr(about, "unhindered", None)
        action = answer(unhindered()) if answer is not None and unhindered is not None else None
        if action is None or action.release:
            return []
        serves = Context.SOFTIRQ if SERVING_SOFTIRQ in self._atomic else self.context
        inside = [context for context in self._order.contexts if waits and context is serves]
        outside = [context for context in self._order.contexts if self._may_interrupt(context)]
        return [
            *(Used(lock, context, True, action.write) for context in inside),
            *(Used(lock, context, False, action.write) for context in outside),
        ]

    def _held_where_enabled(self, reason: Address | str) -> list[Fact]:
        """Return how the locks are used that are held where `reason` ends, which keeps interrupts away.

        (mark_held_locks, of lockdep_hardirqs_on and lockdep_softirqs_on.)
        """
        before, self._atomic = self._atomic, _without(self._atomic, reason)
        enabled = [context for context in self._order.contexts if self._may_interrupt(context)]
        self._atomic = before
        return [
            Used(lock, context, False, lock in self._writes)
            for lock in self._locks
            if lock != self._order.fs_reclaim
            for context in enabled
        ]

    def _may_interrupt(self, context: Context) -> bool:
        """Return whether an interrupt of that kind may come here, as far as this code has a say in it."""
        if context is Context.NMI:
            return self.context is not Context.NMI
        if self.context in (Context.NMI, Context.HARDIRQ) or self.irqs_off:
            return False
        return context is Context.HARDIRQ or (self.context is Context.PROCESS and not self.softirqs_off)

    def _allocates(self, gfp: Gfp) -> list[Fact]:
        if gfp.direct_reclaim and self._atomic:
            raise self._sleeps(f"an allocation ({gfp.name}) may sleep", None)
        if self._spins:
            raise self._waits(f"zone->lock, which an allocation ({gfp.name}) takes,", None)
        if not gfp.direct_reclaim:
            return []
        reclaim = self._order.fs_reclaim
        if reclaim is None or not gfp.fs or reclaim in self._locks:
            return []
        return self._to_tell([Taken(lock, reclaim) for lock in self._locks])

    def _reclaims(self, reclaim: DirectReclaim) -> list[Fact]:
        if reclaim.ends:
            self._locks = (
                self._locks if self._order.fs_reclaim is None else _without(self._locks, self._order.fs_reclaim)
            )
            return []
        facts = self._allocates(reclaim.gfp)
        if self._order.fs_reclaim is not None and reclaim.gfp.fs:
            self._locks = (*self._locks, self._order.fs_reclaim)
        return facts

    def _after(self, op: Rmw | Await, response: Value) -> None:
        """Remember what a CPU has done to a lock."""
        about: Any = op.update if type(op) is Rmw else op.when
        atomic = getattr(about, "atomic", 0)
        if atomic > 0:
            self._atomic = (*self._atomic, op.address)
            if getattr(about, "wait_type", None) is WaitType.SPIN:
                self._spins = (*self._spins, op.address)
        elif atomic < 0:
            self._atomic = _without(self._atomic, op.address)
            self._spins = _without(self._spins, op.address)
        action = lock_action(op, response)
        if action is None or action.queued or action.failed or action.downgrade:
            return
        if action.release:
            self._locks = _without(self._locks, op.address)
            self._writes = _without(self._writes, op.address)
            return
        self._locks = (*self._locks, op.address)
        if action.write and self._order.contexts:
            self._writes = (*self._writes, op.address)

    def _sleeps(self, what: str, address: Address | None) -> ModelError:
        return ModelError(SLEEP_IN_ATOMIC, f"{what} in atomic context: {self._named(self._atomic)}", address=address)

    def _waits(self, lock: str, address: Address | None) -> ModelError:
        where = self._named(self._spins)
        return ModelError(INVALID_WAIT_CONTEXT, f"{lock} may sleep with PREEMPT_RT, under {where}", address=address)

    def _named(self, reasons: Iterable[Address | str]) -> str:
        return ", ".join(self._order.name(why) if isinstance(why, int) else why for why in reasons)

    def stack_of(self, error: Exception) -> tuple[str, ...]:
        # an error of its own is raised while the generator stands at the operation that is refused
        return super().stack_of(error) or self.stack()

    def local_state(self, keys: Keys) -> LocalState:
        state = super().local_state(keys)
        if not self._locks and not self._atomic:
            return state
        # most often they follow from where the program stands; code that takes a lock on one way alone is the exception
        held = (state.key, self._locks, self._atomic)
        more = (self._writes, self._spins) if self._writes or self._spins else ()
        return LocalState(state.location, (*held, *more))


T = TypeVar("T")


def _without(locks: tuple[T, ...], lock: T) -> tuple[T, ...]:
    """Return locks without the last one that is this one; as they are where it is none of them."""
    for place in range(len(locks) - 1, -1, -1):
        if locks[place] == lock:
            return locks[:place] + locks[place + 1 :]
    return locks
