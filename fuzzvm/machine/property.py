"""What must hold of a run: watches it from outside, remembers what it must, and says which error a step is.

A search compares states by what the property remembers as well, so that this must be small and immutable.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from fuzzvm.machine.allocator import Allocation, Allocator
from fuzzvm.machine.ops import Address, Annotation, Fence, InterruptAll, Tlbi, Value


class Observer(Protocol):
    """Sees one run from outside, all of memory at once. It raises ModelError, and never steps."""

    remembered: Any
    """All that it remembers of the run so far: hashable and immutable, and to be set where a search goes on."""

    def wrote(self, cpu: int, address: Address, old: Value, new: Value) -> None:
        """A write has taken effect at a location of an object that `watch` was called for."""

    def allocated(self, cpu: int, allocation: Allocation) -> None:
        """An object was allocated."""

    def freeing(self, cpu: int, allocation: Allocation) -> None:
        """A live object is about to be freed."""

    def annotated(self, cpu: int, annotation: Annotation) -> None:
        """A program said something."""

    def became_visible(self, address: Address, old: Value, new: Value) -> None:
        """Every CPU can see a store to a watched object now. Where `report_hardware` was called, of memory that delays
        stores.
        """

    def maintained(self, cpu: int, op: Fence | Tlbi | InterruptAll) -> None:
        """A barrier, an invalidation or an interrupt was executed. Where `report_hardware` was called."""

    def finished(self) -> None:
        """Every program has returned."""


class Memory(Protocol):
    """Memory as observers read it."""

    cpus: int

    def peek(self, address: Address) -> Value:
        """Return a location's latest value."""


class World(Protocol):
    """What observers look at: a machine, or one state of a search."""

    @property
    def memory(self) -> Memory:
        """All of memory."""

    @property
    def allocator(self) -> Allocator:
        """All objects."""

    def watch(self, address: Address) -> None:
        """Report writes to the object at `address` to the observer."""

    def report_hardware(self) -> None:
        """Report what TLBs and walk caches depend on to the observer."""


class Look(NamedTuple):
    """What an observer looks at when a program says something.

    `locations` are those that it reads, as `Observed` names them. With `lasting`, what passes its check now passes it
    after any writes of others as well. With `readable`, it asks what the CPU may still read of the objects watched.
    """

    locations: Sequence[Hashable] = ()
    lasting: bool = False
    readable: bool = False


class Observed:
    """Which locations observers read, for partial-order reduction. This one reads none.

    Locations are named by values of the property's own. Naming more than are read is sound and costs states.
    """

    all: Sequence[Hashable] = ()
    """All locations that there are."""

    def store(self, address: Address) -> Sequence[Hashable]:
        """Return the locations that change with a store to an object that is watched, beside the one stored to."""
        return ()

    def check(self, address: Address, value: Value) -> None:
        """Raise AssertionError for a store of which `store` would not tell all."""

    def free(self, address: Address) -> Sequence[Hashable]:
        """Return the locations that are read when the object at an address is freed."""
        return ()

    def annotation(self, annotation: Annotation) -> Look:
        """Return what is looked at when a program says this."""
        return Look()

    def knows(self, label: Hashable) -> bool:
        """Return whether an object of this label was among those that it was told will be allocated."""
        return True


class Property:
    """What must hold of the runs of one task. This one asks nothing: what fails is what machine and programs refuse."""

    initial: Hashable = ()
    """What is remembered when a run begins. While nothing else is, a write must change nothing of it and be no error,
    unless `hardware` is watched: the search under sequential consistency does not report it then.
    """
    hardware: bool = False
    """Whether it depends on what TLBs and walk caches may hold, and so on barriers and invalidations."""

    def observer(self, world: World) -> Observer:
        """Return what watches one world; `initial` is what it remembers."""
        return _Nobody()

    def observed(self, allocated: Iterable[Hashable] | None = None) -> Observed:
        """Return what its observers read.

        Objects that are allocated during a run have these labels. Where None is given, they may have any.
        """
        return Observed()

    def renamed(self, remembered: Any, names: Sequence[int]) -> Hashable:
        """Return what is remembered after CPU `i` has become CPU `names[i]`."""
        return remembered  # type: ignore[no-any-return]


class _Nobody:
    """An observer that asks nothing."""

    def __init__(self) -> None:
        self.remembered = ()

    def wrote(self, cpu: int, address: Address, old: Value, new: Value) -> None:
        pass

    def allocated(self, cpu: int, allocation: Allocation) -> None:
        pass

    def freeing(self, cpu: int, allocation: Allocation) -> None:
        pass

    def annotated(self, cpu: int, annotation: Annotation) -> None:
        pass

    def became_visible(self, address: Address, old: Value, new: Value) -> None:
        pass

    def maintained(self, cpu: int, op: Fence | Tlbi | InterruptAll) -> None:
        pass

    def finished(self) -> None:
        pass
