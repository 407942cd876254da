"""The visible operations of a CPU: what a generator yields, one scheduling point each.

A CPU's program is a generator. Every `yield` hands the machine one operation of this module and gets back its
response. What happens between two yields is local to the CPU: it cannot be interrupted and must not touch what
other CPUs can see. `Annotation` is the one thing that may be yielded without being a scheduling point.

Operations carry the ordering that the architecture gives them (plain, acquire, release, the kinds of DMB and DSB), and
what they depend on where that is known, so that one program runs under every memory model; a model ignores what it does
not distinguish.

`point` is the name of an operation in an algorithm, as experiments, counters and reports refer to it; '' for most. The
machine does not look at it.

Operations are values: nothing changes one after it was made. They are not declared frozen, because that makes
creating one, which every step does, four times as slow.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

Address: TypeAlias = int
"""Object number and offset in one integer, see `address_of`."""

Value: TypeAlias = Hashable
"""What a location holds: an integer, or an immutable value that one atomic operation replaces as a whole."""

OFFSET_BITS = 16
"""Bits of an address that count locations within one object; 64K pages need 8192 entries a table."""


def address_of(number: int, offset: int = 0) -> Address:
    """Return the address of location `offset` of the object with that number."""
    return (number << OFFSET_BITS) + offset


def object_of(address: Address) -> int:
    """Return the number of the object that an address lies in."""
    return address >> OFFSET_BITS


def offset_of(address: Address) -> int:
    """Return which location of its object an address names."""
    return address & ((1 << OFFSET_BITS) - 1)


class Order(enum.Enum):
    """Ordering of one memory access (Arm ARM B2.3; the kernel's `_acquire` and `_release` suffixes)."""

    # members are singletons; Enum's own hash is that of the name, a call of Python at each look into a set of orders
    __hash__ = object.__hash__

    PLAIN = "plain"
    ACQUIRE = "acquire"
    ACQUIRE_PC = "acquire-pc"
    RELEASE = "release"
    ACQUIRE_RELEASE = "acquire-release"


class Barrier(enum.Enum):
    """Kinds of barrier. x86's MFENCE is DMB_ISH; its serialising instructions are ISB."""

    __hash__ = object.__hash__

    DMB_ISH = "dmb ish"
    DMB_ISHLD = "dmb ishld"
    DMB_ISHST = "dmb ishst"
    DSB_ISH = "dsb ish"
    DSB_ISHLD = "dsb ishld"
    DSB_ISHST = "dsb ishst"
    ISB = "isb"


class CacheOperation(enum.Enum):
    """Cache maintenance by address, to the point of unification (Arm ARM D7.5)."""

    DC_CVAU = "dc cvau"
    IC_IVAU = "ic ivau"


class Dependencies(NamedTuple):
    """What an operation depends on, exactly: loads of the same CPU that precede it in program order (Arm ARM B2.3.2).

    A load is named by a token, a small integer that its program gives it with `token`, -1 for none. A name is given
    again once nothing depends on the load any more: `live` has the names that operations after this one may use.
    `address` are the loads that the address is computed from, `data` those that the value stored is computed from, and
    `control` those that a branch since the operation before depends on. `address_pick` and `data_pick` are the loads
    that conditional selects chose by (the `pick` dependencies of aarch64.cat), which order stores and no loads.
    """

    address: frozenset[int] = frozenset()
    data: frozenset[int] = frozenset()
    control: frozenset[int] = frozenset()
    address_pick: frozenset[int] = frozenset()
    data_pick: frozenset[int] = frozenset()
    token: int = -1
    live: frozenset[int] = frozenset()


class Condition(Protocol):
    """What a waiting operation waits for. Implementations are immutable and compare by value."""

    def __call__(self, value: Any, /) -> bool:
        """Return whether the operation may go on, given the latest value of its location."""

    def blocked_by(self, value: Any, /) -> tuple[int, ...]:
        """Return the CPUs that it waits for, given that value; the edges of a wait cycle."""


@dataclass(slots=True, unsafe_hash=True)
class Load:
    """Read a location; the response is its value."""

    address: Address
    order: Order = Order.PLAIN
    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class Store:
    """Write a location; no response."""

    address: Address
    value: Value
    order: Order = Order.PLAIN
    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class Rmw:
    """Replace a location's value by `update(value)` in one atomic step; the response is the old value.

    With `when`, the operation is enabled only while `when(value)` holds: a lock's slow path, without the spinning.
    `update` is a pure function of the old value. The read half carries the acquire, the write half the release.

    With `expected`, a tuple of one value, it is a compare-and-swap: it writes only if the value read is that one. If
    not, it is a load, which may read whatever a load may. `quiet` says that the program does not get the old value
    (STADD and its like), so that barriers that order loads do not order the read half.
    """

    address: Address
    update: Callable[[Any], Value]
    order: Order = Order.PLAIN
    when: Condition | None = None
    expected: tuple[Value] | None = field(default=None, repr=False)
    quiet: bool = field(default=False, repr=False)
    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class Await:
    """Read a location once `when(value)` holds; the response is the value that let it go on."""

    address: Address
    when: Condition
    order: Order = Order.PLAIN
    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class Fence:
    """A barrier of this CPU; no response."""

    kind: Barrier
    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class CacheMaintenance:
    """DC or IC for one code location; no response."""

    operation: CacheOperation
    address: Address
    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class Tlbi:
    """TLB invalidation, broadcast to the inner-shareable domain; no response.

    `operation` is the instruction's name in lower case, `virtual_address` what it names, in bytes.
    """

    operation: str
    virtual_address: int
    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class Fetch:
    """Fetch the instruction at a code location that is patched at run time; the response is the instruction."""

    address: Address
    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class InterruptAll:
    """An IPI to every other CPU that waits until all have taken it; each takes a context synchronisation event."""

    point: str = field(default="", repr=False, compare=False)
    depends: Dependencies | None = field(default=None, repr=False)


@dataclass(slots=True, unsafe_hash=True)
class Alloc:
    """Allocate an object of `size` locations, all zero; the response is the address of its first location.

    `label` says what the object is, for reports and oracles. Frames are handed out again, last freed first. `flags` is
    what the program asks of its allocator, in the program's own terms; the machine does not look at it.
    """

    size: int
    label: Hashable
    point: str = field(default="", repr=False, compare=False)
    flags: Hashable = field(default=None, repr=False, compare=False)


@dataclass(slots=True, unsafe_hash=True)
class Free:
    """Free the object that starts at `address`; no response."""

    address: Address
    point: str = field(default="", repr=False, compare=False)


class Annotation:
    """Something observers want to know, yielded where it happens. Not an operation: no scheduling point, no response.

    Subclasses are immutable and belong to the layer that understands them. One that has a `point` has it as operations
    have theirs: no part of equality.
    """

    __slots__ = ()
    point: str = ""


Operation: TypeAlias = (
    Load | Store | Rmw | Await | Fence | CacheMaintenance | Tlbi | Fetch | InterruptAll | Alloc | Free
)


def succeeds(op: Rmw, old: Value) -> bool:
    """Return whether an atomic update that has read a value writes as well."""
    return op.expected is None or op.expected[0] == old


T = TypeVar("T")
Steps: TypeAlias = Generator[Operation | Annotation, Any, T]
"""A function of a CPU's program: yields operations, gets their responses, returns a T."""

MAY_WAIT = (Await, Rmw)
"""Operations that may carry a condition, and wait until it holds."""
