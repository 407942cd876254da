"""What AArch64 memory holds of one CPU: its views, and what it has executed that has no place on the timeline yet."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from fuzzvm.machine.memory.arm64.timeline import CLEAN, INVALIDATE
from fuzzvm.machine.memory.arm64.views import RELEASES, Views
from fuzzvm.machine.ops import Address, Order, Value


@dataclass(frozen=True, slots=True)
class Pending:
    """A store, DC or IC that has been executed and has no place on the timeline yet.

    `epoch` counts store barriers before it; `dependency` is the view of its address, `data` that of its value.
    """

    kind: int
    address: Address
    value: Value
    order: Order
    epoch: int
    dependency: int
    data: int = 0

    def key(self, key_of: Callable[[Value], Hashable]) -> tuple[Hashable, ...]:
        """Return a value that is equal for equal entries."""
        return self.kind, self.address, key_of(self.value), self.order, self.epoch, self.dependency, self.data

    def after(self, earlier: Pending) -> bool:
        """Return whether this must follow a message of the same CPU that was executed before it."""
        if self.kind == INVALIDATE or earlier.kind == INVALIDATE:
            return False  # ordered by DSB only, and a DSB leaves nothing pending
        if self.address == earlier.address:
            return True  # coherence, and po-scl-ob between store and DC
        if self.kind == CLEAN or earlier.kind == CLEAN:
            return False
        return self.order in RELEASES or self.epoch > earlier.epoch


class Local:
    """One CPU's part of a memory's state. Many memories look at it: `Arm64` copies it before it changes anything.

    Its dictionaries are never changed, only replaced.
    """

    __slots__ = ("epoch", "learned", "loads", "overtaken", "pending", "tokens", "views")

    def __init__(self, views: Views) -> None:
        self.views = views
        self.pending: tuple[Pending, ...] = ()
        self.epoch = 0
        """Store barriers so far, as `Pending` counts them."""
        self.learned: dict[int, int] = {}
        """By the object, the view of the last load whose value points there."""
        self.loads: frozenset[int] = frozenset()
        """Objects that the CPU has loaded from since it last ordered its loads before what follows."""
        self.overtaken: frozenset[int] = frozenset()
        """Those of them that a store of the CPU has followed, which nothing keeps from being seen first."""
        self.tokens: dict[int, int] = {}
        """The views of the loads that operations to come may depend on, by the names of these loads."""

    def copy(self) -> Local:
        """Return an equal one that goes its own way."""
        other = Local.__new__(Local)
        other.views = self.views.copy()
        other.pending = self.pending
        other.epoch = self.epoch
        other.learned = self.learned
        other.loads = self.loads
        other.overtaken = self.overtaken
        other.tokens = self.tokens
        return other

    def key(self, key_of: Callable[[Value], Hashable]) -> tuple[Hashable, ...]:
        """Return a value that is equal for equal ones, with `key_of(value)` for values."""
        return (
            self.views.key(),
            tuple([entry.key(key_of) for entry in self.pending]),
            self.epoch,
            frozenset(self.learned.items()),
            self.loads,
            self.overtaken,
            frozenset(self.tokens.items()),
        )
