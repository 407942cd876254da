"""Memory models: what a load may return, when a store is seen. One file a model.

A model is found by its module's name in this package: `sc`, `tso`, `arm64`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from fuzzvm.machine.ops import (
    Address,
    Await,
    Barrier,
    CacheMaintenance,
    Fence,
    Fetch,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Store,
    Tlbi,
    Value,
    object_of,
)
from fuzzvm.machine.remarks import Remark

Choose = Callable[[int], int]
"""Asks the schedule: given n > 1 ways to go on, returns which, from 0 to n - 1. 0 is what sc would do."""


def object_of_value(value: Value) -> int:
    """Return the number of the object that a value points to, if it is an address; 0 if it points nowhere."""
    return object_of(value) if isinstance(value, int) and value > 0 else 0


def _itself(value: Value) -> Hashable:
    return value


class Needs(NamedTuple):
    """What one CPU may still do with memory, by location. What it says too much costs states, and never is wrong.

    `loads` are locations of plain loads, which may be stale, `reads` those of loads, waits and atomics, `fetches` those
    of instructions, `ordering` those of acquires and atomics; `frees` are numbers of objects that it may free,
    `barriers` the kinds that it may execute. `stores` says whether it may store other than by an atomic, `overtakes`
    whether what it stores may be seen before the loads that it has executed so far. `exact` says whether operations
    may say what they depend on, so that any load may depend on any other.
    """

    loads: frozenset[Address]
    reads: frozenset[Address]
    fetches: frozenset[Address]
    ordering: frozenset[Address]
    frees: frozenset[int]
    barriers: frozenset[Barrier]
    stores: bool
    overtakes: bool
    exact: bool = False


class Unfinished(NamedTuple):
    """What a CPU has begun: `locations` whose writes, DC or IC have yet to take effect, `objects` in flight.

    Objects in flight are those whose free by another CPU is, or may become with the CPU's next store, a race.
    """

    locations: frozenset[Address] = frozenset()
    objects: frozenset[int] = frozenset()


NOTHING = Unfinished()


class MemoryModel(ABC):
    """Memory, as the CPUs of one machine see it.

    Every method that executes an operation may call `choose` any number of times, each with a number of ways that
    follows from the machine's state alone: that is what makes a schedule replay.
    """

    name: ClassVar[str]
    stale_reads: ClassVar[bool] = False
    """Whether a load may return what was overwritten before it, in the order in which the machine steps."""

    reducible: ClassVar[bool] = False
    """Whether `unfinished` and `settles` say all there is to say, so that orders of steps can be left out."""

    without_load_buffering: ClassVar[bool] = False
    """Whether the architecture lets a store be seen before an earlier load of its CPU returns, and this does not."""

    remark: Remark | None = None
    """What the operation just executed did that sequential consistency would not; a trace resets it for each step."""

    cells: dict[Address, Value] | None = None
    """Every location that does not hold 0, where a load, store or fetch does nothing but look up or set one here."""

    no_effect: ClassVar[frozenset[type]] = frozenset()
    """Kinds of operations that do nothing under this model, and have no response."""

    points_to: Callable[[Value], int] = staticmethod(object_of_value)
    """Which object a loaded value points to, 0 if none, for models that know address dependencies."""

    key_of: Callable[[Value], Hashable] = staticmethod(_itself)
    """What stands for a value in `state()`: for searches, where values that are equal may still differ in type."""
    delays_stores: ClassVar[bool] = False
    """Whether others may see a store later than it is executed; then `on_visible` is told when they do."""

    on_visible: Callable[[Address, Value, Value], None] | None = None
    """Called with location, old and new value when every CPU can see a store. No part of the state; not copied."""

    def __init__(self, cpus: int) -> None:
        """Make the memory of a machine with that many CPUs; every location holds 0."""
        self.cpus = cpus

    @abstractmethod
    def copy(self) -> MemoryModel:
        """Return memory in the same state that goes its own way."""

    def state(self) -> tuple[Hashable, ...]:
        """Return all that the future depends on, in immutable parts: equal values, equal futures.

        What memory holds is in it as `key_of` has it.

        Exhaustive search needs it. Raises NotImplementedError where a model has none.
        """
        raise NotImplementedError(f"memory model {self.name} cannot be searched exhaustively")

    def parts(self) -> tuple[Hashable, ...]:
        """Return what stands for the parts of `state()` among the copies of one memory: equal parts, equal values.

        A memory that has been asked keeps equal parts as one object, and is only copied from then on.
        """
        return self.state()

    def compared_by(self, key_of: Callable[[Value], Hashable]) -> None:
        """Be told that a search begins, in which `key_of` says what stands for a value in `state()`."""
        self.key_of = key_of

    def normalise(self, needs: Sequence[Needs]) -> None:  # noqa: B027 - a model may remember nothing that can be forgotten
        """Take the normal form of states with the same future, given what each CPU may still do.

        A state and its normal form have the same steps, with the same ways in the same order.
        """

    def kept(self, share: Callable[[Any], int], number: Callable[[Value], int]) -> Any:
        """Return all of `state()` as JSON data, for a search that is kept on disk; values stand as their numbers.

        `share` returns a number for a part that many memories have; `kept_part` is asked for its data.
        """
        raise NotImplementedError(f"memory model {self.name} cannot be kept on disk")

    def kept_part(self, part: Any, number: Callable[[Value], int]) -> Any:
        """Return a part that was shared as JSON data."""
        raise NotImplementedError(f"memory model {self.name} has no parts")

    def part_of(self, data: Any, value: Callable[[int], Value]) -> Any:
        """Return the part that `kept_part` gave this data of.

        Raises ValueError, TypeError, IndexError for other data.
        """
        raise NotImplementedError(f"memory model {self.name} has no parts")

    def of_kept(self, data: Any, parts: Sequence[Any], value: Callable[[int], Value]) -> MemoryModel:
        """Return the memory that `kept` gave this data of, a copy of this one in all else. Raises as `part_of` does."""
        raise NotImplementedError(f"memory model {self.name} cannot be kept on disk")

    @abstractmethod
    def contents(self) -> Mapping[Address, Value]:
        """Return the latest value of every location that may hold another one than 0: what `peek` returns."""

    @abstractmethod
    def peek(self, address: Address) -> Value:
        """Return a location's latest value that every CPU can see: for oracles."""

    def visible(self, cpu: int, address: Address) -> Value:
        """Return a location's latest value that a CPU can see: whether a waiter may go on."""
        return self.peek(address)

    def readable(self, cpu: int, address: Address) -> tuple[Value, ...]:
        """Return every value that a plain load by a CPU may return now: for oracles of what a CPU may still see."""
        return (self.visible(cpu, address),)

    def buffered(self, cpu: int) -> Sequence[tuple[Address, Value]]:
        """Return the stores of a CPU that are not in memory yet, location and value of each, the oldest first."""
        return ()

    def in_flight(self, address: Address) -> tuple[int, ...]:
        """Return the CPUs that stored after loading from the object at `address`, with nothing to order the two."""
        return ()

    def unfinished(self, cpu: int) -> Unfinished:
        """Return what a CPU has begun and not finished."""
        return NOTHING

    @classmethod
    def settles(cls, op: Operation, earlier: Operation) -> bool:
        """Return whether an operation is executed only once an earlier store, DC or IC of its CPU is in place."""
        return False

    @classmethod
    def orders_loads(cls, op: Operation) -> bool:
        """Return whether an operation, and all that follows it, is seen after the loads of its CPU that precede it."""
        return True

    def hold_code(self, address: Address) -> None:  # noqa: B027 - most models fetch from any location alike
        """Be told, before anything runs, that a location holds an instruction that is patched at run time."""

    @abstractmethod
    def load(self, cpu: int, op: Load | Await, choose: Choose) -> Value:
        """Execute a load; return the value."""

    @abstractmethod
    def store(self, cpu: int, op: Store, choose: Choose) -> None:
        """Execute a store."""

    @abstractmethod
    def rmw(self, cpu: int, op: Rmw, choose: Choose) -> Value:
        """Execute an atomic update; return the old value."""

    @abstractmethod
    def fence(self, cpu: int, op: Fence, choose: Choose) -> None:
        """Execute a barrier."""

    @abstractmethod
    def fetch(self, cpu: int, op: Fetch, choose: Choose) -> Value:
        """Fetch an instruction."""

    @abstractmethod
    def maintain(self, cpu: int, op: CacheMaintenance | Tlbi | InterruptAll, choose: Choose) -> None:
        """Execute cache or TLB maintenance, or an interrupt of all CPUs."""

    def agents(self) -> Sequence[int]:
        """Return the numbers of the model's own agents that can step now, each at least `cpus`."""
        return ()

    def step(self, agent: int, choose: Choose) -> None:
        """Let one of the model's own agents step."""
        raise NotImplementedError(f"memory model {self.name} has no agent {agent}")

    def owner(self, agent: int) -> int:
        """Return the CPU that one of the model's own agents works for."""
        raise NotImplementedError(f"memory model {self.name} has no agent {agent}")

    def forget(self, address: Address, size: int) -> None:  # noqa: B027 - what a model keeps, it keeps
        """Drop what is in the `size` locations from `address`, which no CPU will access again: for runs without end."""

    def synchronise(self) -> None:  # noqa: B027 - a model with nothing pending has nothing to do
        """Make all that was done so far visible to every CPU: the end of boot."""


def names() -> list[str]:
    """Return the names of the memory models that exist, `sc` first."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(found, key=lambda name: (name != "sc", name))


@functools.cache
def get(name: str) -> type[MemoryModel]:
    """Return the memory model of that name. Raises KeyError if there is none."""
    if name not in names():
        raise KeyError(name)
    model: type[MemoryModel] = importlib.import_module(f"{__name__}.{name}").MODEL
    return model


def searchable(name: str) -> bool:
    """Return whether a memory model says what its state is, which exhaustive search needs."""
    return get(name).state is not MemoryModel.state
